"""What earlier versions wrote can still be read (``tests/data/make.py`` made it)."""

import shutil
from pathlib import Path

import gymnasium as gym
import numpy as np
import pytest

from sb3_asym import AsymSAC
from sb3_asym.bench_export import bench
from sb3_asym.deployment import load_model

VERSIONS = sorted(path for path in (Path(__file__).parent / "data").iterdir() if path.is_dir())


@pytest.fixture(params=VERSIONS, ids=lambda path: path.name)
def written(request):
    return request.param


def test_an_agent_acts_as_it_did_and_learns_on(written):
    agent = AsymSAC.load(written / "agent", env=gym.make("Pendulum-v1"), device="cpu")
    with np.load(written / "predictions.npz") as expected:
        state = None
        for observation, expected_action in zip(expected["observations"], expected["actions"], strict=True):
            action, state = agent.predict(observation, state, deterministic=True)
            assert action == pytest.approx(expected_action, abs=1e-5)
    agent.load_replay_buffer(written / "memory")
    n_options = agent.option_memory.size()
    assert (agent.replay_buffer.size(), n_options) == (61, 13)
    samples = agent.option_memory.sample(50)
    assert set(np.round(samples.discounts.flatten().tolist(), 4)) <= {0.9703}
    updates = agent.master.counters()["_n_updates"]
    agent.learn(30, reset_num_timesteps=False)
    assert agent.master.counters()["_n_updates"] == updates + 30
    assert agent.option_memory.size() > n_options


def test_an_agent_that_learned_with_goals_too(written):
    pytest.importorskip("gymnasium_robotics")
    agent = AsymSAC.load(written / "her_agent", env=gym.make("gymnasium_robotics:FetchReach-v4"), device="cpu")
    agent.load_replay_buffer(written / "her_memory")
    assert agent.option_memory.size() > 0
    agent.learn(10, reset_num_timesteps=False)
    assert load_model(written / "her_agent").option_names == ("small", "large")


@pytest.mark.parametrize("target", ["c", "onnx"])
def test_an_export(written, target):
    if target == "onnx":
        pytest.importorskip("onnxruntime")
    elif shutil.which("cc") is None:
        pytest.skip("there is no C compiler")
    report = bench(written / f"export_{target}", load_model(written / "agent.zip"))
    assert report.find({"c": "C", "onnx": "ONNX Runtime"}[target]).median_ns > 0
    assert report.n_steps == 200
