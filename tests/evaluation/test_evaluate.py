"""Reports and recorded episodes, on envs where returns and choices are known."""

import json
from functools import partial

import gymnasium as gym
import numpy as np
import pytest
from envs import ChainEnv, DriftEnv
from option_cases import set_choice
from stable_baselines3 import SAC
from stable_baselines3.common.env_util import make_vec_env
from stable_baselines3.common.envs import FakeImageEnv
from stable_baselines3.common.evaluation import evaluate_policy
from stable_baselines3.common.monitor import Monitor
from stable_baselines3.common.vec_env import (
    DummyVecEnv,
    VecCheckNan,
    VecFrameStack,
    VecMonitor,
    VecNormalize,
    unwrap_vec_normalize,
)

from sb3_asym import AsymSAC, evaluate
from sb3_asym.evaluation import evaluation_env, n_evaluations, record_episode


@pytest.fixture
def agent(make_agent):
    return make_agent(ChainEnv())


def test_report_of_a_known_episode(agent):
    """Episodes of 7 steps earn 1 + … + 7; with options of 3 steps the master is asked 3 times in each."""
    set_choice(agent, [0.0, 1.0])
    report = evaluate(agent, ChainEnv(), n_eval_episodes=4, compare=False)
    assert report.mean_reward == 28.0
    assert report.std_reward == 0.0
    assert report.mean_length == 7.0
    assert report.option_use == {"small": 0.0, "large": 1.0}
    assert report.mean_option_length == pytest.approx(7 / 3)
    assert report.switches_per_episode == 0.0
    large, master = agent.policy.option_costs[1].flops, agent.policy.master_cost.flops
    assert report.flops_per_inference == pytest.approx(large + master * 3 / 7)
    assert report.flops_reduction == pytest.approx(-master * 3 / 7 / large)
    assert report.macs_per_inference == report.flops_per_inference / 2


def test_sub_policies_alone_do_without_the_master(agent):
    report = evaluate(agent, ChainEnv(), n_eval_episodes=2)
    names = [other.name for other in report.comparisons]
    assert names == ["small alone", "large alone", "random switching"]
    assert len(names) + 1 == n_evaluations(agent)
    small, large = report.comparisons[:2]
    assert small.flops_per_inference == agent.policy.option_costs[0].flops
    assert small.option_use == {"small": 1.0, "large": 0.0}
    assert large.flops_reduction == 0.0


def test_random_switching_has_the_same_use(make_agent):
    agent = make_agent(DriftEnv())
    report = evaluate(agent, DriftEnv(time_limit=30), n_eval_episodes=60)
    assert 0.02 < report.option_use["small"] < 0.98, "the test needs a master that switches"
    random = report.comparisons[-1]
    assert random.option_use["small"] == pytest.approx(report.option_use["small"], abs=0.12)


def test_all_are_measured_over_the_same_episodes(make_agent):
    agent = make_agent(DriftEnv())
    set_choice(agent, [0.0, 1.0])
    report = evaluate(agent, DriftEnv(), n_eval_episodes=5, seed=3)
    assert len(set(report.episode_rewards)) > 1
    small, large, random = report.comparisons
    assert large.episode_rewards == random.episode_rewards == report.episode_rewards
    assert small.episode_rewards != report.episode_rewards


def test_same_seed_same_report(make_agent):
    agent = make_agent(DriftEnv())
    first, second = (evaluate(agent, DriftEnv(), n_eval_episodes=5, seed=3) for _ in range(2))
    assert first == second
    assert evaluate(agent, DriftEnv(), n_eval_episodes=5, seed=4) != first


def test_agrees_with_sb3(make_agent):
    agent = make_agent(DriftEnv())
    env = DummyVecEnv([lambda: Monitor(DriftEnv())])
    env.seed(7)
    mean, std = evaluate_policy(agent, env, n_eval_episodes=10)
    report = evaluate(agent, env, n_eval_episodes=10, seed=7, compare=False)
    assert (report.mean_reward, report.std_reward) == pytest.approx((mean, std))


def test_several_envs_share_the_episodes(make_agent):
    agent = make_agent(ChainEnv())
    env = DummyVecEnv([lambda length=length: Monitor(ChainEnv((length,))) for length in (2, 3)])
    report = evaluate(agent, env, n_eval_episodes=5, compare=False)
    assert sorted(report.episode_rewards) == [3.0, 3.0, 6.0, 6.0, 6.0]
    assert report.mean_length == (2 * 2 + 3 * 3) / 5


def test_default_env_is_made_anew_with_the_same_normalization():
    env = VecNormalize(make_vec_env("Pendulum-v1"))
    archs = dict(sub_net_archs=dict(small=[4], large=[8]))
    agent = AsymSAC("MlpPolicy", env, policy_kwargs=archs, learning_starts=10, fast_update=False, seed=0, device="cpu")
    agent.learn(30)
    before = agent._last_obs.copy(), env.obs_rms.count
    report = evaluate(agent, n_eval_episodes=1, compare=False)
    assert report.mean_reward < -10, "the return is in the env's own scale"
    assert np.array_equal(agent._last_obs, before[0])
    assert env.obs_rms.count == before[1]


def normalized_agent(env):
    """An agent that learned a little on Pendulum."""
    archs = dict(sub_net_archs=dict(small=[4], large=[8]))
    settings = dict(policy_kwargs=archs, learning_starts=10, buffer_size=100, fast_update=False, seed=0, device="cpu")
    return AsymSAC("MlpPolicy", env, **settings).learn(30)


@pytest.mark.parametrize("wrap", [VecMonitor, VecCheckNan, lambda env: env])
@pytest.mark.parametrize("n_frames", [1, 3])
def test_default_env_has_the_wrappers_of_the_training_env(wrap, n_frames):
    """Around the normalization and under it; with a large ε, forgetting it would change what the networks see."""
    inner = make_vec_env("Pendulum-v1")
    inner = VecFrameStack(inner, n_frames) if n_frames > 1 else inner
    agent = normalized_agent(wrap(VecNormalize(inner, epsilon=100.0)))
    env = evaluation_env(agent)
    env.seed(5)
    observation = env.reset()
    plain = make_vec_env("Pendulum-v1")
    plain.seed(5)
    last_frame = agent.get_vec_normalize_env().unnormalize_obs(observation)[0, -3:]
    assert last_frame == pytest.approx(plain.reset()[0], abs=1e-4)
    assert env.observation_space == agent.observation_space
    assert unwrap_vec_normalize(env).epsilon == 100.0


def test_a_wrapper_that_cannot_be_made_anew_is_named():
    class MyWrapper(VecMonitor):
        pass

    with pytest.raises(ValueError, match=r"MyWrapper cannot be made anew: pass an env"):
        evaluate(normalized_agent(MyWrapper(make_vec_env("Pendulum-v1"))))


def test_an_env_without_normalization_gets_that_of_the_agent():
    agent = normalized_agent(VecNormalize(make_vec_env("Pendulum-v1")))
    ways = [None, "Pendulum-v1", gym.make("Pendulum-v1"), make_vec_env("Pendulum-v1")]
    rewards = [evaluate(agent, env, n_eval_episodes=2, seed=3, compare=False).episode_rewards for env in ways]
    assert rewards.count(rewards[0]) == len(ways)


def test_a_normalized_env_keeps_its_statistics_and_rewards_are_the_envs_own():
    agent = normalized_agent(make_vec_env("Pendulum-v1"))
    env = VecNormalize(DummyVecEnv([lambda: gym.make("Pendulum-v1")]))  # without a Monitor
    report = evaluate(agent, env, n_eval_episodes=1, compare=False)
    assert report.mean_reward < -300
    assert env.training
    assert env.obs_rms.count == pytest.approx(1e-4)


def test_the_env_in_which_the_agent_is_learning_is_refused(make_agent):
    """A step there would belong to the next transition that is stored."""
    env = DriftEnv()
    agent = make_agent(env).learn(30)
    for same in (agent.get_env(), env, Monitor(env)):
        with pytest.raises(ValueError, match=r"The agent is learning in this env.*pass another env"):
            evaluate(agent, same)
    assert evaluate(agent, DriftEnv(), compare=False).n_episodes == 10


@pytest.mark.parametrize("image", [False, True])
def test_frames_that_were_stacked_in_training_are_named(image):
    make = (
        partial(FakeImageEnv, screen_height=40, screen_width=40, discrete=False) if image else partial(gym.make, "Pendulum-v1")
    )
    env = VecFrameStack(DummyVecEnv([make]), 4)
    archs = dict(sub_net_archs=dict(small=[4], large=[8]))
    policy = "CnnPolicy" if image else "MlpPolicy"
    agent = AsymSAC(policy, env, policy_kwargs=archs, buffer_size=10, learning_starts=1, device="cpu")
    with pytest.raises(ValueError, match=r"learned on 4 stacked frames: .* \(VecFrameStack with 4\)"):
        evaluate(agent, make())
    assert evaluate(agent, VecFrameStack(DummyVecEnv([make]), 4), n_eval_episodes=1, compare=False).n_episodes == 1


def test_what_stands_in_the_way_is_said(agent, tmp_path):
    with pytest.raises(ValueError, match=r"not registered with Gymnasium .* pass an env"):
        evaluate(agent)
    with pytest.raises(ValueError, match=r"n_eval_episodes must be at least 1, got 0"):
        evaluate(agent, ChainEnv(), n_eval_episodes=0)
    with pytest.raises(ValueError, match=r"Observation spaces do not match"):
        evaluate(agent, gym.make("Pendulum-v1"))
    with pytest.raises(TypeError, match=r"An AsymSAC agent is needed, got SAC"):
        evaluate(SAC("MlpPolicy", ChainEnv()), ChainEnv())
    agent.save(tmp_path / "agent")
    with pytest.raises(ValueError, match=r"has no env: pass one"):
        evaluate(AsymSAC.load(tmp_path / "agent"))


def test_report_as_data_and_as_a_table(agent):
    report = evaluate(agent, ChainEnv(), n_eval_episodes=2)
    data = json.loads(json.dumps(report.to_dict()))
    assert data["mean_reward"] == 28.0
    assert [other["name"] for other in data["comparisons"]] == ["small alone", "large alone", "random switching"]
    lines = str(report).splitlines()
    assert lines[2].startswith("agent")
    assert "28.0" in lines[2]
    assert len({len(line) for line in lines[:-1]}) == 1, "columns line up"


def test_recorded_episode(agent):
    set_choice(agent, [1.0, 0.0])
    record = record_episode(agent, ChainEnv())
    assert record.rewards.tolist() == [1, 2, 3, 4, 5, 6, 7]
    assert record.observations.ravel().tolist() == [0, 1, 2, 3, 4, 5, 6]
    assert record.options.tolist() == [0] * 7
    assert record.frames == {}
