"""One way to drive an env with the model itself, with its deployable form, and with what was exported."""

import ctypes
import os
import shutil
import subprocess
import tempfile
import warnings
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any, Protocol

import numpy as np
import torch as th
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
    :param option: the only one to use, of an AsymSAC model; by default its master chooses
    """

    def __init__(self, model: BaseAlgorithm, vec_normalize: VecNormalize | None = None, option: int | None = None):
        self.vec_normalize = vec_normalize
        if option is None:
            self._predict: Callable[..., Any] = model.predict
        else:
            policy: Any = model.policy
            self._predict = partial(policy.predict, choose=lambda _, n_obs: np.full(n_obs, option))
        self.reset()

    def reset(self) -> None:
        self.state: Any = None

    def step(self, observation: Observation) -> tuple[int, np.ndarray]:
        if self.vec_normalize is not None:
            observation = self.vec_normalize.normalize_obs(observation)
        action, self.state = self._predict(observation, self.state, deterministic=True)
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


class TorchScriptDriver(ReferenceDriver):
    """
    The networks traced by TorchScript; the options are held in Python.

    :param agent: in fp32
    """

    def __init__(self, agent: DeployableAgent):
        super().__init__(agent)
        example = th.zeros(1, agent.obs_dim)
        with warnings.catch_warnings():  # that weights become constants is what is wanted
            warnings.simplefilter("ignore", th.jit.TracerWarning)
            self._networks = [th.jit.trace(network.forward, example) for network in agent.networks]

    def step(self, observation: Observation) -> tuple[int, np.ndarray]:
        x = self.agent.normalize(self.agent.flatten(observation)[None])
        with th.inference_mode():
            if self.steps_left == 0:
                self.option = 0 if self.agent.master is None else int(self._networks[-1](x).argmax())
                self.steps_left = self.agent.option_length
            output = self._networks[self.option](x).numpy()
        self.steps_left -= 1
        return self.option, self.agent.as_actions(output)[0]


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
    The exported ``policy.onnx`` in ONNX Runtime, on one thread. Its inputs and outputs are bound to arrays once, which
    takes a third off the time of a step.

    :param agent: what was exported
    :param folder: with ``policy.onnx``
    """

    def __init__(self, agent: DeployableAgent, folder: Path):
        from sb3_asym.export.onnx import open_session

        self.agent = agent
        self._session = open_session(folder / "policy.onnx")
        self._binding = self._session.io_binding()
        self._arrays: dict[str, np.ndarray] = {}
        for bind, values in (
            (self._binding.bind_input, self._session.get_inputs()),
            (self._binding.bind_output, self._session.get_outputs()),
        ):
            for value in values:
                array = np.zeros(value.shape, dtype=np.int64 if value.type == "tensor(int64)" else np.float32)
                bind(value.name, "cpu", 0, array.dtype, array.shape, array.ctypes.data)
                self._arrays[value.name] = array
        self.reset()

    def reset(self) -> None:
        self._arrays["option_in"][:] = self._arrays["steps_left_in"][:] = 0

    def step(self, observation: Observation) -> tuple[int, np.ndarray]:
        for part in self.agent.observations:
            self._arrays[part.name][0] = observation[part.name] if isinstance(observation, dict) else observation
        self._session.run_with_iobinding(self._binding)
        for name in ("option", "steps_left"):
            self._arrays[f"{name}_in"][:] = self._arrays[name]
        return int(self._arrays["option"][0]), self._arrays["action"][0].copy()


def c_compiler() -> str:
    """
    :return: the C compiler that ``CC`` names, or the system's
    :raises FileNotFoundError: if there is none
    """
    for name in (os.environ.get("CC"), "cc", "gcc", "clang"):
        if name and shutil.which(name):
            return name
    raise FileNotFoundError("There is no C compiler here (tried $CC, cc, gcc, clang).")
