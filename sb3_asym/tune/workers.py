"""The processes of a study: each does one trial after another, as its parent says."""

import signal
import sys
from collections.abc import Callable
from contextlib import nullcontext, suppress
from enum import Enum
from multiprocessing import get_context
from multiprocessing.connection import Connection, wait
from typing import Any

import optuna
import torch as th
from optuna.exceptions import UpdateFinishedTrialError
from optuna.storages import JournalStorage

from sb3_asym.tune.liveness import fail_dead_trials, heartbeat, note_process
from sb3_asym.tune.settings import TuneSettings
from sb3_asym.tune.storage import open_storage
from sb3_asym.tune.study import COUNTED, FINISHED, count_trials, is_surplus, load_study
from sb3_asym.tune.trial import objective

POLL_INTERVAL = 0.5
"""Seconds between two looks at the study."""


class TuningError(RuntimeError):
    """A study that stopped early; its finished trials are kept."""


class SurplusTrialError(Exception):
    """A trial that is one too many, because another machine claimed the last one too."""


class State(Enum):
    """What a process does, or what it tells its parent."""

    STARTING = 0
    IDLE = 1
    CLAIMING = 2
    TRAINING = 3


class Worker:
    """
    A process for trials, as its parent sees it.

    :param settings: settings of the study
    """

    def __init__(self, settings: TuneSettings):
        context = get_context("spawn")
        self._connection, connection = context.Pipe()
        self._process = context.Process(target=_work, args=(settings, connection))
        self._process.start()
        connection.close()
        self.state = State.STARTING
        self.trial: int | None = None

    @property
    def exitcode(self) -> int | None:
        """Exit code of the process, None while it runs, minus the signal where one has ended it."""
        return self._process.exitcode

    @property
    def waitables(self) -> list[Any]:
        """What becomes ready when the process says something or ends."""
        return [self._process.sentinel] if self._connection.closed else [self._process.sentinel, self._connection]

    def begin_trial(self) -> None:
        """Have it claim a trial and do it."""
        self.state = State.CLAIMING
        with suppress(OSError):  # it has died, which its exit code will tell
            self._connection.send(True)

    def update(self) -> None:
        """Read what it has said."""
        try:
            while not self._connection.closed and self._connection.poll():
                self.state, self.trial = self._connection.recv()
        except (EOFError, OSError):
            self._connection.close()

    def stop(self) -> None:
        """End the process, now; a trial that it does fails."""
        if self._process.is_alive():
            self._process.terminate()

    def join(self) -> None:
        """Wait for its end."""
        self._process.join()
        self._connection.close()


def do_trials(
    study: optuna.Study,
    settings: TuneSettings,
    n_jobs: int,
    on_finished: Callable[[int], Any],
    on_message: Callable[[str], Any],
) -> None:
    """
    Do the trials that the study lacks. The parent hands them out one at a time, so that its processes never begin too many.

    :param study: the study
    :param settings: its settings
    :param n_jobs: number of processes
    :param on_finished: function of the number of finished trials, called about twice a second
    :param on_message: function of a line for the user, called when a process has died
    :raises TuningError: if a trial failed by an error, or processes die without finishing any trial
    """
    n_deaths, n_finished_before = 0, count_trials(study, FINISHED)
    n_lacking = settings.n_trials - count_trials(study, COUNTED)
    workers = [Worker(settings) for _ in range(min(n_jobs, n_lacking))]
    try:
        while _hand_out(study, settings, workers):
            if not workers:
                workers.append(Worker(settings))
            wait([waitable for worker in workers for waitable in worker.waitables], timeout=POLL_INTERVAL)
            for worker in workers:
                worker.update()
            dead = [worker for worker in workers if worker.exitcode is not None]
            n_finished = count_trials(study, FINISHED)
            on_finished(n_finished)
            if n_finished > n_finished_before:
                n_deaths, n_finished_before = 0, n_finished
            for worker in dead:
                workers.remove(worker)
                worker.join()
                on_message(_death_message(worker))
                n_deaths += 1
            if dead:
                fail_dead_trials(study)
            if n_deaths > n_jobs:
                raise TuningError(
                    f"{n_deaths} processes were killed and no trial was finished between: is there memory for {n_jobs}? "
                    "The finished trials are kept."
                )
    finally:
        for worker in workers:
            worker.stop()
        for worker in workers:
            worker.join()
        fail_dead_trials(study)


def _hand_out(study: optuna.Study, settings: TuneSettings, workers: list[Worker]) -> bool:
    """
    Have an idle process begin a trial, if the study lacks one. The next is handed out when this one is claimed.

    :return: True while there is something to wait for
    """
    states = [worker.state for worker in workers]
    if State.CLAIMING in states:
        return True
    if count_trials(study, COUNTED) >= settings.n_trials:
        return State.TRAINING in states
    if State.IDLE in states:
        workers[states.index(State.IDLE)].begin_trial()
    return True


def _death_message(worker: Worker) -> str:
    """
    A line about a process that has ended.

    :raises TuningError: if an error ended it
    """
    assert worker.exitcode is not None
    if worker.exitcode > 0 and worker.state is State.STARTING:
        raise TuningError("A process could not start; its error is above. The finished trials are kept.")
    if worker.exitcode > 0:
        raise TuningError("A trial failed; its error is above. The finished trials are kept.")
    reason = signal.Signals(-worker.exitcode).name if worker.exitcode < 0 else "it was told to end"
    lost = "" if worker.trial is None else f" Trial {worker.trial} counts as failed."
    return f"A process died ({reason}).{lost} The rest goes on."


def _work(settings: TuneSettings, connection: Connection) -> None:
    """Trials in a process of its own, whenever the parent asks for one."""

    def stop(*_: Any) -> None:
        raise KeyboardInterrupt

    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C is the parent's, which terminates us
    signal.signal(signal.SIGTERM, stop)
    th.set_num_threads(1)
    optuna.logging.set_verbosity(optuna.logging.ERROR)  # an error in a trial ends the process, which shows it
    try:
        storage = open_storage(settings.storage, settings.output)
        study = load_study(settings, storage)
        connection.send((State.IDLE, None))
        while _is_wanted(connection):
            _do_trial(study, settings, connection, needs_heartbeat=isinstance(storage, JournalStorage))
            connection.send((State.IDLE, None))
    except KeyboardInterrupt:
        pass  # Optuna has marked the trial as failed
    except BrokenPipeError:
        pass  # the parent is gone


def _is_wanted(connection: Connection) -> bool:
    try:
        return connection.recv()
    except EOFError:
        return False  # the parent is gone


def _do_trial(study: optuna.Study, settings: TuneSettings, connection: Connection, needs_heartbeat: bool) -> None:
    """One trial, unless it turns out to be one too many."""
    given_up = False

    def run(trial: optuna.Trial) -> float | tuple[float, float]:
        nonlocal given_up
        note_process(trial)
        if is_surplus(study, trial.number, settings.n_trials):
            raise SurplusTrialError
        connection.send((State.TRAINING, trial.number))
        try:
            with heartbeat(trial) if needs_heartbeat else nullcontext():
                return objective(trial, settings)
        except UpdateFinishedTrialError:
            given_up = True
            raise

    try:
        study.optimize(run, n_trials=1, catch=(SurplusTrialError,))
    except ValueError:  # Optuna's, for the second end of a trial
        if not given_up:
            raise
        print("A trial was taken for dead while it ran, as after a sleep of this machine, and is lost.", file=sys.stderr)
