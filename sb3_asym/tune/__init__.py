"""Tuning of λ by return against cost, with Optuna. Needs the extras ``zoo`` and ``tune``.

A trial trains an agent with the Zoo's hyperparameters at a λ (and, if asked, an option length and sub-policy sizes), and
measures its return and its FLOPs per inference. Without a budget both are objectives, and what comes out is a Pareto front;
with one, the return is maximized among the agents that cost no more. Processes and machines share a study through its storage;
a finished trial is never lost, and the same call goes on where the last one stopped.
"""

import sys
from collections.abc import Callable
from contextlib import suppress
from typing import Any

from optuna.trial import TrialState

from sb3_asym.tune.report import TrialResult, trial_results
from sb3_asym.tune.settings import TuneSettings
from sb3_asym.tune.study import FINISHED, count_trials, open_study
from sb3_asym.tune.workers import TuningError, do_trials

__all__ = ["TrialResult", "TuneSettings", "TuningError", "open_study", "tune"]


def _do_nothing(n_finished: int) -> None:
    pass


def _write_to_stderr(line: str) -> None:
    print(line, file=sys.stderr)


def tune(
    settings: TuneSettings,
    n_jobs: int = 1,
    on_finished: Callable[[int], Any] = _do_nothing,
    on_message: Callable[[str], Any] = _write_to_stderr,
) -> list[TrialResult]:
    """
    Do the trials that the study lacks. Ctrl-C stops early; finished trials are kept.

    :param settings: settings of the study
    :param n_jobs: number of processes
    :param on_finished: function of the number of finished trials, called about twice a second
    :param on_message: function of a line for the user, such as that a process has died
    :return: the finished trials, cheapest first
    :raises ValueError: if the number of processes is below 1, there is a study of that name with other settings, or the
        storage's address is none
    :raises OSError: if the storage or the output folder cannot be written
    :raises ImportError: if the driver of the storage is missing
    :raises TuningError: if a trial failed by an error, or processes die without finishing any trial
    """
    if n_jobs < 1:
        raise ValueError(f"The number of processes must be at least 1, got {n_jobs}.")
    study = open_study(settings)
    with suppress(KeyboardInterrupt):
        do_trials(study, settings, n_jobs, on_finished, on_message)
    n_finished = count_trials(study, FINISHED)
    on_finished(n_finished)
    n_elsewhere = count_trials(study, (TrialState.RUNNING,))
    if n_elsewhere and n_finished < settings.n_trials:
        on_message(f"Trials that run elsewhere: {n_elsewhere}. The same call shows them when they are finished.")
    return trial_results(study, settings)
