"""What an edge has done."""

from dataclasses import asdict, dataclass, field
from typing import Any

import numpy as np

from sb3_asym.cloud_edge.control import EdgePlan
from sb3_asym.cloud_edge.edge_memory import quantile
from sb3_asym.text_table import text_table


@dataclass(frozen=True)
class EdgeReport:
    """
    What an edge has done in a run.

    :param steps: control steps
    :param episodes: episodes that ended
    :param seconds: duration
    :param hz: deadlines per second, 0 for none
    :param is_fifo: whether control had real-time priority
    :param deadlines: number of deadlines
    :param missed: number of deadlines by which the command was not out, or more than a tenth of a period late
    :param most_missed_in_a_row: greatest number of deadlines that were missed in a row
    :param lateness: quantiles of the time from a deadline to its command, s: "p50", "p99", "p99.9", "max"
    :param policy_age: quantiles of the age of the policy that acted, over the steps, s: "p50", "p95", "p99"
    :param policy_version: version that acted last
    :param swaps: number of policies that acted
    :param arrivals: number of policies that came
    :param refused: number of policies that were refused
    :param torn: number of times that a policy was being written when control wanted to take it, and was left for later
    :param times_stale: how often the learner fell silent
    :param bad_steps: number of steps whose numbers were not finite, which ended their episodes
    :param restarts: how often each process died and was started anew
    :param in_outbox: number of batches that the learner has not confirmed yet
    :param kernel: what ran the networks
    :param precision: their precision
    """

    steps: int = 0
    episodes: int = 0
    seconds: float = 0.0
    hz: float = 0.0
    is_fifo: bool = False
    deadlines: int = 0
    missed: int = 0
    most_missed_in_a_row: int = 0
    lateness: dict[str, float] = field(default_factory=dict)
    policy_age: dict[str, float] = field(default_factory=dict)
    policy_version: int = 0
    swaps: int = 0
    arrivals: int = 0
    refused: int = 0
    torn: int = 0
    times_stale: int = 0
    bad_steps: int = 0
    restarts: dict[str, int] = field(default_factory=dict)
    in_outbox: int = 0
    kernel: str = ""
    precision: str = ""

    @classmethod
    def of(cls, state: np.void, plan: EdgePlan, seconds: float, restarts: dict[str, int], in_outbox: int) -> "EdgeReport":
        """
        The report of a run.

        :param state: what the processes counted
        :param plan: what they were told
        :param seconds: duration, s
        :param restarts: how often each was started anew
        :param in_outbox: number of batches in the outbox
        :return: the report
        """
        counted = ("steps", "episodes", "deadlines", "missed", "most_missed_in_a_row", "swaps", "arrivals", "refused", "torn")
        lateness = {f"p{100 * share:g}": quantile(state["lateness"], share) for share in (0.5, 0.99, 0.999)}
        return cls(
            seconds=seconds,
            hz=plan.hz,
            is_fifo=bool(state["is_fifo"]),
            lateness={**lateness, "max": int(state["worst_lateness"]) / 1e9},
            policy_age={f"p{100 * share:g}": quantile(state["policy_age"], share) for share in (0.5, 0.95, 0.99)},
            policy_version=int(state["version"]),
            times_stale=int(state["times_stale"]),
            bad_steps=int(state["bad_steps"]),
            restarts=restarts,
            in_outbox=in_outbox,
            kernel=plan.form.kernel,
            precision=plan.form.precision,
            **{name: int(state[name]) for name in counted},
        )

    def to_dict(self) -> dict[str, Any]:
        """The report as plain values, for JSON."""
        return asdict(self)

    def __str__(self) -> str:
        missed = f"{self.missed} of {self.deadlines} ({self.missed / max(self.deadlines, 1):.3%})"
        rows = [
            ("steps", f"{self.steps:,} in {self.episodes:,} episodes, {self.seconds:.0f} s"),
            ("networks", f"{self.kernel}, {self.precision}"),
            ("real-time priority", "yes" if self.is_fifo else "no"),
            ("deadlines missed", f"{missed}, at most {self.most_missed_in_a_row} in a row"),
            ("lateness", ", ".join(f"{name} {1e3 * value:.2f} ms" for name, value in self.lateness.items())),
            ("age of the policy", ", ".join(f"{name} {value:.2f} s" for name, value in self.policy_age.items())),
            ("policies", f"{self.swaps} acted, {self.arrivals} came, {self.refused} refused"),
            ("version of the policy", str(self.policy_version)),
            ("learner silent", f"{self.times_stale} times"),
            ("started anew", ", ".join(f"{name} {count}" for name, count in self.restarts.items())),
            ("batches not confirmed", str(self.in_outbox)),
        ]
        return text_table(("edge", ""), rows, n_left=2)
