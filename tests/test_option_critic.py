"""The critic of options and the master that is fitted to it, on tasks whose right answers are known."""

import numpy as np
import pytest
import torch as th
from envs import DriftEnv
from option_cases import FAST, RareFailures, Worth, fix_actions, greedy_option
from risky import Risky
from stable_baselines3.common.vec_env import DummyVecEnv, VecNormalize

from sb3_asym.options import mean_duration
from sb3_asym.update.option_batch import draw_options


def test_rare_failures_count(make_agent):
    """By the mean the small sub-policy loses 10.9 a step, or what chance made of it; by the median 1."""
    agent = make_agent(RareFailures(), cost_coef=0.0, **FAST)
    fix_actions(agent, [-0.9, 0.9])
    agent.learn(1200)
    assert greedy_option(agent, [0.0]) == 1
    q_values = [
        agent.policy.critic(th.zeros(1, 1), th.tensor([[action, option == 0, option == 1]]))[0].item()
        for option, action in enumerate((-0.9, 0.9))
    ]
    memory = agent.replay_buffer
    small = memory.rewards[memory.actions[..., 0] < 0].mean()
    # An option of mean length 3, then large: Q_large = -10, and Q_small = small + (2/3 Q_small + 1/3 Q_large) / 2.
    assert q_values[1] == pytest.approx(-10.0, abs=1.0)
    assert q_values[0] == pytest.approx((small - 10 / 6) / (2 / 3), abs=2.0)


@pytest.mark.parametrize(("cost_coef", "option"), [(4.0, 1), (16.0, 0)])
def test_what_the_large_one_must_be_worth(make_agent, cost_coef, option):
    """It is worth 5.9 a step, and costs 3/4 λ more than the small one."""
    agent = make_agent(Worth(), cost_coef=cost_coef, **FAST)
    assert agent.option_memory.costs == pytest.approx([0.25, 1.0])
    fix_actions(agent, [-0.9, 0.9])
    agent.learn(1200)
    assert greedy_option(agent, [0.0]) == option


def net_return(agent):
    """Mean net return of an episode of the greedy agent."""
    costs, total = agent.option_memory.costs, 0.0
    env, state = Risky(), None
    for seed in range(20):
        obs, _ = env.reset(seed=seed)
        done, start = False, True
        while not done:
            action, state = agent.predict(obs, state, np.array([start]), deterministic=True)
            obs, reward, _, done, _ = env.step(action)
            total += reward - agent.cost_coef * costs[state[0][0]]
            start = False
    return total / 20


def test_options_are_held(make_agent):
    """The large sub-policy would get the small one out of trouble, but only when the option has ended."""
    nets = dict(sub_net_archs=dict(small=[], large=[16, 16]), critic_net_arch=[32, 32])
    settings = dict(option_length=5, cost_coef=2.0, learning_rate=3e-3, gamma=0.9, policy_kwargs=nets, batch_size=64)
    agent = make_agent(Risky(), critic="option", **settings).learn(3000)
    assert net_return(agent) > -5.0  # -30 and less where the small one takes the risk


def test_an_option_is_paid_for_where_it_is_chosen(make_agent):
    agent = make_agent(DriftEnv(), critic="option", cost_coef=2.0, gamma=0.9, batch_size=400).learn(40)
    batch = agent.replay_buffer.sample(400)
    batch = batch._replace(dones=(th.arange(400) % 2 == 0).float().unsqueeze(1))
    network = agent.policy.advantage_network
    drawn = draw_options(batch, np.full(400, 2.0), network, 4, gamma=0.9)
    in_force = drawn.actions[:, -2:]
    options = in_force.argmax(dim=1)
    assert th.equal(drawn.actions[:, :-2], batch.actions)
    ended = drawn.held < 0
    assert th.equal(drawn.held[~ended], options[~ended])
    assert ended.float().mean() == pytest.approx(1 / 4, abs=0.08)
    assert options.float().mean() == pytest.approx(1 / 2, abs=0.1)
    # An option of mean length 3 lasts 1 + 0.9 · 2/3 + … = 2.5 discounted steps; of one of length 4, 0.9 · 3/4 is not used yet.
    prices = th.as_tensor(2.0 * agent.option_memory.costs, dtype=th.float32)
    assert network.prices == pytest.approx(agent.option_memory.costs * 2.5)
    given_back = drawn.rewards - batch.rewards
    assert not given_back[1::2].any()
    th.testing.assert_close(given_back[::2, 0], (2.5 * prices * 0.9 * 3 / 4)[options[::2]])
    paid = drawn.paid(in_force, network.prices)[:, 0]
    th.testing.assert_close(paid, th.where(ended, (2.5 * prices)[options], 0.0))


def test_prices_are_in_the_units_of_normalized_rewards(make_agent):
    env = VecNormalize(DummyVecEnv([DriftEnv]))
    agent = make_agent(env, critic="option", cost_coef=2.0).learn(60)
    spread = np.sqrt(env.ret_rms.var + env.epsilon)
    duration = mean_duration(agent.option_length, agent.gamma)
    assert agent.policy.advantage_network.prices == pytest.approx(agent.option_memory.costs * duration / spread, rel=1e-2)


@pytest.mark.parametrize(
    ("kwargs", "message"),
    [
        (dict(n_steps=3), "learns from single steps: leave n_steps at 1"),
        (dict(master_kwargs=dict(batch_size=8)), "and more with 'shared', where the master is a DQN; it got batch_size"),
    ],
)
def test_what_it_does_not_take(make_agent, kwargs, message):
    with pytest.raises(ValueError, match=message):
        make_agent(DriftEnv(), critic="option", **kwargs)
