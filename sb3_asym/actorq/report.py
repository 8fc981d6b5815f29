"""What a run with actors spent its time on."""

from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np

from sb3_asym.actorq.actor import PARTS
from sb3_asym.text_table import text_table
from sb3_asym.versions import versions


@dataclass(frozen=True)
class ActorQReport:
    """
    Time of actors and learner in a call of ``learn``.

    :param engine: engine of the actors
    :param kernel: what ran their networks
    :param precision: precision in which they ran
    :param n_steps: env steps that the learner took
    :param seconds: time of the call, s
    :param actors: seconds of each actor by part: ``inference``, ``env``, ``pull`` (copying new weights), ``load`` (taking them
        into the kernel), ``push`` (handing over a transition), ``wait`` (for the learner)
    :param learner: seconds of the learner by part: ``sample``, ``update``, ``pack`` (converting the policy), ``publish``,
        ``wait`` (for transitions), and ``rest``: SB3's loop, storing and callbacks
    :param n_versions: number of versions of the policy that were published
    :param age_in_versions: mean number of versions by which a policy was old when its transition was learned from
    :param age_in_steps: the same in env steps
    :param n_replaced: number of actors that died and were replaced
    """

    engine: str
    kernel: str
    precision: str
    n_steps: int
    seconds: float
    actors: list[dict[str, float]]
    learner: dict[str, float]
    n_versions: int
    age_in_versions: float
    age_in_steps: float
    n_replaced: int

    @property
    def steps_per_second(self) -> float:
        """Env steps that the learner took, per second."""
        return self.n_steps / max(self.seconds, 1e-9)

    def shares(self) -> dict[str, float]:
        """
        Shares of the time.

        :return: shares by ``actor_<part>``, of all actors' time, and by ``learner_<part>``, of the learner's
        """
        totals = {part: sum(actor[part] for actor in self.actors) for part in PARTS}
        whole, learned = max(sum(totals.values()), 1e-9), max(sum(self.learner.values()), 1e-9)
        return {
            **{f"actor_{part}": seconds / whole for part, seconds in totals.items()},
            **{f"learner_{part}": seconds / learned for part, seconds in self.learner.items()},
        }

    def to_dict(self) -> dict[str, Any]:
        """
        The report as plain data.

        :return: values by name, with the versions of the libraries
        """
        return {**asdict(self), "steps_per_second": self.steps_per_second, "versions": versions()}

    def __str__(self) -> str:
        rows = []
        for i, parts in enumerate([*self.actors, self.learner]):
            name = f"actor {i}" if i < len(self.actors) else "learner"
            whole = max(sum(parts.values()), 1e-9)
            rows += [
                [name if j == 0 else "", part, f"{s:.2f}", f"{s / whole:.1%}"] for j, (part, s) in enumerate(parts.items())
            ]
        table = text_table(["", "part", "seconds", "share"], rows, n_left=2)
        return (
            f"{table}\n{self.n_steps:,} env steps in {self.seconds:.1f} s: {self.steps_per_second:,.0f} per second. "
            f"Actors in {self.precision} ({self.kernel}, {self.engine}), {self.n_replaced} replaced. "
            f"{self.n_versions} versions; a transition's policy was {self.age_in_versions:.1f} versions, "
            f"{self.age_in_steps:.0f} env steps old."
        )

    def draw(self, path: str | Path) -> None:
        """
        Draw a bar for each actor and the learner, with its time by part. Needs the extra ``plots`` (matplotlib).

        :param path: file to write
        """
        from matplotlib.figure import Figure

        names = [*(f"actor {i}" for i in range(len(self.actors))), "learner"]
        figure = Figure(figsize=(8, 0.5 * len(names) + 1.5), layout="constrained")
        axes = figure.subplots()
        all_parts = dict.fromkeys([*PARTS, *self.learner])
        left = np.zeros(len(names))
        for color, part in enumerate(all_parts):
            widths = np.array([parts.get(part, 0.0) for parts in (*self.actors, self.learner)])
            axes.barh(names, widths, left=left, label=part, color=f"C{color % 10}", alpha=1 if color < 10 else 0.5)
            left += widths
        axes.invert_yaxis()
        axes.set(xlabel="seconds", title=f"{self.precision} actors: {self.steps_per_second:,.0f} env steps per second")
        axes.legend(ncols=6, fontsize=7, loc="upper center", bbox_to_anchor=(0.5, -0.2))
        figure.savefig(path, dpi=110)
