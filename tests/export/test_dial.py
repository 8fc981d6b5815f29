"""λ set in exported code."""

import json
import re

import numpy as np
import pytest
import torch as th
from export_cases import RandomEnv, command, made

from sb3_asym.deployment import deployable
from sb3_asym.deployment.recording import replay
from sb3_asym.deployment.runners import ReferenceRunner
from sb3_asym.export import export_c, export_onnx
from sb3_asym.export.c import fill, write_c
from sb3_asym.export.c_runner import CRunner, c_compiler
from sb3_asym.export.onnx import open_session, write_onnx
from sb3_asym.export.onnx_runner import OnnxRunner
from sb3_asym.quantization.ptq import quantize
from sb3_asym.quantization.schemes import parse_precision

FORMATS = {"c": (write_c, CRunner), "onnx": (lambda agent, _, folder: write_onnx(agent, folder), OnnxRunner)}


class Dialled:
    """A runner under another λ."""

    def __init__(self, runner, cost_coef):
        self.runner, self.cost_coef = runner, cost_coef

    def reset(self):
        self.runner.reset()
        self.runner.set_cost_coef(self.cost_coef)

    def step(self, observation):
        return self.runner.step(observation)


@pytest.mark.parametrize("precision", ["fp32", "int8"])
@pytest.mark.parametrize("kind", FORMATS)
@pytest.mark.parametrize("case", ["dial", "dial, linear master"])
def test_an_export_chooses_as_the_model_does(case, kind, precision, tmp_path):
    model, agent, recording = made(case)
    precisions = parse_precision(precision, tuple(network.name for network in agent.networks))
    write, runner = FORMATS[kind]
    write(quantize(agent, precisions, recording.observations), recording, tmp_path)
    driver = runner(agent, tmp_path)
    use = []
    for cost_coef in (0.1, 1.0, 3.0, 10.0):
        model.set_cost_coef(cost_coef)
        wanted, _ = replay(ReferenceRunner(deployable(model)), agent, recording)
        options, _ = replay(Dialled(driver, cost_coef), agent, recording)
        if precision == "fp32":
            np.testing.assert_array_equal(options, wanted)
        else:
            assert np.mean(options == wanted) > 0.9
        use.append(np.mean(options))
    assert use[0] > use[-1]


def test_all_of_the_dial_is_within_the_range_of_int8():
    """What goes into the master's second layer at the ends of the dial, by the model."""
    model, agent, recording = made("dial")
    exported = quantize(agent, "int8", recording.observations)
    layer = exported.master.layers[1]
    for cost_coef in (agent.dial.low, agent.dial.high):
        model.set_cost_coef(cost_coef)
        hidden = deployable(model).master.layers[0].forward(th.as_tensor(recording.observations)).numpy()
        scaled = hidden * layer.gain + layer.zero
        assert scaled.max() < 256


def test_a_reset_brings_back_what_was_exported(tmp_path):
    _, agent, recording = made("dial")
    write_c(agent, recording, tmp_path)
    driver = CRunner(agent, tmp_path)
    assert driver.set_cost_coef(10.0) == 0
    driver.reset()
    np.testing.assert_array_equal(replay(driver, agent, recording)[0], recording.options)
    assert [driver.set_cost_coef(value) for value in (0.09, 10.1, float("nan"), -1.0)] == [-3] * 4


@pytest.mark.parametrize(("episode", "budget"), [(2, 0.5), (50, 0.5), (50, 0.01), (50, 1.0)])
def test_c_keeps_a_budget_as_the_model_does(episode, budget, tmp_path):
    """Over the ends of episodes too, which may be shorter than an option; and at the ends of the dial."""
    model, agent, recording = made("dial")
    write_c(agent, recording, tmp_path)
    driver = CRunner(agent, tmp_path)
    model.master.set_cost_coef(model.master.cost_coef, budget)
    driver.reset()
    assert [driver.set_budget(value) for value in (-0.1, 1.1, float("nan"))] == [-4] * 3
    assert driver.set_budget(budget) == 0
    state, options = None, []
    for step, observation in enumerate(np.resize(recording.observations, (600, agent.obs_dim))):
        if step % 7 == 0:  # a step that fails costs nothing
            assert driver.step(np.full_like(observation, np.nan))[0] == -1
        start = step % episode == 0
        if start:
            driver.begin_episode()
        _, state = model.predict(observation, state, np.array([start]), deterministic=True)
        options.append(driver.step(observation)[0])
        assert options[-1] == state.option[0]
    assert set(options) == {0, 1}
    driver.set_budget(0.0)  # leaves λ where it is
    model.set_cost_coef(float(state.cost_coefs[0]))
    wanted, _ = replay(ReferenceRunner(deployable(model)), agent, recording)
    driver.begin_episode()
    options = [driver.step(agent.unflatten(observation))[0] for observation in recording.observations[:30]]
    np.testing.assert_array_equal(options, wanted[:30])


def test_c_begins_with_the_budget_of_the_agent(tmp_path):
    model, agent, recording = made("dial")
    model.master.set_cost_coef(model.master.cost_coef, 0.25)
    spending = deployable(model)
    assert (spending.dial.budget, agent.dial.budget) == (0.25, 0.0)
    write_c(spending, recording, tmp_path)
    assert "state->budget = 0.25f;" in (tmp_path / "asym_policy.c").read_text()
    # What was recorded was under one λ: the self-test sets no budget, nor does what measures times.
    sources = [tmp_path / name for name in ("asym_policy.c", "asym_policy_selftest.c")]
    command(c_compiler(), "-std=c99", "-I", tmp_path, *sources, "-lm", "-o", tmp_path / "selftest")
    assert command(tmp_path / "selftest").startswith("ok: 0 of")
    replayed = fill("replay.c", prefix="asym", PREFIX="ASYM")
    marker = re.search(r"#ifdef (\w+)\n\s+asym_set_budget\(&state, 0.0f\);", replayed)[1]
    assert f"#define {marker} " in (tmp_path / "asym_policy.h").read_text()


@pytest.mark.parametrize("export", [export_c, export_onnx])
def test_an_agent_with_a_budget_is_measured_under_one_cost_coef(export, tmp_path):
    """By λ that its budget begins with, which is the one that C and ONNX begin with."""
    model = made("dial")[0]
    model.master.set_cost_coef(1.0, 0.5)
    assert model.policy.budget == 0.5
    report = export(model, tmp_path / "out", RandomEnv(), n_eval_episodes=2)
    assert not report.selftest_failures
    assert report.mean_reward == pytest.approx(report.model_mean_reward, abs=1e-3)


def test_c_spends_the_budget_of_the_agent_from_the_reset_on(tmp_path):
    """The λ that is set meanwhile is steered from there on."""
    model, _, recording = made("dial")
    model.master.set_cost_coef(1.0, 0.5)
    agent = deployable(model)
    write_c(agent, recording, tmp_path)
    driver = CRunner(agent, tmp_path)
    driver.reset(budget=True)
    state, options = None, []
    for step, observation in enumerate(np.resize(recording.observations, (600, agent.obs_dim))):
        if step == 300:
            driver.set_cost_coef(5.0)
            state = state._replace(cost_coefs=np.array([5.0]))
        _, state = model.predict(observation, state, deterministic=True)
        options.append(driver.step(observation)[0])
        assert options[-1] == state.option[0]
    assert set(options[:300]) == set(options[300:]) == {0, 1}


def test_the_master_alone(tmp_path):
    model, agent, recording = made("dial")
    write_onnx(agent, tmp_path)
    session = open_session(tmp_path / "master.onnx")
    observations = recording.observations[:50]
    for cost_coef in (0.2, 5.0):
        model.set_cost_coef(cost_coef)
        inputs = {"observation": observations, "cost_coef": np.float32([cost_coef])}
        q_values = deployable(model).master.forward(th.as_tensor(observations))
        np.testing.assert_allclose(session.run(["q_values"], inputs)[0], q_values, atol=1e-5)
    found = json.loads(session.get_modelmeta().custom_metadata_map["dial"])
    assert {name: found[name] for name in ("low", "high")} == {"low": agent.dial.low, "high": agent.dial.high}
    assert (found["cost_coef"], found["budget"]) == (agent.dial.cost_coef, 0.0)
    for beyond, end in ((-1.0, agent.dial.low), (99.0, agent.dial.high)):
        both = [session.run(["q_values"], {**inputs, "cost_coef": np.float32([value])})[0] for value in (beyond, end)]
        np.testing.assert_array_equal(*both)
