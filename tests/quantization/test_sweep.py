"""Sweeps over schemes for real, on small envs."""

import csv
import json
import shlex

import gymnasium as gym
import numpy as np
import pytest
from baseline_cases import Balance, Steer, balancing_teacher, steering_teacher
from command_line import run
from export_cases import RandomEnv, asym, normalized, plain
from stable_baselines3 import A2C, SAC

from sb3_asym.quantization import Form, sweep
from sb3_asym.quantization.picture import draw_sweep
from sb3_asym.quantization.report import relative_errors, smallest_within
from sb3_asym.quantization.sweep import SCHEMES


@pytest.fixture(scope="module")
def outcome(tmp_path_factory):
    """The default sweep of an agent that steers, and its folder."""
    folder = tmp_path_factory.mktemp("swept") / "out"
    stages = []
    report = sweep(
        steering_teacher(), Steer, output=folder, n_eval_episodes=8, on_progress=lambda *stage: stages.append(stage)
    )
    return report, folder, stages


def test_every_scheme_is_measured_and_the_smallest_that_keeps_the_return_is_named(outcome):
    report, _, stages = outcome
    assert {form.scheme for form in report.forms} == {"fp32", *SCHEMES}
    fp32, best = report.form("fp32"), report.form(report.smallest)
    assert (fp32.relative_error, fp32.error_interval, fp32.action_error) == (0, (0, 0), pytest.approx(0, abs=1e-6))
    assert report.form("int8").relative_error < 0.025
    assert report.form("int8").action_error < 0.02 < report.form("int2").action_error
    assert best.relative_error <= 0.025
    assert best.n_bytes < fp32.n_bytes / 2
    assert not [form for form in report.forms if form.n_bytes < best.n_bytes and form.relative_error <= 0.025]
    assert report.form(report.smallest_exported).n_bytes >= best.n_bytes
    assert [form.n_bytes for form in report.forms] == sorted((form.n_bytes for form in report.forms), reverse=True)
    assert f"is {best.scheme}: {best.n_bytes:,} bytes" in str(report)
    assert f"* {best.scheme}" in str(report)
    assert dict(stages) == {"calibrating": 1, "measuring": 1}


def test_all_that_was_found_is_written(outcome):
    report, folder, _ = outcome
    assert {path.name for path in folder.iterdir()} == {"report.json", "report.csv", "sweep.png"}
    saved = json.loads((folder / "report.json").read_text())
    assert saved == json.loads(json.dumps(report.to_dict()))
    assert saved["versions"]["sb3-asym"]
    with (folder / "report.csv").open() as file:
        rows = list(csv.DictReader(file))
    assert [row["scheme"] for row in rows] == [form.scheme for form in report.forms]
    assert float(rows[1]["interval_low"]) <= float(rows[1]["relative_error"]) <= float(rows[1]["interval_high"])


def test_the_picture_shows_every_form_and_the_width_of_the_weights(outcome):
    report, _, _ = outcome
    returns, link = draw_sweep(report).axes
    assert {text.get_text() for text in returns.texts} == {"32", "16", "8", "6", "4", "3", "2"}
    assert len(returns.texts) == len(report.forms)
    assert {line.get_label() for line in link.lines} >= {"w2", "w8", "w2-tensor-affine"}
    assert all(list(line.get_xdata()) == sorted(line.get_xdata()) for line in link.lines)


def test_the_same_seeds_give_the_same_report():
    reports = [sweep(steering_teacher(), Steer, ["w3", "int4-gptq"], n_eval_episodes=4, seed=7) for _ in range(2)]
    assert reports[0].forms == reports[1].forms
    assert {form.scheme for form in reports[0].forms} == {"fp32", "w3", "int4-gptq"}


def test_discrete_actions_are_compared_as_choices():
    report = sweep(balancing_teacher(), Balance, ["int8", "w2"], n_eval_episodes=4)
    assert report.form("fp32").choices_as_before == 1
    assert report.form("int8").choices_as_before > 0.9
    assert all(form.action_error is None for form in report.forms)


def test_an_agent_that_switches_has_choices_and_actions():
    report = sweep(asym(), RandomEnv, ["int8", "w2-tensor"], n_eval_episodes=2)
    int8, coarse = report.form("int8"), report.form("w2-tensor")
    assert 0.8 < int8.choices_as_before <= 1
    assert coarse.choices_as_before < int8.choices_as_before
    assert 0 < int8.action_error < coarse.action_error
    assert len(int8.layers) == 2 + 3 + 2  # of both sub-policies and the master


def test_statistics_of_the_models_env_are_folded_in():
    env = normalized()
    report = sweep(plain(A2C, env, policy_kwargs=dict(net_arch=[9])), RandomEnv, ["int8"], n_eval_episodes=2)
    assert report.form("int8").action_error < 0.02


def test_the_interval_is_of_pairs():
    rng = np.random.default_rng(1)
    before = rng.normal(-200, 50, 40)
    error, (low, high) = relative_errors(before - 2 + rng.normal(0, 0.5, 40), before)
    assert error == pytest.approx(0.01, abs=0.002)
    assert 0.008 < low < error < high < 0.012
    assert relative_errors(before + 100, before)[0] < 0


def test_the_smallest_form_within_the_tolerance():
    def form(scheme, n_bytes, error):
        return Form(scheme, n_bytes, 0.0, 0.0, error, (error, error), None, None, ())

    forms = (form("fp32", 40, 0.0), form("w8", 10, 0.02), form("w4", 5, 0.03), form("w2", 3, -0.5))
    assert smallest_within(forms, 0.025) == "w2"
    assert smallest_within(forms[:3], 0.025) == "w8"
    assert smallest_within(forms[:3], 0.0) == "fp32"


@pytest.mark.parametrize(
    ("kwargs", "message"),
    [
        (dict(n_eval_episodes=0), "n_eval_episodes must be at least 1"),
        (dict(tolerance=-0.1), r"tolerance must be in \[0, 1\)"),
        (dict(schemes=["int9"]), "A scheme takes 2 to 8 bits, got 9 and 9"),
        (dict(schemes=["bf16"]), "A scheme is fp16, or bits such as int8"),
        (dict(env="Pendulum-v1"), "Observation spaces do not match"),
        (dict(env="NoSuchEnv-v0"), "doesn't exist"),
    ],
)
def test_wrong_input_is_one_sentence_and_writes_nothing(tmp_path, kwargs, message):
    with pytest.raises((ValueError, gym.error.Error), match=message):
        sweep(steering_teacher(), **{**dict(env=Steer, output=tmp_path / "out"), **kwargs})
    assert not list(tmp_path.iterdir())


def test_a_folder_that_is_not_empty_is_refused(tmp_path):
    (tmp_path / "mine").touch()
    with pytest.raises(FileExistsError, match="name a new folder"):
        sweep(steering_teacher(), Steer, ["w8"], output=tmp_path, n_eval_episodes=1)


def test_the_command_line(tmp_path):
    model = SAC("MlpPolicy", "Pendulum-v1", policy_kwargs=dict(net_arch=[32, 32]), seed=0, buffer_size=10, device="cpu")
    model.save(tmp_path / "agent")
    arguments = ["quantize", "sweep", tmp_path / "agent.zip", "--env", "Pendulum-v1", "-n", 2, "-o", tmp_path / "out"]
    done = run(*arguments, "--scheme", "int8", "--scheme", "w4-tensor-affine")
    assert done.returncode == 0, done.stderr
    assert "The smallest form within 2.5% of the return is" in done.stdout
    assert (tmp_path / "out" / "sweep.png").stat().st_size > 10_000
    assert "Next: " not in done.stdout  # neither is what the export writes
    done = run(
        *arguments[:-1], tmp_path / "exported", "--scheme", "int8-gptq", "--tolerance", 0.99, "--env-kwargs", '{"g": 9.81}'
    )
    (line,) = (line for line in done.stdout.splitlines() if line.startswith("Next: "))
    command = shlex.split(line.removeprefix("Next: sb3-asym "))
    assert command[-2:] == ["--env-kwargs", '{"g": 9.81}']
    done = run(*command, "-n", 1, cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    assert (tmp_path / "robot" / "asym_policy.c").is_file()
    done = run(*arguments[:-1], tmp_path / "other", "--scheme", "w99")
    assert (done.returncode, done.stderr) == (2, "sb3-asym: A scheme takes 2 to 8 bits, got 99 and None.\n")
    assert not (tmp_path / "other").exists()
