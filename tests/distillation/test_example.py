"""The example, in a short form, as a user runs it."""

import json
import sys
from pathlib import Path

import torch as th
from export_cases import command
from stable_baselines3 import DQN

EXAMPLE = Path(__file__).parents[2] / "examples" / "distill_an_agent.py"


def test_a_given_agent_is_distilled_and_the_chosen_one_exported(tmp_path):
    """A DQN agent that pushes to where the pole falls."""
    model = DQN("MlpPolicy", "CartPole-v1", policy_kwargs=dict(net_arch=[64, 64]), buffer_size=10, seed=0, device="cpu")
    first, second, last = (layer for layer in model.policy.q_net.q_net if isinstance(layer, th.nn.Linear))
    with th.no_grad():
        for parameter in model.policy.q_net.parameters():
            parameter.zero_()
        first.weight[:2] = th.tensor([[0.0, 0.0, -1.0, -0.5], [0.0, 0.0, 1.0, 0.5]])
        second.weight[:2, :2] = last.weight[:, :2] = th.eye(2)
    model.save(tmp_path / "agent")
    options = ("--env", "CartPole-v1", "--updates", "300", "--episodes", "2", "--output", tmp_path / "out")
    text = command(sys.executable, EXAMPLE, tmp_path / "agent.zip", *options)
    report = json.loads((tmp_path / "out" / "agents" / "report.json").read_text())
    assert report["reason"] in text
    assert report["chosen"]
    assert "action error: 0 mean" in text
    assert (tmp_path / "out" / "robot" / "asym_policy.c").exists()
