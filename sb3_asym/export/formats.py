"""The formats of an export: how each is written, driven and timed."""

import subprocess
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Protocol

import numpy as np

from sb3_asym.export.agent import DeployableAgent
from sb3_asym.export.c import fill, write_c
from sb3_asym.export.drivers import C_FLAGS, CDriver, Driver, OnnxDriver, c_compiler
from sb3_asym.export.recording import Recording

N_ROUNDS = 20


class Format(Protocol):
    """
    A format of an export.

    :param name: "c" or "onnx"
    """

    name: str

    def n_bytes(self, agent: DeployableAgent) -> dict[str, int]:
        """
        :param agent: what to write
        :return: bytes of each network's numbers, by its name
        """

    def write(self, agent: DeployableAgent, recording: Recording, folder: Path) -> None:
        """
        :param agent: what to write
        :param recording: for a self-test
        :param folder: where to
        """

    def driver(self, agent: DeployableAgent, folder: Path) -> Driver:
        """
        :param agent: what was written
        :param folder: where it is
        :return: what drives an env with it
        """

    def latencies(self, agent: DeployableAgent, folder: Path, observations: np.ndarray) -> np.ndarray:
        """
        :param agent: what was written
        :param folder: where it is
        :param observations: ``(n_steps, obs_dim)`` of an episode
        :return: nanoseconds of each step, on one thread, batch 1
        """


class CFormat:
    """
    C99.

    :param prefix: of the names
    """

    name = "c"

    def __init__(self, prefix: str = "asym"):
        self.prefix = prefix

    def n_bytes(self, agent: DeployableAgent) -> dict[str, int]:
        return agent.n_bytes

    def write(self, agent: DeployableAgent, recording: Recording, folder: Path) -> None:
        write_c(agent, recording, folder, self.prefix)

    def driver(self, agent: DeployableAgent, folder: Path) -> Driver:
        return CDriver(agent, folder, self.prefix)

    def latencies(self, agent: DeployableAgent, folder: Path, observations: np.ndarray) -> np.ndarray:
        with tempfile.TemporaryDirectory() as build:
            command = self.replay_command(folder, Path(build), observations, N_ROUNDS)
            printed = subprocess.run(command, check=True, capture_output=True, text=True).stdout
        return np.array(printed.split(), dtype=np.float64)

    def source(self, folder: Path) -> Path:
        """
        :param folder: with the code
        :return: the file that has the agent
        """
        return folder / f"{self.prefix}_policy.c"

    def replay_command(
        self, folder: Path, build: Path, observations: np.ndarray, n_rounds: int, compiler: Sequence[str] | None = None
    ) -> list[str]:
        """
        :param folder: with the code
        :param build: where the program goes
        :param observations: ``(n_steps, obs_dim)``
        :param n_rounds: how often they are replayed
        :param compiler: with its flags; the system's by default, to be fast on this machine
        :return: the command that replays them and prints the time of each step; with one more argument it only replays
        """
        compiler = compiler or (c_compiler(), *C_FLAGS)
        (build / "replay.c").write_text(fill("replay.c", prefix=self.prefix, PREFIX=self.prefix.upper()))
        observations.astype(np.float32).tofile(build / "observations")
        sources = [build / "replay.c", self.source(folder)]
        subprocess.run([*compiler, "-I", folder, *sources, "-o", build / "replay", "-lm"], check=True)
        return [str(build / "replay"), str(build / "observations"), str(len(observations)), str(n_rounds)]


class OnnxFormat:
    """ONNX."""

    name = "onnx"

    def n_bytes(self, agent: DeployableAgent) -> dict[str, int]:
        from sb3_asym.export.onnx import network_bytes

        return {network.name: network_bytes(network) for network in agent.networks}

    def write(self, agent: DeployableAgent, recording: Recording, folder: Path) -> None:
        from sb3_asym.export.onnx import write_onnx

        write_onnx(agent, folder)

    def driver(self, agent: DeployableAgent, folder: Path) -> Driver:
        return OnnxDriver(agent, folder)

    def latencies(self, agent: DeployableAgent, folder: Path, observations: np.ndarray) -> np.ndarray:
        return driver_latencies(OnnxDriver(agent, folder), agent, observations)


def driver_latencies(driver: Driver, agent: DeployableAgent, observations: np.ndarray) -> np.ndarray:
    """
    :param driver: who drives, from Python
    :param agent: knows how observations are flattened
    :param observations: ``(n_steps, obs_dim)`` of an episode
    :return: nanoseconds of each step; the first round, which warms up, is left out
    """
    steps = [agent.unflatten(observation) for observation in observations]
    times = []
    for _ in range(4):
        driver.reset()
        for step in steps:
            start = time.perf_counter_ns()
            driver.step(step)
            times.append(time.perf_counter_ns() - start)
    return np.array(times[len(steps) :], dtype=np.float64)
