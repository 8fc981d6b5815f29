"""Comparison of an exported agent with its model: return in the loop, choices, actions, bytes."""

from dataclasses import asdict, dataclass, replace
from typing import Any

import numpy as np

from sb3_asym.deployment.agent import DeployableAgent
from sb3_asym.deployment.recording import Recording, replay
from sb3_asym.deployment.runners import Runner


@dataclass(frozen=True)
class ExportReport:
    """
    Comparison of an exported agent with the model that it was made from. ``str(report)`` is a text for people.

    :param format: format of the export, "c" or "onnx"
    :param precision: precision by network
    :param n_bytes: bytes of each network's numbers, by the name of the network
    :param fp32_bytes: bytes of each network's numbers in fp32, by the name of the network
    :param n_episodes: number of episodes of the exported agent, and of the model; 0 without an env
    :param mean_reward: mean return with the exported agent in the loop
    :param std_reward: standard deviation of that return over the episodes
    :param model_mean_reward: mean return of the model, over episodes with the same seeds
    :param model_std_reward: standard deviation of the model's return over the episodes
    :param choice_agreement: share of the master's choices that fp32 makes too for the same observation; None without a master
    :param mean_action_error: mean distance to the action of fp32, for the same option and observation; relative to the
        range of the action where it is bounded
    :param max_action_error: greatest distance to the action of fp32, for the same option and observation; relative to the
        range of the action where it is bounded
    :param time_over_fp32: time of a step ÷ time of a step of the same export in fp32; None for fp32 itself
    :param selftest_failures: number of the self-test's steps outside its tolerances on this machine; None if it was not run
    :param not_measured: reason why there is no figure of the exported agent, or ""
    """

    format: str
    precision: dict[str, str]
    n_bytes: dict[str, int]
    fp32_bytes: dict[str, int]
    n_episodes: int = 0
    mean_reward: float | None = None
    std_reward: float | None = None
    model_mean_reward: float | None = None
    model_std_reward: float | None = None
    choice_agreement: float | None = None
    mean_action_error: float | None = None
    max_action_error: float | None = None
    time_over_fp32: float | None = None
    selftest_failures: int | None = None
    not_measured: str = ""

    def with_returns(self, exported: np.ndarray, model: np.ndarray) -> "ExportReport":
        """
        The report with the returns of the exported agent and of the model.

        :param exported: ``(n_episodes,)`` returns with the exported agent in the loop
        :param model: ``(n_episodes,)`` returns of the model
        :return: report with the means and standard deviations of the returns
        """
        return replace(
            self,
            n_episodes=len(exported),
            mean_reward=float(exported.mean()),
            std_reward=float(exported.std()),
            model_mean_reward=float(model.mean()),
            model_std_reward=float(model.std()),
        )

    def to_dict(self) -> dict[str, Any]:
        """
        The report as plain data.

        :return: all fields by name, ready for JSON
        """
        return asdict(self)

    def __str__(self) -> str:
        lines = [
            f"{name}: {self.precision[name]}, {n_bytes:,} bytes ({n_bytes / self.fp32_bytes[name]:.0%} of fp32)"
            for name, n_bytes in self.n_bytes.items()
        ]
        if self.n_episodes:
            lines.append(
                f"return over {self.n_episodes} episodes: {self.mean_reward:.1f} ± {self.std_reward:.1f} exported, "
                f"{self.model_mean_reward:.1f} ± {self.model_std_reward:.1f} before"
            )
        if self.choice_agreement is not None:
            lines.append(f"the master's choices agree with fp32: {self.choice_agreement:.2%}")
        if self.mean_action_error is not None:
            lines.append(f"action error: {self.mean_action_error:.2g} mean, {self.max_action_error:.2g} at most")
        if self.selftest_failures:
            lines.append(
                f"{self.selftest_failures} steps of the self-test differ here: float32 may be too coarse for this agent"
            )
        if self.time_over_fp32 is not None:
            slower = ": slower than fp32 on this machine" if self.time_over_fp32 > 1 else ""
            lines.append(f"time of a step ÷ fp32's: {self.time_over_fp32:.2f}{slower}")
        if self.not_measured:
            lines.append(self.not_measured)
        return "\n".join(lines)


def tolerances(agent: DeployableAgent, actions: np.ndarray) -> np.ndarray:
    """
    Distances from the expected actions that a self-test allows to another processor.

    :param agent: the exported agent
    :param actions: ``(n_steps, action_dim)`` expected actions
    :return: ``(action_dim,)`` greatest allowed distances
    """
    # In int8, a number halfway between two integers may be rounded to the other one.
    tolerance = 0.02 if "int8" in {network.precision for network in agent.networks} else 1e-5
    return tolerance * np.maximum(1, np.abs(actions).max(0))


def count_failures(agent: DeployableAgent, runner: Runner, recording: Recording) -> int:
    """
    Number of recorded steps that an exported agent does not reproduce.

    :param agent: the exported agent
    :param runner: runner of the export
    :param recording: steps that the self-test replays
    :return: number of steps with another option, or with an action outside the tolerances
    """
    options, actions = replay(runner, agent, recording)
    within = np.abs(actions - recording.actions) <= tolerances(agent, recording.actions)
    return int(np.count_nonzero((options != recording.options) | ~within.all(1)))
