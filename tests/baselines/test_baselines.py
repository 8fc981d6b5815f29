"""Behavioural cloning and GAIL, on envs that are small enough for seconds."""

import json
import sys

import numpy as np
import pytest
import torch as th
from envs import ChainEnv, DriftEnv
from gymnasium import spaces
from stable_baselines3 import PPO, SAC
from stable_baselines3.common.logger import configure
from stable_baselines3.common.vec_env import DummyVecEnv

from sb3_asym.baselines import DiscriminatorSettings, behavioural_cloning, gail
from sb3_asym.baselines.discriminator import LOGIT_LIMIT, Discriminator
from sb3_asym.baselines.rewards import DiscriminatorCallback, DiscriminatorReward, RelabellingReplayBuffer, encode_actions
from sb3_asym.distillation import DistillationSettings
from sb3_asym.distillation.rollouts import collect
from sb3_asym.distillation.students import Schedule


class SteerEnv(DriftEnv):
    """A walk that is to be steered back to 0; an episode has 20 steps."""

    def __init__(self):
        super().__init__(time_limit=20)

    def step(self, action):
        observation, reward, _, truncated, info = super().step(action)
        return observation, reward, False, truncated, info


@pytest.fixture(scope="module")
def teacher():
    """Mean action tanh(−3 x)."""
    model = SAC("MlpPolicy", SteerEnv(), policy_kwargs=dict(net_arch=[32, 32]), seed=0, buffer_size=10, device="cpu")
    actor = model.policy.actor
    optimizer = th.optim.Adam(actor.parameters(), lr=3e-3)
    for _ in range(400):
        x = th.rand(128, 1) * 8 - 4
        loss = (actor(x, deterministic=True) - th.tanh(-3 * x)).square().mean()
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    return model


def make_discriminator(**settings):
    """Knows a teacher that acts as the sign of its state."""
    states = np.random.default_rng(0).uniform(-3, 3, (400, 1)).astype(np.float32)
    th.manual_seed(0)
    return Discriminator(
        states,
        np.sign(states),
        DiscriminatorSettings(
            **{**dict(hidden=(32, 32), n_updates=100, learning_rate=3e-3, gradient_penalty=1.0), **settings}
        ),
    )


# --- behavioural cloning ---


def test_students_are_cloned_from_the_teachers_own_episodes(teacher, tmp_path, monkeypatch):
    """No student ever acts while states are collected."""
    shares = []

    def spy(pool, agent, students, share, *rest):
        shares.append(share)
        return collect(pool, agent, students, share, *rest)

    monkeypatch.setattr(sys.modules["sb3_asym.distillation.distill"], "collect", spy)
    settings = DistillationSettings(n_rounds=3, n_envs=4, n_steps=50, schedule=Schedule(n_updates=900), n_switching_steps=500)
    report = behavioural_cloning(
        teacher, SteerEnv, sizes=[[8]], output=tmp_path / "out", keep=0.5, n_eval_episodes=5, settings=settings
    )
    assert shares == [0.0, 0.0, 0.0]
    assert report.method == "bc"
    assert json.loads((tmp_path / "out" / "report.json").read_text())["method"] == "bc"
    assert {candidate.kind for candidate in report.candidates} == {"student", "teacher"}
    assert report.best.kept > 0.5


# --- the discriminator ---


def test_the_discriminator_tells_the_teachers_pairs_from_others():
    discriminator = make_discriminator(reward="positive")
    states = np.random.default_rng(1).uniform(-3, 3, (400, 1)).astype(np.float32)
    for _ in range(3):
        metrics = discriminator.learn(states, -np.sign(states))
    assert metrics["accuracy"] > 0.9
    as_teacher, otherwise = (discriminator.rewards(states, sign * np.sign(states)) for sign in (1, -1))
    assert as_teacher.mean() > otherwise.mean() + 0.5
    assert (otherwise >= 0).all()


@pytest.mark.parametrize(
    ("reward", "low", "high"), [("positive", 0.0, LOGIT_LIMIT + 0.1), ("logit", -LOGIT_LIMIT - 0.1, LOGIT_LIMIT + 0.1)]
)
def test_rewards_are_bounded(reward, low, high):
    discriminator = make_discriminator(reward=reward)
    with th.no_grad():
        discriminator.network[-1].bias.fill_(1e6)
    above = discriminator.rewards(np.zeros((1, 1)), np.zeros((1, 1))).item()
    with th.no_grad():
        discriminator.network[-1].bias.fill_(-1e6)
    below = discriminator.rewards(np.zeros((1, 1)), np.zeros((1, 1))).item()
    assert low <= below < above <= high


def test_wrong_settings_are_named():
    with pytest.raises(ValueError, match="reward must be one of logit, positive, got 'big'"):
        make_discriminator(reward="big")
    with pytest.raises(ValueError, match="at least 1"):
        make_discriminator(batch_size=0)


# --- its reward in SB3 ---


def test_the_wrapper_replaces_rewards_and_remembers_pairs():
    discriminator = make_discriminator()
    env = DiscriminatorReward(DummyVecEnv([ChainEnv, ChainEnv]), discriminator)
    observations = env.reset()
    actions = np.array([[0.5], [-1.0]], dtype=np.float32)
    expected = discriminator.rewards(observations.copy(), actions)
    _, rewards, _, _ = env.step(actions)
    assert rewards == pytest.approx(expected)
    states, encoded = env.recent_pairs()
    assert states.tolist() == [[0.0], [0.0]]
    assert encoded.tolist() == [[0.5], [-1.0]]


def test_replay_is_relabelled_by_the_present_discriminator():
    discriminator = make_discriminator()
    env = DiscriminatorReward(DummyVecEnv([SteerEnv]), discriminator)
    model = SAC(
        "MlpPolicy",
        env,
        buffer_size=200,
        learning_starts=1000,
        device="cpu",
        policy_kwargs=dict(net_arch=[4]),
        replay_buffer_class=RelabellingReplayBuffer,
        replay_buffer_kwargs=dict(discriminator=discriminator),
    ).learn(50)
    before = model.replay_buffer.rewards[:50, 0].copy()
    with th.no_grad():
        discriminator.network[-1].bias.add_(1.0)
    batch = model.replay_buffer.sample(64)
    now = discriminator.rewards(batch.observations.numpy(), batch.actions.numpy())
    assert batch.rewards.flatten().tolist() == pytest.approx(now.tolist())
    assert np.abs(np.sort(now).mean() - before.mean()) > 0.05


@pytest.mark.parametrize("algorithm", [SAC, PPO])
def test_learning_goes_on_and_on_and_is_logged(algorithm, tmp_path):
    discriminator = make_discriminator(update_every=20)
    env = DiscriminatorReward(DummyVecEnv([SteerEnv]), discriminator)
    kwargs = dict(n_steps=20, batch_size=20) if algorithm is PPO else dict(buffer_size=200, learning_starts=10)
    model = algorithm("MlpPolicy", env, device="cpu", seed=0, policy_kwargs=dict(net_arch=[4]), **kwargs)
    model.set_logger(configure(str(tmp_path), ["csv"]))
    for _ in range(3):
        model.learn(40, callback=DiscriminatorCallback(env), reset_num_timesteps=False, log_interval=1)
    assert model.num_timesteps == 120
    assert "gail/accuracy" in (tmp_path / "progress.csv").read_text()


def test_an_env_of_other_spaces_is_named():
    states = np.zeros((10, 3), dtype=np.float32)
    discriminator = Discriminator(states, np.zeros((10, 1), dtype=np.float32), DiscriminatorSettings())
    with pytest.raises(ValueError, match="knows 3 numbers of an observation and 1 of an action, but the env has 1 and 1"):
        DiscriminatorReward(DummyVecEnv([ChainEnv]), discriminator)


def test_discrete_actions_are_one_hot():
    assert encode_actions(spaces.Discrete(3, start=1), np.array([1, 3])).tolist() == [[1.0, 0.0, 0.0], [0.0, 0.0, 1.0]]


# --- GAIL ---


def test_a_student_imitates_the_teacher(teacher, tmp_path):
    """It never sees the env's reward, and ends nearer to the teacher than to an agent that does nothing."""
    settings = DistillationSettings(n_rounds=3, n_envs=2, n_steps=150)
    report = gail(
        teacher,
        SteerEnv,
        sizes=[[16]],
        output=tmp_path / "out",
        keep=0.1,
        n_eval_episodes=10,
        settings=settings,
        discriminator=DiscriminatorSettings(update_every=50, n_updates=30, gradient_penalty=1.0),
        algorithm_kwargs=dict(learning_rate=3e-3, learning_starts=50, batch_size=64),
    )
    student = next(candidate for candidate in report.candidates if candidate.kind == "student")
    env, idle = SteerEnv(), []
    for seed in range(10):
        env.reset(seed=2_000_000 + seed)
        done, total = False, 0.0
        while not done:
            _, reward, _, done, _ = env.step(np.zeros(1))
            total += reward
        idle.append(total)
    assert report.method == "gail"
    assert student.mean_reward > (np.mean(idle) + report.teacher.mean_reward) / 2
    assert (tmp_path / "out" / report.best.file).exists()
