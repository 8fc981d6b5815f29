"""The interface of an export format."""

from pathlib import Path
from typing import Protocol

import numpy as np

from sb3_asym.deployment.agent import DeployableAgent
from sb3_asym.deployment.recording import Recording
from sb3_asym.deployment.runners import Runner


class Format(Protocol):
    """
    A format of an export.

    :param name: name of the format, "c" or "onnx"
    """

    name: str

    def n_bytes(self, agent: DeployableAgent) -> dict[str, int]:
        """
        Size of each network in this format.

        :param agent: the agent
        :return: bytes of each network's numbers, by its name
        """

    def write(self, agent: DeployableAgent, recording: Recording, folder: Path) -> None:
        """
        Write an agent.

        :param agent: the agent
        :param recording: steps for a self-test
        :param folder: folder to write to
        """

    def runner(self, agent: DeployableAgent, folder: Path) -> Runner:
        """
        A runner of an agent that was written.

        :param agent: the agent
        :param folder: folder with the files
        :return: the runner
        """

    def latencies(self, agent: DeployableAgent, folder: Path, observations: np.ndarray) -> np.ndarray:
        """
        Time of each step of an agent that was written, on one thread at batch 1.

        :param agent: the agent
        :param folder: folder with the files
        :param observations: ``(n_steps, obs_dim)`` of an episode
        :return: nanoseconds of each step
        """
