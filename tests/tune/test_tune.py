"""Tuning λ for real, with tiny budgets."""

import csv
import shlex
import signal
import subprocess
import sys
import time

import gymnasium as gym
import optuna
import pytest
from optuna.trial import TrialState

from sb3_asym import AsymSAC
from sb3_asym.tune import open_study, tune
from sb3_asym.tune.report import Point, chosen, points, training_command
from sb3_asym.tune.settings import TuneSettings, parse_hyperparams

CLI = (sys.executable, "-m", "sb3_asym.cli")
TINY = dict(learning_starts=30, batch_size=8, fast_update=False)


def settings_for(folder, **kwargs):
    settings = dict(env="Pendulum-v1", n_timesteps=40, n_trials=3, n_eval_episodes=1, hyperparams=TINY)
    return TuneSettings(output=folder, **{**settings, **kwargs})


@pytest.fixture(scope="module", params=["sqlite", "journal"])
def study(request, tmp_path_factory):
    """Settings and finished trials of two processes on one storage."""
    folder = tmp_path_factory.mktemp("tune")
    storage = None if request.param == "sqlite" else str(folder / "study.log")
    settings = settings_for(folder, storage=storage, option_length=(2, 9), sizes=True)
    finished = []
    return settings, tune(settings, n_jobs=2, on_finished=finished.append), finished


def test_two_processes_share_a_study(study):
    settings, found, finished = study
    assert len(found) >= settings.n_trials
    assert finished[-1] == len(found)
    front = open_study(settings).best_trials
    assert {point.number for point in found if point.best} == {trial.number for trial in front}
    for point in found:
        assert set(point.params) == {"cost_coef", "option_length", "small", "large"}
        agent = AsymSAC.load(next((settings.folder(point.number) / "seed_0").glob("asym_sac/*/Pendulum-v1.zip")))
        assert agent.option_length == point.params["option_length"]
        assert agent.policy.sub_net_archs["large"] == [point.params["large"]] * 2
        assert point.flops_share == pytest.approx(point.flops_per_inference / point.alone["large"][1], rel=1e-6)


def test_the_command_trains_the_chosen_point(study, tmp_path):
    settings, found, _ = study
    point = chosen(found)
    command = training_command(point, settings) + " learning_starts:5 -n 10 --eval-freq -1 --device cpu"
    subprocess.run(
        [sys.executable, "-m", "sb3_asym.cli", *shlex.split(command)[1:]], cwd=tmp_path, check=True, capture_output=True
    )
    agent = AsymSAC.load(next(tmp_path.glob("logs/asym_sac/*/Pendulum-v1.zip")))
    assert agent.cost_coef == point.params["cost_coef"]
    assert agent.policy.sub_net_archs["small"] == [point.params["small"]] * 2


def test_the_same_call_does_what_is_missing(study):
    settings, found, _ = study
    assert tune(settings) == points(open_study(settings), settings) == found


def test_a_study_of_something_else_is_refused(study):
    settings, *_ = study
    other = settings_for(settings.output, storage=settings.storage, cost_coef=(0.5, 0.6))
    with pytest.raises(ValueError, match=r"tunes something else .*cost_coef was \[0.001, 1.0\].*give another study name"):
        open_study(other)


def test_the_command_line_ends_with_a_front_and_ctrl_c_loses_no_trial(tmp_path):
    arguments = ["-o", "out", "--n-trials", "3", "-n", "40", "--episodes", "1", "--budget", "1.0"]
    arguments += [part for name, value in TINY.items() for part in ("--param", f"{name}:{value}")]
    command = [*CLI, "tune", "--env", "Pendulum-v1", *arguments]
    settings = settings_for(tmp_path / "out", budget=1.0)
    process = subprocess.Popen(command, cwd=tmp_path, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)
    while not (tmp_path / "out" / "study.db").exists() or not points(open_study(settings), settings):
        assert process.poll() is None, process.stdout.read()
        time.sleep(0.5)
    process.send_signal(signal.SIGINT)
    output, _ = process.communicate(timeout=60)
    n_finished = len(points(open_study(settings), settings))
    assert n_finished >= 1, output
    assert not open_study(settings).get_trials(states=(TrialState.RUNNING,))
    output = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, check=True).stdout
    assert "sb3-asym train --algo asym_sac --env Pendulum-v1" in output
    with (tmp_path / "out" / "trials.csv").open() as file:
        rows = list(csv.DictReader(file))
    assert len(rows) >= 3
    assert [row["best"] for row in rows].count("True") == 1
    assert (tmp_path / "out" / "pareto.png").stat().st_size > 10_000


def test_an_error_in_a_trial_is_loud(tmp_path, capfd):
    with pytest.raises(RuntimeError, match="A trial failed"):
        tune(settings_for(tmp_path, hyperparams=dict(TINY, batch_size="many")))
    assert "Traceback" in capfd.readouterr().err


@pytest.mark.parametrize(
    ("kwargs", "message"),
    [
        (dict(cost_coef=(0.0, 1.0)), "λ needs a range of positive numbers"),
        (dict(option_length=(5, 2)), "The option length needs a range"),
        (dict(budget=1.5), "The budget is a share"),
        (dict(n_trials=0), "must be at least 1"),
        (dict(hyperparams=dict(TINY, cost_coef=1.0)), "The study searches cost_coef"),
        (dict(device="cudo"), "There is no device 'cudo'"),
        (dict(config="nope.yml"), "There is no file nope.yml"),
        (dict(env="Nowhere-v0"), "`Nowhere` doesn't exist"),
    ],
)
def test_bad_settings(tmp_path, kwargs, message):
    with pytest.raises((ValueError, FileNotFoundError, gym.error.Error), match=message):
        settings_for(tmp_path, **kwargs)


def test_hyperparameters_are_read_as_the_zoo_does():
    found = parse_hyperparams(["gamma:0.9", "policy:MlpPolicy", "policy_kwargs:dict(net_arch=[64, 64])"])
    assert found == dict(gamma=0.9, policy="MlpPolicy", policy_kwargs=dict(net_arch=[64, 64]))
    with pytest.raises(ValueError, match="name:value, got 'gamma'"):
        parse_hyperparams(["gamma"])


def test_the_chosen_point_gives_up_little_return_for_less_cost():
    def point(number, reward, flops, best=True):
        return Point(number, {}, reward, 0.0, flops, 0.5, {}, best, "")

    found = [point(0, -200.0, 100.0), point(1, -102.0, 500.0), point(2, -100.0, 900.0), point(3, -90.0, 2000.0, best=False)]
    assert chosen(found).number == 1
    with pytest.raises(ValueError, match="No finished trial is within the budget"):
        chosen([point(0, -200.0, 100.0, best=False)])


def test_a_budget_keeps_to_the_trials_that_cost_no_more(tmp_path):
    settings = settings_for(tmp_path, budget=0.4)
    study = open_study(settings)
    for reward, share in ((-100.0, 0.9), (-150.0, 0.3), (-120.0, 0.35)):
        attributes = dict(rewards=[reward], flops=[share], flops_share=share, alone={})
        constraints = dict(budget=share - settings.budget)
        study.add_trial(optuna.trial.create_trial(value=reward, user_attrs=attributes, constraints=constraints))
    assert [point.mean_reward for point in points(study, settings) if point.best] == [-120.0]


def test_none_is_best_where_all_cost_more_than_the_budget(tmp_path):
    settings = settings_for(tmp_path, budget=0.4)
    study = open_study(settings)
    attributes = dict(rewards=[-100.0], flops=[0.9], flops_share=0.9, alone={})
    study.add_trial(optuna.trial.create_trial(value=-100.0, user_attrs=attributes, constraints=dict(budget=0.5)))
    assert not any(point.best for point in points(study, settings))
