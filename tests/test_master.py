import numpy as np
import pytest
import torch as th
from envs import ChainEnv
from option_cases import set_choice
from stable_baselines3.common.vec_env import DummyVecEnv


@pytest.mark.parametrize(("critic", "arch"), [("option", [4, 3]), ("shared", [32, 32]), ("separate", [32, 32])])
def test_defaults(make_agent, critic, arch):
    agent = make_agent(critic=critic, policy_kwargs=dict(sub_net_archs=dict(small=[4, 3], large=[16])))
    assert agent.policy.master_net_arch == arch
    agent.learn(200)
    assert agent.master.exploration_rate == pytest.approx(0.2)


def test_exploration_is_drawn_for_each_env(make_agent):
    """With ε = 0.5 and a master that prefers small, a quarter of the envs explores large, at every choice."""
    n_envs = 64
    master = dict(exploration_initial_eps=0.5, exploration_final_eps=0.5, learning_starts=10_000)
    agent = make_agent(
        DummyVecEnv([ChainEnv] * n_envs),
        option_length=1,
        learning_starts=0,
        gradient_steps=0,
        critic="shared",
        master_kwargs=master,
    )
    set_choice(agent, [1.0, 0.0])
    agent.learn(n_envs * 10)
    n_large = np.count_nonzero(agent.option_memory.options[:10] == 1, axis=1)
    assert n_large.min() > 4
    assert n_large.max() < 32
    assert n_large.mean() == pytest.approx(16, abs=4)


def test_a_master_without_gradient_steps_keeps_its_weights(make_agent):
    agent = make_agent(critic="shared", master_kwargs=dict(gradient_steps=0))
    before = [weight.clone() for weight in agent.master.q_net.parameters()]
    agent.learn(60)
    assert all(th.equal(old, new) for old, new in zip(before, agent.master.q_net.parameters(), strict=True))


def test_a_master_waits_while_no_option_is_among_the_recent_steps(make_agent):
    agent = make_agent(ChainEnv(), option_length=5, critic="shared", master_kwargs=dict(buffer_size=3, train_freq=1))
    agent.learn(60)
    assert agent.master.counters()["_n_updates"] > 0


@pytest.mark.parametrize(
    ("n_envs", "kwargs", "sub_policy_updates", "master_updates"),
    [
        (1, dict(), 40, 40),
        (4, dict(), 40, 40),
        (4, dict(gradient_steps=-1), 160, 160),
        (2, dict(train_freq=4, gradient_steps=3), 30, 30),
        (1, dict(gradient_steps=0), 0, 0),
        (1, dict(train_freq=(2, "episode"), gradient_steps=-1), 42, 42),  # SB3 collects whole episodes
        (4, dict(master_kwargs=dict(gradient_steps=-1)), 40, 160),
        (4, dict(master_kwargs=dict(train_freq=2, gradient_steps=-1)), 40, 160),
        (1, dict(master_kwargs=dict(train_freq=(1, "episode"), gradient_steps=1)), 40, 5),
        (4, dict(master_kwargs=dict(train_freq=(1, "episode"), gradient_steps=2)), 40, 10),
    ],
)
def test_the_master_learns_as_often_as_the_sub_policies_unless_told_otherwise(
    make_agent, n_envs, kwargs, sub_policy_updates, master_updates
):
    """40 steps of all envs, with episodes of 7 steps, of which each env ends 5."""
    env = DummyVecEnv([ChainEnv] * n_envs)
    agent = make_agent(env, critic="shared", option_length=1, learning_starts=0, batch_size=4, **kwargs).learn(40 * n_envs)
    assert agent._n_updates == sub_policy_updates
    assert agent.master.counters()["_n_updates"] == master_updates
