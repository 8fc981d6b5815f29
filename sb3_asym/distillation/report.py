"""What a distillation found, for people and as plain data."""

import csv
import json
from collections.abc import Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from sb3_asym.text_table import text_table


@dataclass(frozen=True)
class Candidate:
    """
    One agent with its cost and returns.

    :param name: such as "student [64, 64]", "teacher", "switching [16, 16] / teacher, λ = 0.3"
    :param kind: "teacher", "student", "switching", "random switching" or "int8"
    :param hidden: hidden layers of a fixed agent, or of each sub-policy of one that switches
    :param flops_per_inference: mean FLOPs per env step, the master's share included
    :param n_bytes: bytes of all its networks' numbers
    :param selection_reward: mean return over the episodes by which agents were chosen
    :param mean_reward: mean return over held-out episodes
    :param std_reward: its standard deviation over the episodes
    :param kept: share of the teacher's return that it keeps over the held-out episodes, see :func:`kept_share`
    :param use_of_largest: share of env steps in which the most expensive sub-policy acts
    :param on_front: whether no other agent returns more at no greater cost, random switching left out
    :param file: file of the agent in the output folder, or ""
    :param selection_error: standard error of the mean difference to the teacher's returns in the same selection episodes
    """

    name: str
    kind: str
    hidden: tuple[Any, ...]
    flops_per_inference: float
    n_bytes: int
    selection_reward: float
    mean_reward: float
    std_reward: float
    kept: float
    use_of_largest: float = 1.0
    on_front: bool = False
    file: str = ""
    selection_error: float = 0.0


@dataclass(frozen=True)
class DistillationReport:
    """
    The agents that came out of a distillation. ``str(report)`` is a table for people.

    :param env: Gymnasium id, or ""
    :param method: "dagger", "bc" or "gail"
    :param loss: loss of the students
    :param candidates: all agents, cheapest first; the teacher is among them
    :param chosen: name of the chosen agent, or ""
    :param reason: why it was chosen, or why none was
    :param verdict: whether switching was worth it, in words
    :param n_env_steps: env steps from which the students learned
    :param n_episodes: held-out episodes of each agent
    :param seconds: duration, s
    :param seed: seed
    :param versions: versions of the packages
    """

    env: str
    method: str
    loss: str
    candidates: tuple[Candidate, ...]
    chosen: str
    reason: str
    verdict: str
    n_env_steps: int
    n_episodes: int
    seconds: float
    seed: int
    versions: dict[str, str] = field(default_factory=dict)

    @property
    def teacher(self) -> Candidate:
        """The teacher."""
        return next(candidate for candidate in self.candidates if candidate.kind == "teacher")

    @property
    def best(self) -> Candidate | None:
        """The chosen agent."""
        return next((candidate for candidate in self.candidates if candidate.name == self.chosen), None)

    def to_dict(self) -> dict[str, Any]:
        """
        The report.

        :return: everything as plain data, ready for JSON
        """
        return asdict(self)

    def __str__(self) -> str:
        teacher = self.teacher
        rows = []
        for candidate in self.candidates:
            numbers = [
                ("* " if candidate.name == self.chosen else "  ") + candidate.name,
                f"{candidate.flops_per_inference:,.0f}",
                f"{candidate.flops_per_inference / teacher.flops_per_inference:.2%}",
                f"{candidate.mean_reward:.1f}",
                f"{candidate.std_reward:.1f}",
                f"{candidate.kept:.1%}",
                f"{candidate.n_bytes:,}",
                "yes" if candidate.on_front else "",
            ]
            rows.append(numbers)
        header = ["", "FLOPs", "of the teacher", "return", "± std", "kept", "bytes", "front"]
        notes = [
            f"{self.n_episodes} held-out episodes each, {self.n_env_steps:,} env steps of learning, {self.seconds:.0f} s."
        ]
        return "\n".join([text_table(header, rows), *notes, self.reason, *filter(None, [self.verdict])])

    def write(self, folder: Path) -> None:
        """
        Write ``report.json`` and ``report.csv``.

        :param folder: folder to write to
        """
        (folder / "report.json").write_text(json.dumps(self.to_dict(), indent=2) + "\n", encoding="utf-8")
        with (folder / "report.csv").open("w", newline="", encoding="utf-8") as file:
            rows = [asdict(candidate) for candidate in self.candidates]
            writer = csv.DictWriter(file, list(rows[0]))
            writer.writeheader()
            writer.writerows(rows)


def kept_share(reward: float, teacher_reward: float) -> float:
    r"""
    Share of the teacher's return that an agent keeps: :math:`1 - (R_\mathrm{teacher} - R) / |R_\mathrm{teacher}|`. For
    negative returns, too, 0.98 means a loss of 2 % of the return's size.

    :param reward: mean return of the agent
    :param teacher_reward: mean return of the teacher
    :return: the share; above 1 where the agent returns more
    """
    return 1 - (teacher_reward - reward) / max(abs(teacher_reward), 1e-9)


def surely_kept(candidate: Candidate, teacher: Candidate) -> float:
    """
    Share of the return that an agent keeps over the selection episodes, less one standard error: of many agents that do about
    as well, the one that happens to look best is not the best.

    :param candidate: the agent
    :param teacher: the teacher
    :return: the share
    """
    return kept_share(candidate.selection_reward - candidate.selection_error, teacher.selection_reward)


def front(points: Sequence[tuple[float, float]]) -> list[bool]:
    """
    The Pareto front of cost and return.

    :param points: FLOPs and return of each agent
    :return: for each, True if no other returns at least as much at no greater cost
    """
    flops, rewards = np.array(points).reshape(-1, 2).T
    on_front = []
    for cost, reward in points:
        better = (flops <= cost) & (rewards >= reward) & ((flops < cost) | (rewards > reward))
        on_front.append(not better.any())
    return on_front
