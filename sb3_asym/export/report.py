"""What an export does to the agent: return with the exported agent in the loop, choices, actions, bytes."""

from dataclasses import asdict, dataclass, replace
from typing import Any

import numpy as np

from sb3_asym.deployment.agent import DeployableAgent
from sb3_asym.deployment.recording import Recording, replay
from sb3_asym.deployment.runners import Runner


@dataclass(frozen=True)
class ExportReport:
    """
    An exported agent beside the model that it was made from. ``str(report)`` is a text for people.

    :param format: "c" or "onnx"
    :param precision: by network
    :param n_bytes: bytes of the numbers of each network
    :param fp32_bytes: likewise in fp32
    :param n_episodes: episodes of each of both; 0 where no env was named
    :param mean_reward: mean return with the exported agent in the loop
    :param std_reward: its standard deviation over the episodes
    :param model_mean_reward: mean return of the model itself, over episodes with the same seeds
    :param model_std_reward: its standard deviation
    :param choice_agreement: share of the master's choices that are those of fp32 for the same observation; None without one
    :param mean_action_error: mean distance to the action of fp32, of the same option for the same observation; relative
        to the range of the action where it is bounded
    :param max_action_error: the greatest such distance
    :param time_over_fp32: time of a step ÷ that of the same export in fp32; None for fp32 itself
    :param selftest_failures: steps of the self-test's that differ here by more than it allows; None if it was not run
    :param not_measured: why there is no figure of the exported agent, or ""
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
        :param exported: ``(n_episodes,)`` returns with the exported agent in the loop
        :param model: ``(n_episodes,)`` returns of the model
        :return: the report with their means and standard deviations
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
        :return: everything as plain data, ready for JSON
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


def errors(agent: DeployableAgent, recording: Recording) -> dict[str, Any]:
    """
    :param agent: in fp32
    :param recording: what the exported agent did
    :return: ``choice_agreement``, ``mean_action_error`` and ``max_action_error`` of :class:`ExportReport`
    """
    asked = recording.choices(agent.option_length)
    agreement = (agent.choices(recording.observations[asked]) == recording.options[asked]).mean()
    distance = np.abs(agent.actions(recording.observations, recording.options) - recording.actions)
    with np.errstate(over="ignore", invalid="ignore"):
        span = agent.high - agent.low
    distance = distance / np.where(np.isfinite(span) & (span > 0), span, 1)
    return {
        "choice_agreement": None if agent.master is None else float(agreement),
        "mean_action_error": float(distance.mean()),
        "max_action_error": float(distance.max()),
    }


def tolerances(agent: DeployableAgent, actions: np.ndarray) -> np.ndarray:
    """
    :param agent: that was exported
    :param actions: ``(n_steps, action_dim)`` that a self-test expects
    :return: ``(action_dim,)`` by how much another processor may miss them
    """
    # In int8, a number between two integers may be rounded to the other one.
    tolerance = 0.02 if "int8" in {network.precision for network in agent.networks} else 1e-5
    return tolerance * np.maximum(1, np.abs(actions).max(0))


def count_failures(agent: DeployableAgent, runner: Runner, recording: Recording) -> int:
    """
    :param agent: that was exported
    :param runner: runner of the export
    :param recording: what its self-test replays
    :return: steps in which option or action are not as recorded
    """
    options, actions = replay(runner, agent, recording)
    within = np.abs(actions - recording.actions) <= tolerances(agent, recording.actions)
    return int(np.count_nonzero((options != recording.options) | ~within.all(1)))
