"""The control loops in examples/ that run an exported agent, in C and in ONNX Runtime."""

import re
import shutil
import sys
from pathlib import Path

import gymnasium as gym
import numpy as np
import pytest
from export_cases import asym, command
from option_cases import set_choice

from sb3_asym.deployment.recording import record
from sb3_asym.export import c_runner, deployable, export_onnx, onnx_runner

EXAMPLES = Path(__file__).parents[2] / "examples"


@pytest.fixture(scope="module")
def still():
    """HalfCheetah that always starts from the same place."""
    return gym.make("HalfCheetah-v5", reset_noise_scale=0)


def printed_results(text):
    """Return, and use of each option."""
    total = float(re.search(r"return (\S+) in 1000 steps", text)[1])
    return total, {name: float(share) for name, share in re.findall(r"(\w+): (\S+)% of the steps", text)}


def check(text, agent, recording):
    total, uses = printed_results(text)
    assert total == pytest.approx(recording.returns[0], abs=1e-2)
    shares = np.bincount(recording.options, minlength=2) / 10
    assert uses == {network.name: pytest.approx(share) for network, share in zip(agent.sub_policies, shares, strict=True)}
    assert min(shares) > 0


@pytest.mark.skipif(not (sys.platform == "linux" and shutil.which("make")), reason="needs Linux and make")
def test_c_control_loop(still, tmp_path, monkeypatch):
    model = asym(still)
    model.save(tmp_path / "agent.zip")
    settings = dict(MODEL=tmp_path / "agent.zip", PYTHON=sys.executable, BUILD=tmp_path / "build", FLAGS="")
    text = command("make", "-C", EXAMPLES / "c_control_loop", *(f"{name}={value}" for name, value in settings.items()))
    assert "ok: 0 of 200 steps differ" in text
    # The same instructions in the same simulation: where roundings differ, HalfCheetah's episodes soon do too.
    monkeypatch.setattr(c_runner, "C_FLAGS", ("-std=c99", "-O2"))
    agent = deployable(model)
    runner = c_runner.CRunner(agent, tmp_path / "build" / "policy")
    check(text, agent, record(runner, agent, still, n_episodes=1))


def test_onnx_control_loop(still, tmp_path):
    model = asym(still)
    export_onnx(model, tmp_path / "out")
    example = EXAMPLES / "onnx_control_loop.py"
    text = command(
        *(sys.executable, example, tmp_path / "out", "HalfCheetah-v5", "--env-kwargs", '{"reset_noise_scale": 0}'),
    )
    agent = deployable(model)
    check(text, agent, record(onnx_runner.OnnxRunner(agent, tmp_path / "out"), agent, still, n_episodes=1))


def test_onnx_control_loop_within_a_budget(still, tmp_path):
    model = asym(still, cost_coef=(0.01, 10.0))
    network = model.policy.advantage_network
    set_choice(model, 0.1 * network.prices)  # the large one is chosen where λ < 0.1
    export_onnx(model, tmp_path / "out")
    loop = sys.executable, EXAMPLES / "onnx_control_loop.py", tmp_path / "out", "HalfCheetah-v5"
    budget = model.policy.cost_shares.mean()
    shares = model.policy.cost_shares
    model.master.set_cost_coef(model.master.cost_coef, budget)
    export_onnx(model, tmp_path / "with its own")
    own = sys.executable, EXAMPLES / "onnx_control_loop.py", tmp_path / "with its own", "HalfCheetah-v5"
    for arguments, spent in ((loop, shares[0]), ((*loop, "--budget", str(budget)), budget), (own, budget)):
        _, uses = printed_results(command(*arguments))
        assert np.dot(list(uses.values()), shares) / 100 == pytest.approx(spent, abs=0.05)


def test_onnx_control_loop_with_dict_observations(tmp_path):
    env = gym.make("gymnasium_robotics:FetchReach-v4")
    model = asym(env, "MultiInputPolicy")
    export_onnx(model, tmp_path / "out")
    example = EXAMPLES / "onnx_control_loop.py"
    text = command(sys.executable, example, tmp_path / "out", "gymnasium_robotics:FetchReach-v4")
    assert re.search(r"return -\d+\.\d+ in 50 steps", text)
