"""λ as it should be tuned: return against cost, with Optuna. Needs the extras ``zoo`` and ``tune``.

A trial trains an agent with the Zoo's hyperparameters at a λ (and, if asked, an option length and sub-policy sizes), and
measures its return and its FLOPs per inference. Without a budget both are objectives, and what comes out is a Pareto front;
with one, the return is maximized among the agents that cost no more. Processes and machines share a study through its storage;
a finished trial is never lost, and the same call goes on where the last one stopped.
"""

import signal
import time
import warnings
from collections.abc import Callable, Sequence
from multiprocessing import get_context
from pathlib import Path
from typing import Any

import optuna
import torch as th
from optuna.storages.journal import JournalFileBackend
from optuna.trial import TrialState

from sb3_asym.tune.report import Point, points
from sb3_asym.tune.settings import TuneSettings
from sb3_asym.tune.trial import objective

COUNTED = (TrialState.COMPLETE, TrialState.PRUNED, TrialState.RUNNING)


def open_study(settings: TuneSettings) -> optuna.Study:
    """
    The study, new or as it is in its storage.

    :param settings: what is tuned
    :return: the study
    :raises ValueError: if there is one of that name that tunes something else
    """
    settings.output.mkdir(parents=True, exist_ok=True)
    address = settings.storage or f"sqlite:///{settings.output / 'study.db'}"
    storage: optuna.storages.BaseStorage
    if address.endswith(".log"):
        Path(address).parent.mkdir(parents=True, exist_ok=True)
        storage = optuna.storages.JournalStorage(JournalFileBackend(address))
    else:
        # Trials of a process that died are given up after a while.
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", optuna.exceptions.ExperimentalWarning)
            storage = optuna.storages.RDBStorage(address, heartbeat_interval=60, grace_period=180)
    study = optuna.create_study(
        storage=storage,
        study_name=settings.study_name or settings.env,
        sampler=optuna.samplers.TPESampler(constant_liar=True),
        directions=["maximize", "minimize"] if settings.budget is None else ["maximize"],
        load_if_exists=True,
    )
    fixed = study.user_attrs.get("settings", settings.fixed)
    if fixed != settings.fixed:
        changed = ", ".join(f"{name} was {fixed[name]}" for name in fixed if fixed[name] != settings.fixed[name])
        raise ValueError(f"Study {study.study_name!r} in {address} tunes something else ({changed}): give another study name.")
    study.set_user_attr("settings", settings.fixed)
    return study


def tune(settings: TuneSettings, n_jobs: int = 1, on_finished: Callable[[int], Any] = lambda n_finished: None) -> list[Point]:
    """
    Do the trials that the study lacks. Ctrl-C stops early; finished trials are kept.

    :param settings: what is tuned
    :param n_jobs: processes
    :param on_finished: told how many trials are finished, about twice a second
    :return: the finished trials
    :raises RuntimeError: if a trial failed
    """
    study = open_study(settings)
    workers = [get_context("spawn").Process(target=_work, args=(settings,)) for _ in range(n_jobs)]
    try:
        for worker in workers:
            worker.start()
        while any(worker.is_alive() for worker in workers):
            on_finished(_count(study, COUNTED[:2]))
            time.sleep(0.5)
            if any(worker.exitcode for worker in workers):
                raise RuntimeError("A trial failed; its error is above. The finished trials are kept.")
    except KeyboardInterrupt:
        pass
    finally:
        for worker in workers:
            if worker.is_alive():
                worker.terminate()
        for worker in workers:
            if worker.pid is not None:
                worker.join()
    on_finished(_count(study, COUNTED[:2]))
    return points(study, settings)


def _count(study: optuna.Study, states: Sequence[TrialState]) -> int:
    return len(study.get_trials(deepcopy=False, states=tuple(states)))


def _work(settings: TuneSettings) -> None:
    """One process: trials, as long as the study lacks some."""

    def stop(*_: Any) -> None:
        raise KeyboardInterrupt

    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C is the parent's, which terminates us
    signal.signal(signal.SIGTERM, stop)
    th.set_num_threads(1)
    optuna.logging.set_verbosity(optuna.logging.WARNING)
    study = open_study(settings)
    try:
        while _count(study, COUNTED) < settings.n_trials:
            study.optimize(lambda trial: objective(trial, settings), n_trials=1)
    except KeyboardInterrupt:
        pass  # Optuna has marked the trial as failed
