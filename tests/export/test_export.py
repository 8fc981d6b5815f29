"""Exports as a whole: folders, reports, precision, loading, the command line and what it says about bad input."""

import json
import sys
from types import SimpleNamespace
from zipfile import ZipFile

import gymnasium as gym
import numpy as np
import pytest
import torch as th
from envs import GoalChainEnv
from export_cases import DICT, RandomEnv, asym, command, normalized, plain
from gymnasium import spaces
from sb3_contrib import TQC, CrossQ, RecurrentPPO
from stable_baselines3 import A2C, DDPG, DQN, PPO, SAC, TD3, HerReplayBuffer
from stable_baselines3.common.torch_layers import FlattenExtractor
from stable_baselines3.sac.policies import Actor, SACPolicy
from torch import nn

from sb3_asym import AsymSAC, cli
from sb3_asym.deployment.loading import load_model
from sb3_asym.deployment.recording import SampledObservations
from sb3_asym.export import deployable, export_c, export_onnx
from sb3_asym.quantization.ptq import quantize
from sb3_asym.quantization.schemes import parse_precision

BOTH = pytest.mark.parametrize("export", [export_c, export_onnx])


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """Models as files: an agent with statistics of its observations, and a damaged and a foreign one."""
    folder = tmp_path_factory.mktemp("models")
    model = asym(normalized())
    model.save(folder / "agent.zip")
    model.get_vec_normalize_env().save(folder / "statistics.pkl")
    asym(gym.make("Pendulum-v1")).save(folder / "pendulum.zip")
    whole = (folder / "agent.zip").read_bytes()
    (folder / "damaged.zip").write_bytes(whole[: len(whole) // 2])
    (folder / "text.zip").write_text("not a model")
    plain(RecurrentPPO, policy="MlpLstmPolicy", n_steps=8, batch_size=8).save(folder / "recurrent.zip")
    of_openai_gym(folder / "pendulum.zip", folder / "gym.zip")
    asym(net=dict(activation_fn=nn.GELU)).save(folder / "gelu.zip")
    return folder


def of_openai_gym(source, target):
    """A copy of a model whose spaces are those of OpenAI Gym, as models of SB3 before 2.0 have them."""
    with ZipFile(source) as old, ZipFile(target, "w") as new:
        for name in old.namelist():
            content = old.read(name)
            new.writestr(name, content.replace(b"'gymnasium.spaces", b"'gym.spaces") if name == "data" else content)


def cli_fails(capfd, monkeypatch, *arguments):
    """Runs ``sb3-asym export``, which must fail; gives what it wrote to stderr."""
    monkeypatch.setattr(sys, "argv", ["sb3-asym", "export", *map(str, arguments)])
    with pytest.raises(SystemExit) as ended:
        cli.main()
    assert ended.value.code == 2
    return capfd.readouterr().err


def test_command_line_exports_c_that_compiles_and_passes_its_self_test(folder, tmp_path):
    out = tmp_path / "new" / "robot"
    printed = command(
        *(sys.executable, "-m", "sb3_asym.cli", "export", folder / "pendulum.zip", "-o", out, "--env", "Pendulum-v1", "-n", 2),
        *("--precision", "large=int8,small=fp16", "--prefix", "pendulum", "--env-kwargs", '{"g": 9.0}'),
    )
    for line in (
        "small: fp16",
        "large: int8",
        "master: fp32",
        "return over 2 episodes: -",
        "choices agree",
        "÷ fp32's",
        str(out),
    ):
        assert line in printed
    names = {"pendulum_policy.h", "pendulum_policy.c", "pendulum_policy_selftest.c", "episode.npz", "export.json"}
    assert {file.name for file in out.iterdir()} == names
    assert [file.name for file in out.parent.iterdir()] == ["robot"]
    command("gcc", "-std=c99", "pendulum_policy.c", "pendulum_policy_selftest.c", "-lm", "-o", tmp_path / "selftest", cwd=out)
    assert command(tmp_path / "selftest").startswith("ok")
    report = json.loads((out / "export.json").read_text())
    assert report["precision"] == {"small": "fp16", "large": "int8", "master": "fp32"}
    assert -2000 < report["mean_reward"] < 0
    assert report["n_episodes"] == 2
    assert report["versions"]["torch"] == th.__version__


def test_command_line_folds_statistics_in(folder, tmp_path, monkeypatch):
    arguments = ["export", folder / "agent.zip", "-o", tmp_path / "robot", "--format", "onnx"]
    monkeypatch.setattr(sys, "argv", ["sb3-asym", *map(str, arguments), "--vec-normalize", str(folder / "statistics.pkl")])
    with pytest.raises(SystemExit) as ended:
        cli.main()
    assert ended.value.code == 0
    import onnxruntime

    session = onnxruntime.InferenceSession(tmp_path / "robot" / "sub_policy_large.onnx")
    model = asym(normalized())
    observations = np.array([model.observation_space.sample() for _ in range(20)])
    (actions,) = session.run(None, {"observation": observations})
    actor = model.policy.actors[1]
    with th.no_grad():
        x = th.as_tensor(model.get_vec_normalize_env().normalize_obs(observations), dtype=th.float32)
        expected = model.policy.unscale_action(actor(x, deterministic=True).numpy())
    np.testing.assert_allclose(actions, expected, atol=1e-5)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["missing.zip"], "There is no file missing.zip."),
        (["damaged.zip"], "is not a model that SB3 or sb3-asym saved, or it is damaged"),
        (["text.zip"], "is not a model that SB3 or sb3-asym saved, or it is damaged"),
        (["recurrent.zip"], "has no deployable form"),
        (["gym.zip"], "gym.zip was saved with OpenAI Gym, which is not installed: load it once with custom_objects="),
        (["gelu.zip"], "GELU(approximate='none') of small cannot be exported; these can: Linear, ReLU"),
        (["pendulum.zip", "--env", "NoSuchEnv-v0"], "Environment `NoSuchEnv` doesn't exist"),
        (["pendulum.zip", "--env", "CartPole-v1"], "Observation spaces do not match"),
        (["pendulum.zip", "--env", "Pendulum-v1", "--env-kwargs", "g=9"], "--env-kwargs must be JSON"),
        (["pendulum.zip", "--env", "Pendulum-v1", "-n", -1], "n_eval_episodes must be at least 0"),
        (["pendulum.zip", "--vec-normalize", "statistics.pkl"], "spaces must have the same shape"),
        (["pendulum.zip", "--vec-normalize", "text.zip"], "text.zip holds no statistics"),
        (["pendulum.zip", "--precision", "int4"], "The precision of small must be one of fp32, fp16, int8, got 'int4'"),
        (
            ["pendulum.zip", "--precision", "huge=int8"],
            "There is no network 'huge' to quantize: the agent has small, large, mas",
        ),
        (["pendulum.zip", "--precision", "int8"], "int8 is calibrated on observations of rollouts: name the env"),
        (["pendulum.zip", "--prefix", "my robot"], "The prefix must be a C identifier"),
    ],
)
def test_bad_input_ends_with_one_line_and_leaves_nothing(folder, tmp_path, capfd, monkeypatch, arguments, message):
    monkeypatch.chdir(folder)
    error = cli_fails(capfd, monkeypatch, *arguments, "-o", tmp_path / "robot")
    assert message in error
    assert len(error.splitlines()) == 1
    assert not list(tmp_path.iterdir())


def test_a_folder_that_is_not_empty_stays_as_it_is(folder, tmp_path, capfd, monkeypatch):
    (tmp_path / "notes.txt").write_text("mine")
    error = cli_fails(capfd, monkeypatch, folder / "pendulum.zip", "-o", tmp_path)
    assert error == f"sb3-asym: {tmp_path} is there and not empty: name a new folder.\n"
    assert [(file.name, file.read_text()) for file in tmp_path.iterdir()] == [("notes.txt", "mine")]


@BOTH
def test_an_empty_folder_is_used_even_if_it_is_the_current_one(export, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    export(plain(SAC, policy_kwargs=dict(net_arch=[4])), ".")
    assert (tmp_path / "export.json").exists()
    assert not [file for file in tmp_path.iterdir() if file.name.startswith(".")]


@BOTH
def test_what_fails_in_the_middle_leaves_nothing(export, tmp_path):
    class BreaksLate(RandomEnv):
        def step(self, action):
            self.n_steps = getattr(self, "n_steps", 0) + 1
            if self.n_steps == 1500:
                raise RuntimeError("a wire came loose")
            return super().step(action)

    (tmp_path / "empty").mkdir()
    for name in ("new", "empty"):
        with pytest.raises(RuntimeError, match="a wire came loose"):
            export(asym(), tmp_path / name, BreaksLate(), n_eval_episodes=50)
    assert not list((tmp_path / "empty").iterdir())
    assert [file.name for file in tmp_path.iterdir()] == ["empty"]


@BOTH
@pytest.mark.parametrize("precision", ["fp32", "int8"])
def test_report(export, precision, tmp_path):
    episodes = []
    env = RandomEnv(DICT)
    report = export(
        asym(env, "MultiInputPolicy"),
        tmp_path / "out",
        env,
        precision,
        n_eval_episodes=3,
        on_episode=lambda: episodes.append(1),
    )
    assert report.n_episodes == 3
    assert report.selftest_failures == 0
    assert len(episodes) > 6
    if precision == "fp32":
        assert report.choice_agreement == 1
        assert report.max_action_error < 1e-5
        assert report.mean_reward == pytest.approx(report.model_mean_reward, abs=1e-3)
        assert report.time_over_fp32 is None
        assert report.n_bytes == report.fp32_bytes
    else:
        assert report.choice_agreement > 0.9
        assert 1e-5 < report.mean_action_error < 0.05
        assert report.time_over_fp32 > 0
        assert "fp32's" in str(report)
    assert json.loads((tmp_path / "out" / "export.json").read_text())["n_bytes"] == report.n_bytes
    with np.load(tmp_path / "out" / "episode.npz") as episode:
        assert episode["observations"].shape == (1000, 12)


def test_without_a_compiler_the_report_says_so(tmp_path, monkeypatch):
    model = plain(SAC, policy_kwargs=dict(net_arch=[4]))
    monkeypatch.setenv("PATH", "")
    monkeypatch.delenv("CC", raising=False)
    report = export_c(model, tmp_path / "out", RandomEnv(), n_eval_episodes=1)
    assert "was not run: There is no C compiler" in str(report)
    assert report.mean_reward is None
    assert (tmp_path / "out" / "asym_policy.c").exists()


def test_a_compiler_for_another_processor_is_no_error(tmp_path, monkeypatch):
    (tmp_path / "cross-gcc").write_text("#!/bin/sh\nexit 1\n")
    (tmp_path / "cross-gcc").chmod(0o755)
    monkeypatch.setenv("CC", str(tmp_path / "cross-gcc"))
    report = export_c(plain(SAC, policy_kwargs=dict(net_arch=[4])), tmp_path / "out")
    assert "was not run: " in str(report)
    assert (tmp_path / "out" / "export.json").exists()


def test_bounds_that_stand_for_none_are_not_sampled_up_to():
    greatest = np.finfo(np.float32).max
    boxes = {"free": spaces.Box(-greatest, greatest, (3,)), "angle": spaces.Box(-1, 1, (2,))}
    model = SimpleNamespace(observation_space=spaces.Dict(boxes), action_space=spaces.Box(-1, 1, (1,)))
    for seed in range(5):
        observation, _ = SampledObservations(model).reset(seed=seed)
        assert np.abs(observation["free"]).max() < 100
        assert np.abs(observation["angle"]).max() <= 1


def test_precision_by_network_and_its_bytes():
    agent = deployable(asym(archs=dict(small=[8], large=[256, 256])))
    names = tuple(agent.n_bytes)
    assert parse_precision("fp16", names) == dict.fromkeys(names, "fp16")
    chosen = parse_precision("large=int8, small=fp16", names)
    assert chosen == {"small": "fp16", "large": "int8", "master": "fp32"}
    observations = np.random.default_rng(0).normal(size=(100, 5)).astype(np.float32)
    less = quantize(agent, chosen, observations)
    assert {network.name: network.precision for network in less.networks} == chosen
    assert less.n_bytes["small"] == agent.n_bytes["small"] / 2
    assert less.n_bytes["large"] <= 0.3 * agent.n_bytes["large"]
    assert less.n_bytes["master"] == agent.n_bytes["master"]
    options = np.ones(100, dtype=int)
    errors = np.abs(less.actions(observations, options) - agent.actions(observations, options))
    assert 0 < errors.mean() < 0.03


def test_int8_of_tiny_weights_keeps_the_bias():
    model = asym()
    with th.no_grad():
        model.policy.actors[1].mu.weight.mul_(1e-12)
        model.policy.actors[1].mu.bias.fill_(0.5)
    agent = deployable(model)
    observations = np.random.default_rng(0).normal(size=(100, 5)).astype(np.float32)
    less = quantize(agent, dict.fromkeys(agent.n_bytes, "int8"), observations)
    biases = less.sub_policies[1].layers[-1].offset / less.sub_policies[1].layers[-1].scale
    assert np.abs(biases).max() < 2**31
    options = np.ones(100, dtype=int)
    np.testing.assert_allclose(less.actions(observations, options), agent.actions(observations, options), atol=1e-4)


def test_fp16_says_where_a_weight_is_too_large():
    model = asym()
    with th.no_grad():
        model.policy.actors[0].mu.weight[0, 0] = 1e5
    agent = deployable(model)
    with pytest.raises(ValueError, match="A weight of small is too large for fp16"):
        quantize(agent, dict.fromkeys(agent.n_bytes, "fp16"))


@pytest.mark.parametrize("algorithm", [AsymSAC, SAC, TD3, DDPG, TQC, DQN, PPO, A2C])
def test_a_file_is_loaded_whatever_trained_it(algorithm, tmp_path):
    env = RandomEnv(discrete=algorithm is DQN)
    model = plain(algorithm, env)
    model.save(tmp_path / "model.zip")
    agent, loaded = (deployable(m) for m in (model, load_model(tmp_path / "model.zip")))
    observations = np.array([env.observation_space.sample() for _ in range(50)])
    chosen = loaded.choices(observations)
    np.testing.assert_array_equal(chosen, agent.choices(observations))
    np.testing.assert_array_equal(loaded.actions(observations, chosen), agent.actions(observations, chosen))


@pytest.mark.parametrize("algorithm", [AsymSAC, SAC])
def test_a_model_that_learned_with_hindsight_needs_no_env(algorithm, tmp_path):
    her = dict(replay_buffer_class=HerReplayBuffer, replay_buffer_kwargs=dict(n_sampled_goal=2), buffer_size=100)
    algorithm("MultiInputPolicy", GoalChainEnv(), device="cpu", **her).save(tmp_path / "model.zip")
    export_c(load_model(tmp_path / "model.zip"), tmp_path / "out", GoalChainEnv(), n_eval_episodes=1)


class SlowActor(Actor):
    """Does more than its layers."""

    def forward(self, obs, deterministic=False):
        return super().forward(obs, deterministic) / 2


class SlowPolicy(SACPolicy):
    def make_actor(self, features_extractor=None):
        kwargs = self._update_features_extractor(self.actor_kwargs, features_extractor)
        return SlowActor(**kwargs).to(self.device)


class Learned(FlattenExtractor):
    def __init__(self, space):
        super().__init__(space)
        self.linear = nn.Linear(5, 5)


def image(policy):
    env = RandomEnv(spaces.Box(0, 255, (3, 36, 36), np.uint8))
    return PPO(policy, env, device="cpu", n_steps=8, batch_size=8)


@BOTH
@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: image("CnnPolicy"), "cannot be exported: only vectors of numbers can"),
        (lambda: image("MlpPolicy"), "cannot be exported: only vectors of numbers can"),
        (lambda: plain(RecurrentPPO, policy="MlpLstmPolicy"), "are no plain chain from the observation on"),
        (lambda: plain(CrossQ), "CrossQPolicy has no deployable form"),
        (lambda: plain(SAC, policy=SlowPolicy), "predict does not do what its layers do"),
        (lambda: plain(SAC, policy_kwargs=dict(features_extractor_class=Learned)), "Learned of policy cannot be exported"),
        (lambda: asym(net=dict(activation_fn=lambda: nn.Softplus(beta=2))), "Softplus(beta=2, threshold=20.0) of small"),
        (lambda: plain(TD3, policy_kwargs=dict(net_arch=[4], activation_fn=lambda: nn.LayerNorm(4))), "LayerNorm((4,)"),
        (lambda: plain(PPO, RandomEnv(spaces.Discrete(3))), "only vectors of numbers can"),
    ],
)
def test_a_model_without_a_deployable_form(export, make, message, tmp_path):
    with pytest.raises(ValueError, match=r"\.$") as error:
        export(make(), tmp_path / "out")
    assert message in str(error.value)
    assert "\n" not in str(error.value)
    assert not list(tmp_path.iterdir())


@BOTH
def test_a_vectorized_env(export, tmp_path):
    model = plain(SAC, policy_kwargs=dict(net_arch=[4]))
    with pytest.raises(TypeError, match="not a VecEnv"):
        export(model, tmp_path / "out", model.get_env())
    assert not list(tmp_path.iterdir())


@BOTH
def test_an_env_with_other_spaces(export, tmp_path):
    with pytest.raises(ValueError, match="Observation spaces do not match"):
        export(asym(), tmp_path / "out", RandomEnv(DICT))
    assert not list(tmp_path.iterdir())
