"""Which running trials are given up."""

import os
import subprocess
import sys
import time

import optuna
import psutil
import pytest
from optuna.trial import TrialState

from sb3_asym.tune import liveness
from sb3_asym.tune.liveness import fail_dead_trials, heartbeat, note_process
from sb3_asym.tune.storage import GRACE_PERIOD, open_storage


@pytest.fixture
def study(tmp_path):
    return optuna.create_study(storage=open_storage(str(tmp_path / "study.log"), tmp_path))


def state_after_check(study, **user_attrs):
    trial = optuna.trial.create_trial(state=TrialState.RUNNING, user_attrs=user_attrs)
    study.add_trial(trial)
    fail_dead_trials(study)
    return study.trials[-1].state


def process(machine=None, pid=None, started=None):
    return dict(
        machine=machine or liveness._machine(), pid=pid or os.getpid(), started=started or psutil.Process().create_time()
    )


def test_a_trial_of_a_process_that_runs_is_kept(study):
    trial = study.ask()
    note_process(trial)
    fail_dead_trials(study)
    assert study.trials[0].state is TrialState.RUNNING


def test_a_trial_of_a_process_that_has_ended_is_given_up(study):
    ended = subprocess.Popen([sys.executable, "-c", ""])
    ended.wait()
    assert state_after_check(study, process=process(pid=ended.pid)) is TrialState.FAIL


def test_a_process_that_nobody_has_waited_for_has_ended(study):
    ended = subprocess.Popen([sys.executable, "-c", ""])
    while psutil.Process(ended.pid).status() != psutil.STATUS_ZOMBIE:
        time.sleep(0.01)
    note = process(pid=ended.pid, started=psutil.Process(ended.pid).create_time())
    assert state_after_check(study, process=note) is TrialState.FAIL
    ended.wait()


def test_another_process_with_the_same_id_does_not_count(study):
    assert state_after_check(study, process=process(started=1.0)) is TrialState.FAIL


@pytest.mark.parametrize(("age", "state"), [(10, TrialState.RUNNING), (GRACE_PERIOD + 10, TrialState.FAIL)])
def test_another_machine_is_known_by_its_heartbeat(study, age, state):
    note = process(machine=["elsewhere", "pid:[1]"], pid=2**22 + 1)
    assert state_after_check(study, process=note, heartbeat=time.time() - age) is state


def test_a_trial_without_a_note_is_given_up_after_a_day(study, monkeypatch):
    assert state_after_check(study) is TrialState.RUNNING
    monkeypatch.setattr(liveness, "UNKNOWN_GRACE_PERIOD", -1)
    assert state_after_check(study) is TrialState.FAIL


def test_the_heart_beats_while_a_trial_runs(study, monkeypatch):
    monkeypatch.setattr(liveness, "HEARTBEAT_INTERVAL", 0.01)
    trial = study.ask()
    with heartbeat(trial):
        first = study.trials[0].user_attrs["heartbeat"]
        while study.trials[0].user_attrs["heartbeat"] == first:
            time.sleep(0.01)
    last = study.trials[0].user_attrs["heartbeat"]
    time.sleep(0.05)
    assert study.trials[0].user_attrs["heartbeat"] == last
