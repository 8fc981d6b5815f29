"""Processes that are killed, and trials that are claimed twice."""

from types import SimpleNamespace

import optuna
import pytest
from optuna.trial import TrialState

from sb3_asym.tune.storage import open_storage
from sb3_asym.tune.study import is_surplus
from sb3_asym.tune.workers import State, _do_trial, _hand_out

KILL = "os.kill({victim}, signal.SIGKILL)"
ONCE = "Path('killed').exists() or (Path('killed').touch(), {action})"


def states_of(folder, storage):
    study = optuna.load_study(study_name="my_envs:User-v0", storage=open_storage(storage, folder))
    return [trial.state for trial in study.trials]


@pytest.fixture(params=[None, "study.log"], ids=["sqlite", "journal"])
def storage(request, tmp_path):
    return None if request.param is None else str(tmp_path / request.param)


def storage_arguments(storage):
    return [] if storage is None else ["--storage", storage]


def test_the_rest_goes_on_when_a_process_is_killed(console_script, write_env, tmp_path, storage):
    write_env("my_envs", ONCE.format(action=KILL.format(victim="os.getpid()")))
    arguments = ["--env", "my_envs:User-v0", "-o", "out", "--n-jobs", "2", "--n-trials", "3", *storage_arguments(storage)]
    done = console_script(*arguments)
    assert done.returncode == 0, done.stderr
    assert done.stderr.count("A process died (SIGKILL)") == 1
    states = states_of(tmp_path / "out", storage)
    assert states.count(TrialState.COMPLETE) == 3
    assert states.count(TrialState.FAIL) == 1
    assert len(states) == 4


def test_a_killed_command_goes_on_when_it_is_called_again(console_script, write_env, tmp_path, storage):
    both = "(" + KILL.format(victim="os.getppid()") + ", " + KILL.format(victim="os.getpid()") + ")"
    write_env("my_envs", ONCE.format(action=both))
    arguments = ["--env", "my_envs:User-v0", "-o", "out", "--n-trials", "1", *storage_arguments(storage)]
    assert console_script(*arguments).returncode == -9
    assert states_of(tmp_path / "out", storage) == [TrialState.RUNNING]
    done = console_script(*arguments)
    assert done.returncode == 0, done.stderr
    assert states_of(tmp_path / "out", storage) == [TrialState.FAIL, TrialState.COMPLETE]


def test_processes_that_are_killed_again_and_again_end_the_search(console_script, write_env, tmp_path):
    write_env("my_envs", KILL.format(victim="os.getpid()"))
    done = console_script("--env", "my_envs:User-v0", "-o", "out")
    assert done.returncode == 1
    assert "2 processes were killed and no trial was finished between: is there memory for 1?" in done.stderr
    assert "Traceback" not in done.stderr
    assert states_of(tmp_path / "out", None) == [TrialState.FAIL] * 2


def test_a_trial_that_was_taken_for_dead_is_done_again(console_script, write_env, tmp_path):
    study = "optuna.load_study(study_name='my_envs:User-v0', storage='sqlite:///out/study.db')"
    action = f"__import__('optuna') and {study}.tell(0, state=optuna.trial.TrialState.FAIL)".replace(
        "optuna.", "__import__('optuna')."
    )
    write_env("my_envs", ONCE.format(action=action))
    done = console_script("--env", "my_envs:User-v0", "-o", "out", "--n-trials", "1")
    assert done.returncode == 0, done.stderr
    assert "A trial was taken for dead while it ran" in done.stderr
    assert states_of(tmp_path / "out", None) == [TrialState.FAIL, TrialState.COMPLETE]


def test_of_trials_claimed_at_the_same_time_the_last_are_surplus():
    study = optuna.create_study()
    for state, value in ((TrialState.COMPLETE, 0.0), (TrialState.FAIL, None), (TrialState.RUNNING, None)):
        study.add_trial(optuna.trial.create_trial(state=state, value=value))
    first, second = study.ask().number, study.ask().number
    assert [is_surplus(study, number, n_trials=3) for number in (first, second)] == [False, True]
    assert [is_surplus(study, number, n_trials=2) for number in (2, first, second)] == [False, True, True]


class FakeWorker:
    """A process that never says anything."""

    state = State.IDLE

    def begin_trial(self):
        self.state = State.CLAIMING


def test_trials_are_handed_out_one_at_a_time(tmp_path, make_settings):
    settings = make_settings(tmp_path, n_trials=2)
    study = optuna.create_study()
    study.add_trial(optuna.trial.create_trial(value=0.0))
    workers = [FakeWorker(), FakeWorker()]
    assert _hand_out(study, settings, workers)
    assert _hand_out(study, settings, workers)
    assert [worker.state for worker in workers] == [State.CLAIMING, State.IDLE]
    study.ask()
    workers[0].state = State.TRAINING
    assert _hand_out(study, settings, workers)
    assert workers[1].state is State.IDLE
    study.tell(1, 0.0)
    workers[0].state = State.IDLE
    assert not _hand_out(study, settings, workers)


def test_a_trial_that_another_machine_has_claimed_is_not_trained(tmp_path, make_settings):
    study = optuna.create_study(directions=["maximize", "minimize"])
    study.ask()  # on the other machine, after this one has counted
    said = []
    connection = SimpleNamespace(send=said.append)
    _do_trial(study, make_settings(tmp_path, n_trials=1), connection, needs_heartbeat=False)
    assert [trial.state for trial in study.trials] == [TrialState.RUNNING, TrialState.FAIL]
    assert said == []
    assert not (tmp_path / "trials").exists()
