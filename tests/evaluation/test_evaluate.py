"""Reports and recorded episodes, on envs where returns and choices are known."""

import json

import gymnasium as gym
import numpy as np
import pytest
from envs import ChainEnv, DriftEnv
from stable_baselines3 import SAC
from stable_baselines3.common.env_util import make_vec_env
from stable_baselines3.common.evaluation import evaluate_policy
from stable_baselines3.common.monitor import Monitor
from stable_baselines3.common.vec_env import DummyVecEnv, VecNormalize

from sb3_asym import AsymSAC, evaluate
from sb3_asym.evaluation import n_evaluations, record_episode


@pytest.fixture
def agent(make_agent):
    return make_agent(ChainEnv())


def always(agent, option):
    """Makes the master choose the same option everywhere."""
    output = agent.policy.master.q_net.q_net[-1]
    output.weight.data.zero_()
    output.bias.data.copy_(output.bias.data.new_tensor([float(i == option) for i in range(output.out_features)]))


def test_report_of_a_known_episode(agent):
    """Episodes of 7 steps earn 1 + … + 7; with options of 3 steps the master is asked 3 times in each."""
    always(agent, 1)
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
    always(agent, 0)
    record = record_episode(agent, ChainEnv())
    assert record.rewards.tolist() == [1, 2, 3, 4, 5, 6, 7]
    assert record.observations.ravel().tolist() == [0, 1, 2, 3, 4, 5, 6]
    assert record.options.tolist() == [0] * 7
    assert record.frames == {}
