"""The interface of an export format."""

from pathlib import Path
from typing import Protocol

import numpy as np

from sb3_asym.deployment.agent import DeployableAgent
from sb3_asym.deployment.recording import Recording
from sb3_asym.deployment.runners import Runner


class Format(Protocol):
    """
    Interface of an export format: what it writes, and how that is run and timed.

    :param name: name of the format, "c" or "onnx"
    """

    name: str

    def n_bytes(self, agent: DeployableAgent) -> dict[str, int]:
        """
        Size of each network in this format.

        :param agent: agent in any precision
        :return: bytes of each network's numbers, by the name of the network
        """

    def write(self, agent: DeployableAgent, recording: Recording, folder: Path) -> None:
        """
        Write the files of an agent.

        :param agent: agent to export, in any precision
        :param recording: steps for a self-test
        :param folder: folder to write to
        """

    def runner(self, agent: DeployableAgent, folder: Path) -> Runner:
        """
        Runner of an exported agent.

        :param agent: the exported agent
        :param folder: folder with the files
        :return: the runner
        """

    def latencies(self, agent: DeployableAgent, folder: Path, observations: np.ndarray) -> np.ndarray:
        """
        Time of each step of an exported agent, on one thread at batch size 1.

        :param agent: the exported agent
        :param folder: folder with the files
        :param observations: ``(n_steps, obs_dim)`` observations of an episode
        :return: ``(n_rounds * n_steps,)`` time of each step, ns
        """
