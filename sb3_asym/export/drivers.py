"""One way to drive an env with the model itself, with its deployable form, and with what was exported."""

import ctypes
import os
import shutil
import subprocess
import tempfile
from pathlib import Path
from typing import Any, Protocol

import numpy as np
from stable_baselines3.common.base_class import BaseAlgorithm
from stable_baselines3.common.vec_env import VecNormalize

from sb3_asym.export.agent import DeployableAgent

Observation = np.ndarray | dict[str, np.ndarray]
C_FLAGS = ("-std=c99", "-O3", "-march=native")


class Driver(Protocol):
    """Picks options and actions, and holds the option state of one episode."""

    def reset(self) -> None:
        """An episode starts."""

    def step(self, observation: Observation) -> tuple[int, np.ndarray]:
        """
        :param observation: one, as the env gives it
        :return: option used and ``(action_dim,)`` action
        """


class ModelDriver:
    """
    The model's own ``predict``, deterministic.

    :param model: an SB3 model
    :param vec_normalize: what normalizes its observations
    """

    def __init__(self, model: BaseAlgorithm, vec_normalize: VecNormalize | None = None):
        self.model, self.vec_normalize = model, vec_normalize
        self.reset()

    def reset(self) -> None:
        self.state: Any = None

    def step(self, observation: Observation) -> tuple[int, np.ndarray]:
        if self.vec_normalize is not None:
            observation = self.vec_normalize.normalize_obs(observation)
        action, self.state = self.model.predict(observation, self.state, deterministic=True)
        option = 0 if self.state is None else int(self.state[0][0])
        return option, np.ravel(action).astype(np.float32)


class ReferenceDriver:
    """
    The deployable form, in torch.

    :param agent: in any precision
    """

    def __init__(self, agent: DeployableAgent):
        self.agent = agent
        self.reset()

    def reset(self) -> None:
        self.option, self.steps_left = 0, 0

    def step(self, observation: Observation) -> tuple[int, np.ndarray]:
        flat = self.agent.flatten(observation)[None]
        if self.steps_left == 0:
            self.option, self.steps_left = int(self.agent.choices(flat)[0]), self.agent.option_length
        self.steps_left -= 1
        return self.option, self.agent.actions(flat, np.array([self.option]))[0]


class CDriver:
    """
    The exported C code, compiled here into a library.

    :param agent: what was exported
    :param folder: with the code
    :param prefix: of its names
    :raises FileNotFoundError: if there is no C compiler
    """

    def __init__(self, agent: DeployableAgent, folder: Path, prefix: str = "asym"):
        self.agent = agent
        self._build = tempfile.TemporaryDirectory()
        library = Path(self._build.name) / "policy.so"
        source = folder / f"{prefix}_policy.c"
        subprocess.run([c_compiler(), *C_FLAGS, "-shared", "-fPIC", "-o", library, source, "-lm"], check=True)
        loaded = ctypes.CDLL(str(library))
        self._reset, self._step = loaded[f"{prefix}_reset"], loaded[f"{prefix}_step"]

        class State(ctypes.Structure):
            _fields_ = [("option", ctypes.c_int), ("steps_left", ctypes.c_int), ("action", ctypes.c_float * agent.action_dim)]

        self._state, self._action = State(), np.zeros(agent.action_dim, dtype=np.float32)
        self.reset()

    def reset(self) -> None:
        self._reset(ctypes.byref(self._state))

    def step(self, observation: Observation) -> tuple[int, np.ndarray]:
        flat = self.agent.flatten(observation)
        pointers = (ctypes.c_void_p(array.ctypes.data) for array in (flat, self._action))
        option = self._step(ctypes.byref(self._state), *pointers)
        return option, self._action.copy()


class OnnxDriver:
    """
    The exported ``policy.onnx`` in ONNX Runtime, on one thread.

    :param agent: what was exported
    :param folder: with ``policy.onnx``
    """

    def __init__(self, agent: DeployableAgent, folder: Path):
        from sb3_asym.export.onnx import open_session

        self.agent = agent
        self._session = open_session(folder / "policy.onnx")
        self.reset()

    def reset(self) -> None:
        self._state = {name: np.zeros(1, dtype=np.int64) for name in ("option_in", "steps_left_in")}

    def step(self, observation: Observation) -> tuple[int, np.ndarray]:
        feeds: dict[str, np.ndarray] = dict(self._state)
        for part in self.agent.observations:
            value = observation[part.name] if isinstance(observation, dict) else observation
            feeds[part.name] = np.asarray(value, dtype=np.float32)[None]
        action, option, steps_left = self._session.run(None, feeds)
        self._state = {"option_in": option, "steps_left_in": steps_left}
        return int(option[0]), np.ravel(action)


def c_compiler() -> str:
    """
    :return: the C compiler that ``CC`` names, or the system's
    :raises FileNotFoundError: if there is none
    """
    for name in (os.environ.get("CC"), "cc", "gcc", "clang"):
        if name and shutil.which(name):
            return name
    raise FileNotFoundError("There is no C compiler here (tried $CC, cc, gcc, clang).")
