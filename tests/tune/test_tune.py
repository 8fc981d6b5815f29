"""Tuning λ for real, with tiny budgets."""

import csv
import shlex
import signal
import subprocess
import sys
import time
from dataclasses import replace
from pathlib import Path

import gymnasium as gym
import pytest
from optuna.trial import TrialState

from sb3_asym import AsymSAC, EvaluationReport
from sb3_asym.tune import TuningError, open_study, tune
from sb3_asym.tune.report import chosen, training_command, trial_results
from sb3_asym.tune.trial import deploy

MARKED_ENV = """
import gymnasium as gym
from gymnasium.envs.classic_control import PendulumEnv


class Marked(PendulumEnv):
    def __init__(self, mark="unset", **kwargs):
        super().__init__(**kwargs)
        with open("marks.txt", "a") as file:
            file.write(mark + " ")


gym.register("Marked-v0", entry_point=Marked, max_episode_steps=20)
"""
"""Tells with which argument it was made."""


@pytest.fixture(scope="module", params=["sqlite", "journal"])
def study(request, tmp_path_factory, make_settings):
    """Settings and finished trials of two processes on one storage."""
    folder = tmp_path_factory.mktemp("tune")
    storage = None if request.param == "sqlite" else str(folder / "study.log")
    settings = make_settings(folder, storage=storage, option_length=(2, 9), sizes=True)
    finished = []
    return settings, tune(settings, n_jobs=2, on_finished=finished.append), finished


def test_two_processes_share_a_study(study):
    settings, results, finished = study
    assert len(results) == len(open_study(settings).trials) == settings.n_trials
    assert finished[-1] == len(results)
    front = open_study(settings).best_trials
    assert {result.number for result in results if result.best} == {trial.number for trial in front}
    for result in results:
        assert set(result.params) == {"cost_coef", "option_length", "small", "large"}
        agent = AsymSAC.load(next((settings.folder(result.number) / "seed_0").glob("asym_sac/*/Pendulum-v1.zip")))
        assert agent.option_length == result.params["option_length"]
        assert agent.policy.sub_net_archs["large"] == [result.params["large"]] * 2
        assert result.flops_share == pytest.approx(result.flops_per_inference / result.alone["large"][1], rel=1e-6)


def test_the_command_trains_the_chosen_agent(study, tmp_path):
    settings, results, _ = study
    result = chosen(results)
    command = training_command(result, settings) + " learning_starts:5 -n 10 --eval-freq -1 --device cpu"
    subprocess.run(
        [sys.executable, "-m", "sb3_asym.cli", *shlex.split(command)[1:]], cwd=tmp_path, check=True, capture_output=True
    )
    agent = AsymSAC.load(next(tmp_path.glob("logs/asym_sac/*/Pendulum-v1.zip")))
    assert agent.cost_coef == result.params["cost_coef"]
    assert agent.policy.sub_net_archs["small"] == [result.params["small"]] * 2


@pytest.mark.parametrize(("cost_coef", "budget"), [("dial", None), ((0.01, 1.0), 0.99), ("auto_0.5", None)])
def test_a_dial_is_trained_once_for_all_cost_coefs(tmp_path, make_settings, cost_coef, budget):
    """λ is not searched then; the agents are saved under the λ that is best, and with the curve."""
    hyperparams = make_settings(tmp_path).hyperparams | {"cost_coef": cost_coef}
    settings = make_settings(tmp_path, option_length=(2, 9), n_trials=2, hyperparams=hyperparams, budget=budget)
    results = tune(settings)
    assert len(results) == 2
    for result in results:
        assert set(result.params) == {"option_length"}
        agent = AsymSAC.load(next((settings.folder(result.number) / "seed_0").glob("asym_sac/*/Pendulum-v1.zip")))
        assert agent.master.cost_coef == pytest.approx(result.cost_coef)
        if cost_coef == "auto_0.5":
            assert not agent.cost_curve
        else:
            points = {round(point[0], 6): point for point in agent.cost_curve}
            assert len(points) == 9
            assert points[round(result.cost_coef, 6)][1:] == pytest.approx((result.flops_share, result.mean_reward))
        assert f"cost_coef:{cost_coef!r}" in shlex.split(training_command(result, settings))


def test_the_cost_coef_that_is_deployed(make_agent):
    """By hand-made reports under three λ."""
    agent = make_agent(cost_coef=(0.1, 10.0))
    flops = agent.policy.option_costs[-1].flops
    curve = [
        EvaluationReport(f"λ = {cost_coef}", reward, 0.0, 1, 9.0, {}, share * flops, 1 - share, 3.0, 1.0, (), (), cost_coef)
        for cost_coef, share, reward in ((0.1, 0.9, -100.0), (1.0, 0.4, -102.0), (10.0, 0.1, -200.0))
    ]
    report = replace(curve[0], name="agent", cost_coef=None, comparisons=tuple(curve))
    for budget, cost_coef in ((None, 1.0), (0.95, 0.1), (0.5, 1.0), (0.2, 10.0), (0.05, 10.0)):
        assert deploy(agent, report, budget).cost_coef == cost_coef
        assert agent.master.cost_coef == pytest.approx(cost_coef)


def test_a_trial_that_diverges_is_pruned(tmp_path, make_settings):
    hyperparams = make_settings(tmp_path).hyperparams | {"learning_rate": 1e20}
    settings = make_settings(tmp_path, n_trials=1, hyperparams=hyperparams)
    assert tune(settings) == []
    assert [trial.state for trial in open_study(settings).trials] == [TrialState.PRUNED]


def test_the_mean_over_seeds(tmp_path, make_settings):
    settings = make_settings(tmp_path, n_trials=1, n_seeds=2)
    (result,) = tune(settings)
    assert len(list(settings.folder(0).glob("seed_*/asym_sac/*/Pendulum-v1.zip"))) == 2
    rewards = open_study(settings).trials[0].user_attrs["rewards"]
    assert rewards[0] != rewards[1]
    assert result.mean_reward == pytest.approx(sum(rewards) / 2)


def test_the_same_call_does_what_is_missing(study):
    settings, results, _ = study
    assert tune(settings) == trial_results(open_study(settings), settings) == results


def test_one_trial_is_one_trial_whatever_the_number_of_processes(tmp_path, make_settings):
    settings = make_settings(tmp_path, n_trials=1)
    assert len(tune(settings, n_jobs=2)) == 1
    assert len(open_study(settings).trials) == 1


def test_a_module_of_hyperparameters_serves_all_trials_alike(tmp_path, make_settings, monkeypatch):
    monkeypatch.syspath_prepend(tmp_path)
    values = dict(n_timesteps=40, policy="MlpPolicy", normalize=True, learning_starts=30, batch_size=8, fast_update=False)
    (tmp_path / "shared_hyperparams.py").write_text(f"hyperparams = {{'Pendulum-v1': {values}}}")
    settings = make_settings(tmp_path, config="shared_hyperparams", n_timesteps=-1, hyperparams={}, n_trials=2)
    results = tune(settings)
    assert len(results) == 2
    for result in results:
        assert list(settings.folder(result.number).glob("seed_0/asym_sac/*/*/vecnormalize.pkl"))


def test_the_command_line_ends_with_a_front_and_ctrl_c_loses_no_trial(tmp_path, make_settings):
    settings = make_settings(tmp_path / "out")
    command = [sys.executable, "-m", "sb3_asym.cli", "tune", "--env", "Pendulum-v1", "-o", "out", "-n", "40"]
    command += ["--episodes", "1"]
    for name, value in settings.hyperparams.items():
        command += ["--param", f"{name}:{value}"]
    endless = [*command, "--n-trials", "1000"]
    process = subprocess.Popen(endless, cwd=tmp_path, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)
    while not list((tmp_path / "out").glob("trials/*/seed_0/log.txt")) or not trial_results(open_study(settings), settings):
        assert process.poll() is None, process.stdout.read()
        time.sleep(0.5)
    process.send_signal(signal.SIGINT)
    output, _ = process.communicate(timeout=300)
    assert process.returncode == 0, output
    assert "sb3-asym train --algo asym_sac --env Pendulum-v1" in output
    before = {result.number: result.mean_reward for result in trial_results(open_study(settings), settings)}
    assert not open_study(settings).get_trials(states=(TrialState.RUNNING,))
    one_more = [*command, "--n-trials", str(len(before) + 1)]
    subprocess.run(one_more, cwd=tmp_path, capture_output=True, text=True, check=True)
    after = {result.number: result.mean_reward for result in trial_results(open_study(settings), settings)}
    assert len(after) == len(before) + 1
    assert before.items() < after.items()
    with (tmp_path / "out" / "trials.csv").open(encoding="utf-8") as file:
        rows = list(csv.DictReader(file))
    assert len(rows) == len(after)
    assert "True" in [row["best"] for row in rows]
    assert (tmp_path / "out" / "pareto.png").stat().st_size > 10_000


def test_an_error_in_a_trial_is_loud(tmp_path, make_settings, capfd):
    hyperparams = dict(make_settings(tmp_path).hyperparams, batch_size="many")
    with pytest.raises(TuningError, match="A trial failed; its error is above"):
        tune(make_settings(tmp_path, hyperparams=hyperparams))
    assert "Traceback" in capfd.readouterr().err


def test_a_study_needs_a_process(tmp_path, make_settings):
    with pytest.raises(ValueError, match="number of processes must be at least 1, got 0"):
        tune(make_settings(tmp_path), n_jobs=0)


def test_an_env_of_the_working_directory(console_script, write_env, tmp_path):
    write_env("my_envs")
    done = console_script("--env", "my_envs:User-v0", "--n-trials", "1")
    assert done.returncode == 0, done.stderr
    assert len(list(tmp_path.glob("outputs/tune/my_envs-User-v0/trials/0/seed_0/asym_sac/*/User-v0.zip"))) == 1
    command = [*shlex.split(done.stdout.splitlines()[-1]), "-n", "10", "--eval-freq", "-1", "--device", "cpu"]
    command[0] = Path(sys.executable).with_name(command[0])
    subprocess.run(command, cwd=tmp_path, check=True, capture_output=True)
    assert list(tmp_path.glob("logs/asym_sac/*/User-v0.zip"))


def test_arguments_of_the_env_hold_where_it_is_measured_too(console_script, tmp_path):
    (tmp_path / "marked.py").write_text(MARKED_ENV, encoding="utf-8")
    done = console_script("--env", "marked:Marked-v0", "--n-trials", "1", "--param", "env_kwargs:dict(mark='set')")
    assert done.returncode == 0, done.stderr
    assert set((tmp_path / "marks.txt").read_text().split()) == {"set"}


def test_an_env_that_custom_envs_registers(console_script, write_env, tmp_path):
    write_env("custom_envs")
    done = console_script("--env", "User-v0", "--n-trials", "1", "-o", "50% of #1?")
    assert done.returncode == 0, done.stderr
    assert (tmp_path / "50% of #1?" / "study.db").is_file()


def test_a_module_without_the_env(tmp_path, make_settings, write_env, monkeypatch):
    write_env("envs_of_another_name")
    monkeypatch.chdir(tmp_path)
    monkeypatch.syspath_prepend(tmp_path)
    with pytest.raises(gym.error.Error, match="`Nowhere` doesn't exist"):
        make_settings(tmp_path, env="envs_of_another_name:Nowhere-v0")
