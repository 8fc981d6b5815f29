"""Trials whose process is gone, so that they do not count for ever."""

import os
import socket
import threading
import time
import uuid
import warnings
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

import optuna
import psutil
from optuna.exceptions import UpdateFinishedTrialError
from optuna.trial import FrozenTrial, TrialState

from sb3_asym.tune.storage import GRACE_PERIOD, HEARTBEAT_INTERVAL

UNKNOWN_GRACE_PERIOD = 24 * 3600
"""Seconds after which a trial is given up that has noted no process, as those of version 0.1.0 in a journal."""
CLOCK_TOLERANCE = 10.0
"""Seconds by which the start of one and the same process may differ, as clocks are set."""


def note_process(trial: optuna.Trial) -> None:
    """
    Note in a trial that this process runs it.

    :param trial: the trial
    """
    note = {"machine": _machine(), "pid": os.getpid(), "started": psutil.Process().create_time()}
    trial.set_user_attr("process", note)


@contextmanager
def heartbeat(trial: optuna.Trial) -> Iterator[None]:
    """
    Signs of life in a trial while the context lasts, for storages in which Optuna writes none itself.

    :param trial: the trial
    """

    def beat() -> None:
        while not over.wait(HEARTBEAT_INTERVAL):
            try:
                trial.set_user_attr("heartbeat", time.time())
            except UpdateFinishedTrialError:  # given up by another machine
                return
            except OSError:  # the storage may be back at the next beat
                continue

    trial.set_user_attr("heartbeat", time.time())
    over = threading.Event()
    thread = threading.Thread(target=beat, daemon=True)
    thread.start()
    try:
        yield
    finally:
        over.set()
        thread.join()


def fail_dead_trials(study: optuna.Study) -> None:
    """
    Mark running trials as failed whose process is gone: on this machine at once, on another after ``GRACE_PERIOD``.

    :param study: the study
    """
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", optuna.exceptions.ExperimentalWarning)
        optuna.storages.fail_stale_trials(study)
    for trial in study.get_trials(deepcopy=False, states=(TrialState.RUNNING,)):
        if _is_dead(trial):
            with suppress(UpdateFinishedTrialError):  # another machine was faster
                study.tell(trial.number, state=TrialState.FAIL, skip_if_finished=True)


def _is_dead(trial: FrozenTrial) -> bool:
    process = trial.user_attrs.get("process")
    if process is None:
        return trial.datetime_start is not None and time.time() - trial.datetime_start.timestamp() > UNKNOWN_GRACE_PERIOD
    if process["machine"] == _machine():
        return not _runs(process)
    if "heartbeat" in trial.user_attrs:
        return time.time() - trial.user_attrs["heartbeat"] > GRACE_PERIOD
    return False  # Optuna's own heartbeat decides


def _runs(process: dict[str, Any]) -> bool:
    """Whether a noted process still runs, and is not another that has got its id."""
    try:
        found = psutil.Process(process["pid"])
        is_same = abs(found.create_time() - process["started"]) < CLOCK_TOLERANCE
        return is_same and found.status() != psutil.STATUS_ZOMBIE
    except psutil.NoSuchProcess:
        return False
    except psutil.AccessDenied:
        return True


def _machine() -> list[str]:
    """Names the table of processes that process ids refer to; containers of one machine each have their own."""
    try:
        boot = Path("/proc/sys/kernel/random/boot_id").read_text().strip()
        return [boot, os.readlink("/proc/self/ns/pid")]
    except OSError:  # not Linux
        return [socket.gethostname(), str(uuid.getnode())]
