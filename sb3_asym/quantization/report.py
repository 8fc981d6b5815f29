"""What a sweep over quantization schemes found, for people and as plain data."""

import csv
import json
from collections.abc import Iterable
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from sb3_asym.text_table import text_table

N_RESAMPLES = 10_000


@dataclass(frozen=True)
class LayerWeights:
    """
    The weights of a layer, and what quantization does to them.

    :param width: width of their distribution in fp32, the greatest less the least
    :param error: mean distance of a quantized weight to its own in fp32
    """

    width: float
    error: float


@dataclass(frozen=True)
class Form:
    """
    An agent in one scheme.

    :param scheme: name of the scheme; "fp32" is the agent as it was
    :param n_bytes: bytes of all its networks' numbers, with packed bits, scales, zero points and biases
    :param mean_reward: mean return
    :param std_reward: standard deviation of the return over the episodes
    :param relative_error: (return of fp32 - return) ÷ size of the return of fp32, as in QuaRL; negative where it returns more
    :param error_interval: 95 % interval of the relative error, from the differences of episodes with the same seed
    :param action_error: mean distance of its actions to those of fp32 for the same observations, relative to the range of the
        action where it is bounded; None where actions are discrete
    :param choices_as_before: share of the observations at which a discrete agent, or the master of an agent that switches,
        chooses as in fp32; None for others
    :param layers: weights of each layer
    """

    scheme: str
    n_bytes: int
    mean_reward: float
    std_reward: float
    relative_error: float
    error_interval: tuple[float, float]
    action_error: float | None
    choices_as_before: float | None
    layers: tuple[LayerWeights, ...]


@dataclass(frozen=True)
class SweepReport:
    """
    An agent in several schemes. ``str(report)`` is a table for people.

    :param env: Gymnasium id, or ""
    :param algorithm: class name of the model
    :param forms: the agent in each scheme, largest first; fp32 is among them
    :param tolerance: relative error that is allowed
    :param smallest: scheme of the smallest form within the tolerance
    :param smallest_exported: scheme of the smallest of those that ``sb3-asym export`` writes; "" for agents that see images
    :param n_episodes: episodes of each form, with the same seeds
    :param seconds: duration, s
    :param seed: seed of the first episode
    :param versions: versions of the packages
    """

    env: str
    algorithm: str
    forms: tuple[Form, ...]
    tolerance: float
    smallest: str
    smallest_exported: str
    n_episodes: int
    seconds: float
    seed: int
    versions: dict[str, str] = field(default_factory=dict)

    def form(self, scheme: str) -> Form:
        """
        The agent in one scheme.

        :param scheme: name of the scheme
        :return: its form
        :raises KeyError: if the scheme was not measured
        """
        for form in self.forms:
            if form.scheme == scheme:
                return form
        raise KeyError(scheme)

    def to_dict(self) -> dict[str, Any]:
        """
        The report.

        :return: everything as plain data, ready for JSON
        """
        return asdict(self)

    def __str__(self) -> str:
        rows = []
        for form in self.forms:
            low, high = form.error_interval
            choices = "" if form.choices_as_before is None else f"{form.choices_as_before:.1%}"
            rows.append(
                [
                    ("* " if form.scheme == self.smallest else "  ") + form.scheme,
                    f"{form.n_bytes:,}",
                    f"{form.n_bytes / self.form('fp32').n_bytes:.1%}",
                    f"{form.mean_reward:.1f}",
                    f"{form.std_reward:.1f}",
                    f"{form.relative_error:+.1%}",
                    f"{low:+.1%} to {high:+.1%}",
                    "" if form.action_error is None else f"{form.action_error:.2g}",
                    choices,
                ]
            )
        header = ["", "bytes", "of fp32", "return", "± std", "error", "95 % interval", "action error", "choices as before"]
        best = self.form(self.smallest)
        verdict = (
            f"The smallest form within {self.tolerance:.1%} of the return is {best.scheme}: {best.n_bytes:,} bytes, "
            f"{best.n_bytes / self.form('fp32').n_bytes:.1%} of fp32, error {best.relative_error:+.1%}."
        )
        if best.error_interval[1] > self.tolerance:
            verdict += f" Its interval reaches {best.error_interval[1]:+.1%}: more episodes would tell."
        if self.smallest_exported not in ("", self.smallest):
            verdict += f" Of those that can be exported, it is {self.smallest_exported}."
        return "\n".join([text_table(header, rows), f"{self.n_episodes} episodes each, {self.seconds:.0f} s.", verdict])

    def write(self, folder: Path) -> None:
        """
        Write ``report.json`` and ``report.csv``.

        :param folder: folder to write to
        """
        (folder / "report.json").write_text(json.dumps(self.to_dict(), indent=2) + "\n", encoding="utf-8")
        with (folder / "report.csv").open("w", newline="", encoding="utf-8") as file:
            rows = []
            for form in self.forms:
                row = {**asdict(form), "interval_low": form.error_interval[0], "interval_high": form.error_interval[1]}
                del row["layers"], row["error_interval"]
                rows.append(row)
            writer = csv.DictWriter(file, list(rows[0]))
            writer.writeheader()
            writer.writerows(rows)


def relative_errors(returns: np.ndarray, before: np.ndarray) -> tuple[float, tuple[float, float]]:
    r"""
    Relative error of the return, as in QuaRL: :math:`(R_\mathrm{fp32} - R) / |R_\mathrm{fp32}|` of the mean returns.

    :param returns: ``(n_episodes,)`` returns of a form
    :param before: ``(n_episodes,)`` returns in fp32, of episodes with the same seeds
    :return: the error, and its 95 % interval: a percentile bootstrap over the pairs, with 10,000 resamples
    """
    differences, size = before - returns, max(abs(float(before.mean())), 1e-9)
    draws = np.random.default_rng(0).integers(len(differences), size=(N_RESAMPLES, len(differences)))
    low, high = np.quantile(differences[draws].mean(1), (0.025, 0.975)) / size
    return float(differences.mean()) / size, (float(low), float(high))


def smallest_within(forms: Iterable[Form], tolerance: float) -> str:
    """
    The scheme of the smallest form whose relative error is within a tolerance.

    :param forms: forms, with fp32 among them, which is always within it
    :param tolerance: greatest relative error
    :return: name of the scheme
    """
    within = [form for form in forms if form.relative_error <= tolerance]
    return min(within, key=lambda form: form.n_bytes).scheme
