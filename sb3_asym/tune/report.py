"""Results of a study."""

import csv
import shlex
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
import optuna
from optuna.trial import TrialState

from sb3_asym.tune.experiment import SIZES, policy_kwargs_with_sizes
from sb3_asym.tune.settings import TuneSettings
from sb3_asym.tune.trial import TOLERANCE, cheapest_of
from sb3_asym.zoo import ALGO


@dataclass(frozen=True)
class TrialResult:
    """
    Parameters, return and cost of a finished trial.

    :param number: number of the trial
    :param params: values of the searched parameters, by name
    :param cost_coef: λ under which the agents are deployed, geometric mean over the seeds
    :param mean_reward: mean return over seeds and episodes
    :param std_reward: standard deviation of the return over the seeds
    :param flops_per_inference: mean FLOPs over the seeds, the master's share included
    :param flops_share: those FLOPs ÷ the large sub-policy's
    :param alone: mean return and FLOPs of each sub-policy alone, by its name
    :param best: True if it is on the Pareto front, or the best within the budget
    :param folder: folder of the trained agents, one for each seed, in the Zoo's layout
    """

    number: int
    params: dict[str, Any]
    cost_coef: float
    mean_reward: float
    std_reward: float
    flops_per_inference: float
    flops_share: float
    alone: dict[str, tuple[float, float]]
    best: bool
    folder: str


def trial_results(study: optuna.Study, settings: TuneSettings) -> list[TrialResult]:
    """
    The finished trials of a study.

    :param study: the study
    :param settings: its settings
    :return: a result for each trial, cheapest first
    """
    best = study.best_trials
    if settings.budget is not None:  # of several that return the same, the cheapest
        best = sorted(best, key=lambda trial: trial.user_attrs["flops_share"])[:1]
    best_numbers = {trial.number for trial in best}
    results = []
    for trial in study.get_trials(states=(TrialState.COMPLETE,)):
        attributes = trial.user_attrs
        result = TrialResult(
            number=trial.number,
            params=trial.params,
            cost_coef=float(np.exp(np.mean(np.log(attributes.get("cost_coefs") or [trial.params["cost_coef"]])))),
            mean_reward=float(np.mean(attributes["rewards"])),
            std_reward=float(np.std(attributes["rewards"])),
            flops_per_inference=float(np.mean(attributes["flops"])),
            flops_share=attributes["flops_share"],
            alone={name: tuple(values) for name, values in attributes["alone"].items()},
            best=trial.number in best_numbers,
            folder=str(settings.folder(trial.number)),
        )
        results.append(result)
    return sorted(results, key=lambda result: result.flops_per_inference)


def chosen(results: Sequence[TrialResult], tolerance: float = TOLERANCE) -> TrialResult:
    """
    The trial to train in full: the cheapest of the best that gives up little return.

    :param results: finished trials
    :param tolerance: share of the range of returns on the front that may be given up for less cost
    :return: the chosen trial
    :raises ValueError: if none is within the budget
    """
    front = [result for result in results if result.best]
    if not front:
        raise ValueError("No finished trial is within the budget: allow more, or do more trials.")
    return cheapest_of(front, tolerance)


def training_command(result: TrialResult, settings: TuneSettings) -> str:
    """
    The command that trains the agent of a trial in full.

    :param result: a finished trial
    :param settings: settings of the study
    :return: a line for a shell
    """
    hyperparams: dict[str, Any] = {**settings.hyperparams}
    sizes: dict[str, int] = {}
    for name, value in result.params.items():
        if name in SIZES:
            sizes[name] = value
        else:
            hyperparams[name] = value
    if sizes:
        hyperparams["policy_kwargs"] = policy_kwargs_with_sizes(settings.read_hyperparameters(), sizes)
    module, colon, env_id = settings.env.rpartition(":")
    command = ["sb3-asym", "train", "--algo", ALGO, "--env", env_id]
    if colon:  # the Zoo takes the module apart from the id
        command += ["--gym-packages", module]
    if settings.config:
        command += ["-conf", settings.config]
    command += ["-params", *(f"{name}:{_as_source(value)}" for name, value in hyperparams.items())]
    return shlex.join(command)


def _as_source(value: Any) -> str:
    """A value in Python, with the names that the Zoo knows."""
    if isinstance(value, dict):
        return "{" + ", ".join(f"{key!r}: {_as_source(part)}" for key, part in value.items()) + "}"
    if isinstance(value, list):
        return "[" + ", ".join(_as_source(part) for part in value) + "]"
    if isinstance(value, type):
        return f"nn.{value.__name__}" if value.__module__.startswith("torch.nn.") else repr(value.__name__)
    return repr(value)


def table(results: Sequence[TrialResult]) -> str:
    """
    Trials as text.

    :param results: finished trials
    :return: a row for each, below the names of the columns
    """
    names = list(results[0].params) if results else []
    names = [name for name in names if name != "cost_coef"]
    columns = ["λ", *names, "return", "FLOPs", "of the large"]
    lines = ["trial".rjust(5) + "".join(column.rjust(15) for column in columns)]
    for result in results:
        values = [f"{value:.4g}" for value in (result.cost_coef, *(result.params[name] for name in names))]
        values += [f"{result.mean_reward:.1f}", f"{result.flops_per_inference:,.0f}", f"{result.flops_share:.1%}"]
        lines.append(f"{result.number:5}" + "".join(value.rjust(15) for value in values))
    return "\n".join(lines)


def write_csv(results: Sequence[TrialResult], path: Path) -> None:
    """
    Write trials as a table, a row for each.

    :param results: finished trials
    :param path: file to write
    """
    rows = []
    for result in results:
        row = asdict(result)
        row.update(row.pop("params"))
        for name, (reward, flops) in row.pop("alone").items():
            row[f"{name}_alone_reward"] = reward
            row[f"{name}_alone_flops"] = flops
        rows.append(row)
    columns = list(rows[0]) if rows else ["number"]
    with path.open("w", newline="", encoding="utf-8") as file:
        writer = csv.DictWriter(file, columns)
        writer.writeheader()
        writer.writerows(rows)
