"""GAIL: the discriminator, its reward in SB3, and students that learn by it."""

import json
from itertools import pairwise

import gymnasium as gym
import numpy as np
import pytest
import torch as th
from baseline_cases import Balance, Steer, balancing_teacher, steering_teacher
from envs import ChainEnv, DriftEnv, GoalChainEnv
from export_cases import DICT, RandomEnv, normalized, plain
from stable_baselines3 import DQN, PPO, SAC
from stable_baselines3.common.evaluation import evaluate_policy
from stable_baselines3.common.logger import KVWriter, Logger
from stable_baselines3.common.vec_env import DummyVecEnv, VecNormalize

from sb3_asym.baselines import DiscriminatorSettings, gail
from sb3_asym.baselines.discriminator import Discriminator
from sb3_asym.baselines.gail import critic_units
from sb3_asym.baselines.rewards import DiscriminatorCallback, DiscriminatorReward, RelabellingReplayBuffer
from sb3_asym.deployment import load_model
from sb3_asym.distillation import DistillationSettings
from sb3_asym.distillation.teacher import Teacher

TINY = DistillationSettings(n_rounds=2, n_envs=4, n_steps=10)
QUICK = DiscriminatorSettings(hidden=(16,), batch_size=32, update_every=20, n_updates=5)


def make_discriminator(obs_dim=1, action_dim=1, **kwargs):
    th.manual_seed(0)
    rng = np.random.default_rng(0)
    states, actions = rng.normal(3, 2, (200, obs_dim)), rng.uniform(-1, 1, (200, action_dim))
    return Discriminator(states.astype(np.float32), actions.astype(np.float32), DiscriminatorSettings(**kwargs))


def pairs(n, seed, sign):
    """States, and actions that depend on them by a sign."""
    states = np.random.default_rng(seed).normal(100, 5, (n, 1)).astype(np.float32)
    return states, np.tanh(sign * (states - 100) / 5)


# --- the discriminator ---


@pytest.mark.parametrize("reward", ["logit", "positive"])
def test_it_tells_pairs_apart_and_rewards_what_looks_like_the_teacher(reward):
    th.manual_seed(0)
    settings = DiscriminatorSettings(hidden=(16,), reward=reward, gradient_penalty=0.0, n_updates=300)
    discriminator = Discriminator(*pairs(500, 0, 1), settings)
    first = discriminator.learn(*pairs(500, 1, -1))
    second = discriminator.learn(*pairs(500, 1, -1))
    assert second["loss"] < first["loss"]
    assert second["accuracy"] > 0.85
    assert second["accuracy"] == pytest.approx((second["accuracy_teacher"] + second["accuracy_student"]) / 2)
    like_the_teacher, unlike = discriminator.rewards(*pairs(100, 2, 1)), discriminator.rewards(*pairs(100, 2, -1))
    assert like_the_teacher.shape == (100,)
    assert like_the_teacher.dtype == np.float32
    assert like_the_teacher.mean() > unlike.mean() + 1
    everything = np.concatenate([like_the_teacher, unlike, discriminator.rewards(np.array([[1e9]]), np.array([[1.0]]))])
    assert (np.abs(everything) <= 10.001).all()
    if reward == "positive":
        assert (everything >= 0).all()


def test_what_acts_like_the_teacher_cannot_be_told_from_it():
    th.manual_seed(0)
    discriminator = Discriminator(*pairs(2000, 0, 1), DiscriminatorSettings(hidden=(16,), n_updates=300))
    metrics = discriminator.learn(*pairs(2000, 1, 1))
    assert metrics["accuracy"] == pytest.approx(0.5, abs=0.06)
    assert metrics["loss"] == pytest.approx(2 * np.log(2), abs=0.05)


def test_gradient_penalty_keeps_slopes_at_1():
    slopes = []
    for weight in (0.0, 100.0):
        th.manual_seed(0)
        settings = DiscriminatorSettings(hidden=(16,), gradient_penalty=weight, n_updates=500)
        discriminator = Discriminator(*pairs(500, 0, 1), settings)
        discriminator.learn(*pairs(500, 1, -1))
        x = th.randn(200, 2, requires_grad=True)
        (slope,) = th.autograd.grad(discriminator.network(x).sum(), x)
        slopes.append(float(slope.norm(dim=1).sub(1).abs().mean()))
    assert slopes[1] < 0.3 < slopes[0]


# --- its reward in SB3 ---


def test_the_envs_reward_is_replaced():
    """By that of the state in which the action was taken, also where the episode ended."""
    discriminator = make_discriminator(n_recent=6)
    env = DiscriminatorReward(DummyVecEnv([lambda: ChainEnv((3,)), lambda: ChainEnv((4,))]), discriminator)
    states = env.reset()
    rng = np.random.default_rng(0)
    history = []
    for _ in range(8):
        actions = rng.uniform(-1, 1, (2, 1)).astype(np.float32)
        following, rewards, _, _ = env.step(actions)
        np.testing.assert_allclose(rewards, discriminator.rewards(states, actions), rtol=1e-4)
        history.append((states, actions))
        states = following
    recent = env.recent_pairs()
    for index in range(2):  # the last 6 env steps of 2 envs
        np.testing.assert_allclose(recent[index], np.concatenate([pair[index] for pair in history[-3:]]), atol=1e-5)


class Records(KVWriter):
    """What was logged."""

    def __init__(self):
        self.rows = []

    def write(self, key_values, key_excluded, step=0):
        self.rows.append(dict(key_values))


@pytest.mark.parametrize("algorithm", [SAC, PPO])
def test_learning_goes_on_again_and_again(algorithm):
    """The episode goes on, rewards are those of the discriminator as it is then, and its figures are in SB3's log."""
    discriminator = make_discriminator(hidden=(8,), batch_size=16, update_every=16, n_updates=2, n_recent=64)
    env = DiscriminatorReward(DummyVecEnv([DriftEnv, DriftEnv]), discriminator)
    kwargs = (
        dict(n_steps=8, batch_size=16)
        if algorithm is PPO
        else dict(
            learning_starts=4,
            buffer_size=200,
            batch_size=8,
            replay_buffer_class=RelabellingReplayBuffer,
            replay_buffer_kwargs=dict(discriminator=discriminator),
        )
    )
    model = algorithm("MlpPolicy", env, seed=0, device="cpu", policy_kwargs=dict(net_arch=[8]), **kwargs)
    records = Records()
    model.set_logger(Logger(None, [records]))
    callback = DiscriminatorCallback(env)
    weights = []
    for number in range(4):
        model.learn(16, reset_num_timesteps=False, callback=callback, log_interval=1)
        assert model.num_timesteps == 16 * (number + 1)
        weights.append(discriminator.network[0].weight.detach().clone())
    assert all((one != other).any() for one, other in pairwise(weights))
    assert len(env.recent_pairs()[0]) == 64
    logged = [row for row in records.rows if "gail/loss" in row]
    assert logged
    assert {"gail/accuracy", "gail/accuracy_teacher", "gail/accuracy_student"} <= set(logged[-1])


def test_replay_has_the_rewards_of_the_present_discriminator():
    discriminator = make_discriminator()
    env = VecNormalize(DiscriminatorReward(DummyVecEnv([DriftEnv, DriftEnv]), discriminator), norm_reward=False)
    kwargs = dict(replay_buffer_class=RelabellingReplayBuffer, replay_buffer_kwargs=dict(discriminator=discriminator))
    model = SAC("MlpPolicy", env, seed=0, device="cpu", buffer_size=100, learning_starts=1000, **kwargs)
    model.learn(40)
    buffer = model.replay_buffer
    env.training = False
    np.random.seed(0)
    before = buffer.sample(500, env)
    discriminator.learn(*env.venv.recent_pairs())
    np.random.seed(0)
    after = buffer.sample(500, env)
    assert (before.rewards != after.rewards).any()
    stored = np.unique(buffer.rewards[:20])
    np.testing.assert_allclose(np.unique(before.rewards.numpy()), stored, atol=1e-5)
    observations = env.unnormalize_obs(after.observations.numpy())
    expected = discriminator.rewards(observations, after.actions.numpy())
    np.testing.assert_allclose(after.rewards[:, 0].numpy(), expected, atol=1e-4)
    for name in ("observations", "next_observations", "actions", "dones"):
        th.testing.assert_close(getattr(before, name), getattr(after, name))
    np.random.seed(0)
    plain_samples = super(RelabellingReplayBuffer, buffer)._get_samples(np.random.randint(0, 20, size=500), env)
    th.testing.assert_close(plain_samples.observations, before.observations)
    th.testing.assert_close(plain_samples.next_observations, before.next_observations)


def test_discrete_replay():
    discriminator = make_discriminator(obs_dim=4, action_dim=2)
    env = DiscriminatorReward(DummyVecEnv([lambda: gym.make("CartPole-v1")]), discriminator)
    kwargs = dict(replay_buffer_class=RelabellingReplayBuffer, replay_buffer_kwargs=dict(discriminator=discriminator))
    model = DQN("MlpPolicy", env, seed=0, device="cpu", buffer_size=100, learning_starts=20, **kwargs)
    model.learn(40)
    sample = model.replay_buffer.sample(50)
    one_hot = np.eye(2, dtype=np.float32)[sample.actions.numpy()[:, 0]]
    expected = discriminator.rewards(sample.observations.numpy(), one_hot)
    np.testing.assert_allclose(sample.rewards[:, 0].numpy(), expected, atol=1e-6)


@pytest.mark.parametrize(
    ("make_env", "message"),
    [
        (GoalChainEnv, "flatten the env's Dict"),
        (
            lambda: RandomEnv(gym.spaces.Box(-1.0, 1.0, (1,))),
            "knows 1 numbers of an observation and 1 of an action, but the env has 1 and 2",
        ),
        (lambda: ContinuousUnbounded(), "Discrete or bounded Box actions"),
    ],
)
def test_envs_that_a_discriminator_cannot_see(make_env, message):
    with pytest.raises(ValueError, match=message):
        DiscriminatorReward(DummyVecEnv([make_env]), make_discriminator())


class ContinuousUnbounded(DriftEnv):
    def __init__(self):
        super().__init__()
        self.action_space = gym.spaces.Box(-np.inf, np.inf, (1,))


# --- students ---


@pytest.fixture(scope="module")
def outcome(tmp_path_factory):
    """A run on the steering task, with what an untrained student returns there."""
    folder = tmp_path_factory.mktemp("gail") / "out"
    stages = []
    report = gail(
        steering_teacher(),
        Steer,
        [[4], []],
        keep=0.5,
        output=folder,
        int8=True,
        n_eval_episodes=10,
        settings=DistillationSettings(n_rounds=5, n_envs=4, n_steps=100),
        discriminator=DiscriminatorSettings(hidden=(16,), batch_size=64, update_every=40, n_updates=20, gradient_penalty=1.0),
        algorithm_kwargs=dict(learning_rate=3e-3, batch_size=64),
        on_progress=lambda stage, share: stages.append((stage, share)),
    )
    return report, folder, stages


def test_students_get_near_to_the_teacher(outcome):
    report, _, stages = outcome
    env = DummyVecEnv([Steer])
    env.seed(2_000_000)
    untrained, _ = evaluate_policy(SAC("MlpPolicy", env, seed=0, policy_kwargs=dict(net_arch=[4])), env, 50, warn=False)
    for candidate in report.candidates:
        if candidate.kind == "student":
            assert report.teacher.mean_reward - candidate.mean_reward < 0.2 * (report.teacher.mean_reward - untrained)
    shares = [share for stage, share in stages if stage == "learning"]
    assert shares == sorted(shares)
    assert shares[-1] == 1.0


def test_report_and_files(outcome):
    report, folder, _ = outcome
    assert {candidate.kind for candidate in report.candidates} == {"student", "teacher", "int8"}
    assert report.method == json.loads((folder / "report.json").read_text())["method"] == "gail"
    assert report.loss == "SAC, logit reward of a discriminator"
    assert report.n_env_steps == 5 * 4 * 100
    assert str(report)
    model = load_model(folder / report.best.file)
    rewards = []
    for episode in range(10):  # the held-out ones
        env = Steer()
        observation, _ = env.reset(seed=2_000_000 + episode)
        done, total = False, 0.0
        while not done:
            observation, reward, _, done, _ = env.step(model.predict(observation, deterministic=True)[0])
            total += reward
        rewards.append(total)
    assert np.mean(rewards) == pytest.approx(report.best.mean_reward, rel=1e-3)


def test_discrete_actions_and_dict_observations_by_ppo(tmp_path):
    """Episodes that end are failures here, so rewards are positive."""
    report = gail(
        balancing_teacher(),
        Balance,
        [[4]],
        keep=0.5,
        output=tmp_path / "out",
        n_eval_episodes=10,
        settings=DistillationSettings(n_rounds=4, n_envs=4, n_steps=200),
        discriminator=QUICK,
        algorithm_kwargs=dict(learning_rate=1e-2),
    )
    assert report.loss == "PPO, positive reward of a discriminator"
    assert report.best.kept > 0.9
    model = load_model(tmp_path / "out" / report.best.file)
    assert model.predict(Balance().reset(seed=0)[0], deterministic=True)[0] in (0, 1, 2)


def test_a_teacher_of_normalized_dict_observations():
    """Observations are as the env gives them."""
    env = normalized(DICT, norm_obs_keys=["achieved_goal"])
    model = plain(SAC, env, "MultiInputPolicy", policy_kwargs=dict(net_arch=[9]), buffer_size=10)
    with th.no_grad():
        model.policy.actor.mu.bias.fill_(3.0)  # the env pays for large actions
    report = gail(model, lambda: RandomEnv(DICT), [[3]], n_eval_episodes=2, settings=TINY, discriminator=QUICK)
    assert [candidate.kind for candidate in report.candidates] == ["student", "teacher"]
    assert np.isfinite([candidate.mean_reward for candidate in report.candidates]).all()


def test_a_seed_fixes_the_run():
    runs = [
        gail(steering_teacher(), Steer, [[4]], seed=3, n_eval_episodes=2, settings=TINY, discriminator=QUICK) for _ in range(2)
    ]
    assert runs[0].candidates == runs[1].candidates


def test_ctrl_c_keeps_what_was_learned():
    def interrupt(stage, share):
        if stage == "learning" and share > 0.6:
            raise KeyboardInterrupt

    common = dict(n_eval_episodes=2, settings=TINY, discriminator=QUICK, on_progress=interrupt)
    report = gail(steering_teacher(), Steer, [[], [2], [4]], **common)
    assert report.n_env_steps == 40 + 40
    assert sorted(candidate.name for candidate in report.candidates) == ["student [2]", "student linear", "teacher"]


def test_critics_are_as_large_as_the_teachers():
    critic = dict(pi=[4], qf=[7, 5])
    assert critic_units(Teacher(plain(SAC, policy_kwargs=dict(net_arch=critic), buffer_size=10))) == [7, 5]
    assert critic_units(Teacher(plain(PPO, n_steps=8, batch_size=8, policy_kwargs=dict(net_arch=dict(pi=[4], vf=[6]))))) == [6]
    assert critic_units(Teacher(plain(DQN, RandomEnv(discrete=True), policy_kwargs=dict(net_arch=[9]), buffer_size=10))) == [9]


@pytest.mark.parametrize(
    ("kwargs", "message"),
    [
        (dict(sizes=[]), "name at least one size"),
        (dict(sizes=[[500]]), "more than the teacher's"),
        (dict(keep=2), "keep is a share"),
        (dict(budget=-1), "budget is a number"),
        (dict(n_eval_episodes=1), "at least 2"),
        (dict(settings=DistillationSettings(n_rounds=1)), "at least 2 rounds"),
        (dict(discriminator=DiscriminatorSettings(reward="nice")), "reward must be one of logit, positive, got 'nice'"),
        (dict(discriminator=DiscriminatorSettings(n_updates=0)), "at least 1"),
    ],
)
def test_bad_input(kwargs, message):
    with pytest.raises(ValueError, match=message):
        gail(steering_teacher(), Steer, **{"sizes": [[4]], "settings": TINY, "n_eval_episodes": 2, **kwargs})
