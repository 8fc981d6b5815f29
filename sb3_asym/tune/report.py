"""What a study found."""

import csv
import shlex
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
import optuna
from optuna.trial import TrialState

from sb3_asym.tune.settings import TuneSettings
from sb3_asym.tune.trial import SIZES, with_sizes
from sb3_asym.zoo import ALGO


@dataclass(frozen=True)
class Point:
    """
    A finished trial.

    :param number: of the trial
    :param params: what was tried
    :param mean_reward: mean return over seeds and episodes
    :param std_reward: its standard deviation over the seeds
    :param flops_per_inference: mean over the seeds, the master's share included
    :param flops_share: those FLOPs ÷ the large sub-policy's
    :param alone: mean return and FLOPs of each sub-policy alone, by its name
    :param best: whether it is on the Pareto front, or the best within the budget
    :param folder: of the trained agents, one for each seed, in the Zoo's layout
    """

    number: int
    params: dict[str, Any]
    mean_reward: float
    std_reward: float
    flops_per_inference: float
    flops_share: float
    alone: dict[str, tuple[float, float]]
    best: bool
    folder: str


def points(study: optuna.Study, settings: TuneSettings) -> list[Point]:
    """
    :param study: the study
    :param settings: what it tunes
    :return: its finished trials, cheapest first
    """
    trials = study.get_trials(states=(TrialState.COMPLETE,))
    best = study.best_trials
    if settings.budget is not None:  # of several that return the same, the cheapest
        best = sorted(best, key=lambda trial: trial.user_attrs["flops_share"])[:1]
    best_numbers = {trial.number for trial in best}
    found = [
        Point(
            number=trial.number,
            params=trial.params,
            mean_reward=float(np.mean(trial.user_attrs["rewards"])),
            std_reward=float(np.std(trial.user_attrs["rewards"])),
            flops_per_inference=float(np.mean(trial.user_attrs["flops"])),
            flops_share=trial.user_attrs["flops_share"],
            alone={name: tuple(values) for name, values in trial.user_attrs["alone"].items()},
            best=trial.number in best_numbers,
            folder=str(settings.folder(trial.number)),
        )
        for trial in trials
    ]
    return sorted(found, key=lambda point: point.flops_per_inference)


def chosen(found: Sequence[Point], tolerance: float = 0.05) -> Point:
    """
    :param found: finished trials
    :param tolerance: share of the range of returns on the front that may be given up for less cost
    :return: the cheapest of the best trials that gives up no more
    :raises ValueError: if none is within the budget
    """
    front = [point for point in found if point.best]
    if not front:
        raise ValueError("No finished trial is within the budget: allow more, or do more trials.")
    rewards = [point.mean_reward for point in front]
    enough = max(rewards) - tolerance * (max(rewards) - min(rewards))
    return min((point for point in front if point.mean_reward >= enough), key=lambda point: point.flops_per_inference)


def training_command(point: Point, settings: TuneSettings) -> str:
    """
    :param point: a finished trial
    :param settings: what was tuned
    :return: the command that trains it in full
    """
    sizes: dict[str, int] = {name: point.params[name] for name in SIZES if name in point.params}
    values = {**settings.hyperparams, **{name: value for name, value in point.params.items() if name not in sizes}}
    if sizes:
        values["policy_kwargs"] = with_sizes(settings, sizes)
    arguments = " ".join(shlex.quote(f"{name}:{value!r}") for name, value in values.items())
    conf = f" -conf {settings.config}" if settings.config else ""
    return f"sb3-asym train --algo {ALGO} --env {settings.env}{conf} -params {arguments}"


def table(found: Sequence[Point]) -> str:
    """
    :param found: finished trials
    :return: a row for each
    """
    names = list(found[0].params) if found else []
    lines = ["trial".rjust(5) + "".join(name.rjust(15) for name in (*names, "return", "FLOPs", "of the large"))]
    for point in found:
        values = [f"{point.params[name]:.4g}" for name in names]
        values += [f"{point.mean_reward:.1f}", f"{point.flops_per_inference:,.0f}", f"{point.flops_share:.1%}"]
        lines.append(f"{point.number:5}" + "".join(value.rjust(15) for value in values))
    return "\n".join(lines)


def write_csv(found: Sequence[Point], path: Path) -> None:
    """
    :param found: finished trials
    :param path: the table to write, a row for each
    """
    rows = []
    for point in found:
        row = asdict(point)
        row.update(row.pop("params"))
        for name, (reward, flops) in row.pop("alone").items():
            row[f"{name}_alone_reward"], row[f"{name}_alone_flops"] = reward, flops
        rows.append(row)
    with path.open("w", newline="") as file:
        writer = csv.DictWriter(file, list(rows[0]) if rows else ["number"])
        writer.writeheader()
        writer.writerows(rows)
