"""Exported C on this machine: compiled, run and timed."""

import ctypes
import os
import shutil
import subprocess
import tempfile
from collections.abc import Sequence
from pathlib import Path

import numpy as np

from sb3_asym.deployment.agent import DeployableAgent
from sb3_asym.deployment.recording import Recording
from sb3_asym.deployment.runners import Observation, Runner
from sb3_asym.export.c import fill, write_c

C_FLAGS = ("-std=c99", "-O3", "-march=native")
N_ROUNDS = 20


class CFormat:
    """
    C99 as a :class:`sb3_asym.export.format.Format`.

    :param prefix: prefix of the names in the code
    """

    name = "c"

    def __init__(self, prefix: str = "asym"):
        self.prefix = prefix

    def n_bytes(self, agent: DeployableAgent) -> dict[str, int]:
        """Bytes of each network's numbers in C, by the name of the network."""
        return agent.n_bytes

    def write(self, agent: DeployableAgent, recording: Recording, folder: Path) -> None:
        """Write the header, the source and the self-test."""
        write_c(agent, recording, folder, self.prefix)

    def runner(self, agent: DeployableAgent, folder: Path) -> Runner:
        """Runner of the C code in a folder."""
        return CRunner(agent, folder, self.prefix)

    def latencies(self, agent: DeployableAgent, folder: Path, observations: np.ndarray) -> np.ndarray:
        """Time of each step of the C code in a folder, ns, over several rounds."""
        with tempfile.TemporaryDirectory() as build:
            command = self.replay_command(folder, Path(build), observations, N_ROUNDS)
            printed = subprocess.run(command, check=True, capture_output=True, text=True).stdout
        return np.array(printed.split(), dtype=np.float64)

    def source(self, folder: Path) -> Path:
        """
        Path to the C source of the agent.

        :param folder: folder with the code
        :return: path to ``<prefix>_policy.c``
        """
        return folder / f"{self.prefix}_policy.c"

    def replay_command(
        self, folder: Path, build: Path, observations: np.ndarray, n_rounds: int, compiler: Sequence[str] | None = None
    ) -> list[str]:
        """
        Build a program that replays observations and prints the time of each step; with one more argument it only replays.

        :param folder: folder with the code
        :param build: folder for the program
        :param observations: ``(n_steps, obs_dim)`` observations of an episode
        :param n_rounds: number of rounds over the observations
        :param compiler: compiler and its flags; by default the system's, with optimization for this machine
        :return: program and arguments
        """
        compiler = compiler or (c_compiler(), *C_FLAGS)
        (build / "replay.c").write_text(fill("replay.c", prefix=self.prefix, PREFIX=self.prefix.upper()))
        observations.astype(np.float32).tofile(build / "observations")
        sources = [build / "replay.c", self.source(folder)]
        subprocess.run([*compiler, "-I", folder, *sources, "-o", build / "replay", "-lm"], check=True)
        return [str(build / "replay"), str(build / "observations"), str(len(observations)), str(n_rounds)]


class CRunner:
    """
    Runner of the exported C code, compiled here into a library.

    :param agent: the agent that was exported
    :param folder: folder with the code
    :param prefix: prefix of the names in the code
    :raises FileNotFoundError: if there is no C compiler
    """

    def __init__(self, agent: DeployableAgent, folder: Path, prefix: str = "asym"):
        self.agent = agent
        self._build = tempfile.TemporaryDirectory()
        library = Path(self._build.name) / "policy.so"
        compile_library(folder / f"{prefix}_policy.c", library)
        loaded = ctypes.CDLL(str(library))
        self._reset, self._step = loaded[f"{prefix}_reset"], loaded[f"{prefix}_step"]

        n_dial = 0
        if agent.dial is not None:
            n_dial = 2 + len(agent.dial.column) + len(agent.dial.prices)
            self._set_cost_coef, self._set_budget = loaded[f"{prefix}_set_cost_coef"], loaded[f"{prefix}_set_budget"]

        class State(ctypes.Structure):
            _fields_ = [
                ("option", ctypes.c_int),
                ("steps_left", ctypes.c_int),
                ("action", ctypes.c_float * agent.action_dim),
                ("dial", ctypes.c_float * n_dial),
            ]

        self._state, self._action = State(), np.zeros(agent.action_dim, dtype=np.float32)
        self.reset()

    def reset(self, budget: bool = False) -> None:
        """
        Start an episode.

        :param budget: whether to steer λ for the agent's budget, if it has one, as the code does by itself; else λ stays until
            a budget is set
        """
        self._reset(ctypes.byref(self._state))
        if self.agent.dial is not None and not budget:
            self.set_budget(0.0)

    def begin_episode(self) -> None:
        """Start an episode, and go on with λ."""
        self._state.steps_left = 0

    def set_cost_coef(self, cost_coef: float) -> int:
        """
        Choose under another λ until the next reset, where the agent has a dial.

        :param cost_coef: λ, return per env step of the most expensive sub-policy
        :return: 0, or the code of an error
        """
        assert self.agent.dial is not None, "The agent has no dial."
        return self._set_cost_coef(ctypes.byref(self._state), ctypes.c_float(cost_coef))

    def set_budget(self, budget: float) -> int:
        """
        Steer λ for a budget until the next reset, where the agent has a dial.

        :param budget: mean cost per env step, as a share of the largest sub-policy's FLOPs; 0 for none
        :return: 0, or the code of an error
        """
        assert self.agent.dial is not None, "The agent has no dial."
        return self._set_budget(ctypes.byref(self._state), ctypes.c_float(budget))

    def step(self, observation: Observation) -> tuple[int, np.ndarray]:
        """Option in force and action for an observation."""
        flat = self.agent.flatten(observation)
        pointers = (ctypes.c_void_p(array.ctypes.data) for array in (flat, self._action))
        option = self._step(ctypes.byref(self._state), *pointers)
        return option, self._action.copy()


def compile_library(source: Path, library: Path) -> None:
    """
    Compile C code for this machine's processor.

    :param source: the code
    :param library: shared library to write
    :raises FileNotFoundError: if there is no C compiler
    """
    subprocess.run([c_compiler(), *C_FLAGS, "-shared", "-fPIC", "-o", library, source, "-lm"], check=True)


def c_compiler() -> str:
    """
    Name of this machine's C compiler.

    :return: the compiler that ``CC`` names, or the system's
    :raises FileNotFoundError: if there is none
    """
    for name in (os.environ.get("CC"), "cc", "gcc", "clang"):
        if name and shutil.which(name):
            return name
    raise FileNotFoundError("There is no C compiler here (tried $CC, cc, gcc, clang).")
