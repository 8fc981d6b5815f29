"""``sb3-asym actorq``, run as a user runs it."""

import json
import sys

import gymnasium as gym
import pytest
from command_line import run
from stable_baselines3 import TD3
from stable_baselines3.common.vec_env import DummyVecEnv, VecNormalize

from sb3_asym.cli.main import main


def test_train_and_go_on(tmp_path):
    command = ["actorq", "train", "--env", "Pendulum-v1", "--algo", "td3", "--actors", 1, "--steps", 200]
    hyperparams = {"learning_starts": 50, "policy_kwargs": {"net_arch": [8]}}
    done = run(*command, "--hyperparams", json.dumps(hyperparams), "-o", "first", cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    assert "Actors in int8" in done.stdout
    assert "Next: sb3-asym export" in done.stdout
    assert json.loads((tmp_path / "first" / "report.json").read_text())["n_steps"] >= 200
    assert (tmp_path / "first" / "report.png").read_bytes().startswith(b"\x89PNG")
    again = ["--model", "first/agent.zip", "--precision", "fp32", "--checkpoint-every", 100, "-o", "second"]
    done = run(*command, *again, cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    assert TD3.load(tmp_path / "second" / "agent.zip").num_timesteps >= 400
    assert list((tmp_path / "second" / "checkpoints").glob("rl_model_*_steps.zip"))


def test_go_on_with_normalized_observations(tmp_path):
    """The statistics beside the agent are taken, learned on, and saved again."""
    env = VecNormalize(DummyVecEnv([lambda: gym.make("Pendulum-v1")]))
    hyperparams = dict(learning_starts=50, policy_kwargs=dict(net_arch=[8]), device="cpu", seed=0)
    TD3("MlpPolicy", env, **hyperparams).learn(100).save(tmp_path / "agent")
    env.save(str(tmp_path / "agent.vecnormalize.pkl"))
    command = ["actorq", "train", "--env", "Pendulum-v1", "--algo", "td3", "--actors", 1, "--steps", 100]
    done = run(*command, "--model", "agent.zip", "--seed", 7, "-o", "out", cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    assert "Observations are normalized with agent.vecnormalize.pkl" in done.stderr
    statistics = VecNormalize.load(str(tmp_path / "out" / "vecnormalize.pkl"), DummyVecEnv([lambda: gym.make("Pendulum-v1")]))
    assert statistics.obs_rms.count > env.obs_rms.count
    assert TD3.load(tmp_path / "out" / "agent.zip").seed == 7
    done = run(*command, "--model", "agent.zip", "--hyperparams", '{"gamma": 0.9}', "-o", "other", cwd=tmp_path)
    assert (done.returncode, (tmp_path / "other").exists()) == (2, False)
    assert "--hyperparams are those of a new agent" in done.stderr


def test_bench(tmp_path):
    report = tmp_path / "report.json"
    done = run("actorq", "bench", "--env", "Pendulum-v1", "--layers", "8,8", "--rounds", 1, "--steps", 50, "-o", report)
    assert done.returncode == 0, done.stderr
    assert json.loads(report.read_text())["net_arch"] == [8, 8]


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["train", "--hyperparams", "[1]"], "--hyperparams"),
        (["train", "--model", "none.zip"], "none.zip"),
        (["train", "--actors", "0"], "at least one actor"),
        (["bench", "--layers", "wide"], "--layers takes hidden layers such as 256,256"),
        (["bench", "--rounds", "0"], "must be at least 1"),
    ],
)
def test_wrong_input(arguments, message, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "argv", ["sb3-asym", "actorq", *arguments, "--env", "Pendulum-v1"])
    with pytest.raises(SystemExit) as left:
        main()
    assert left.value.code != 0
    assert message in capsys.readouterr().err
    assert not list(tmp_path.iterdir())
