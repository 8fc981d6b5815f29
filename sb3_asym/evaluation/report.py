"""Report of an evaluation, for people and as plain data."""

from dataclasses import asdict, dataclass, replace
from typing import Any

from sb3_asym.text_table import text_table


@dataclass(frozen=True)
class EvaluationReport:
    """
    Return and cost of one way to choose the options. ``str(report)`` is a table that includes the comparisons.

    :param name: "agent" (the master chooses), "random switching", "<sub-policy> alone" or "λ = …"
    :param mean_reward: mean return of an episode
    :param std_reward: standard deviation of the return over the episodes
    :param n_episodes: number of episodes
    :param mean_length: mean length of an episode, env steps
    :param option_use: share of env steps in which each sub-policy acted
    :param flops_per_inference: mean FLOPs per env step, the master's share included
    :param flops_reduction: 1 − ``flops_per_inference`` ÷ FLOPs of the most expensive sub-policy alone
    :param mean_option_length: mean number of env steps between two choices
    :param switches_per_episode: mean number of changes of the sub-policy in an episode
    :param episode_rewards: return of each episode
    :param comparisons: reports of the other ways to choose the options, over episodes with the same seeds
    :param cost_coef: λ that the agent's dial was set to, or None
    """

    name: str
    mean_reward: float
    std_reward: float
    n_episodes: int
    mean_length: float
    option_use: dict[str, float]
    flops_per_inference: float
    flops_reduction: float
    mean_option_length: float
    switches_per_episode: float
    episode_rewards: tuple[float, ...]
    comparisons: tuple["EvaluationReport", ...] = ()
    cost_coef: float | None = None

    @property
    def macs_per_inference(self) -> float:
        """Mean MACs per env step: half of the FLOPs."""
        return self.flops_per_inference / 2

    def to_dict(self) -> dict[str, Any]:
        """
        The report and its comparisons as plain data.

        :return: all fields and ``macs_per_inference`` by name, ready for JSON
        """
        comparisons = [report.to_dict() for report in self.comparisons]
        own = {**asdict(replace(self, comparisons=())), "macs_per_inference": self.macs_per_inference}
        return {**own, "comparisons": comparisons}

    def __str__(self) -> str:
        names = list(self.option_use)
        header = ["", "return", "± std", *(f"{name} use" for name in names), "FLOPs", "MACs", "reduction", "switches"]
        rows = []
        for report in (self, *self.comparisons):
            numbers = [
                report.name,
                f"{report.mean_reward:.1f}",
                f"{report.std_reward:.1f}",
                *(f"{report.option_use[name]:.1%}" for name in names),
                f"{report.flops_per_inference:,.0f}",
                f"{report.macs_per_inference:,.0f}",
                f"{report.flops_reduction:.1%}",
                f"{report.switches_per_episode:.1f}",
            ]
            rows.append(numbers)
        note = f"{self.n_episodes} episodes each; FLOPs and MACs per inference, switches per episode."
        return f"{text_table(header, rows)}\n{note}"
