"""Options are held per env, in ``predict`` as in training."""

import numpy as np
import pytest
from envs import ChainEnv
from stable_baselines3.common.evaluation import evaluate_policy
from stable_baselines3.common.vec_env import DummyVecEnv

SMALL, LARGE = -0.5, 0.5
"""Actions of the two sub-policies."""


@pytest.fixture
def agent(make_agent):
    """Its master chooses large beyond place 1.5; its sub-policies take constant actions."""
    agent = make_agent(ChainEnv(), option_length=3, policy_kwargs=dict(net_arch=[16], master_net_arch=[2]))
    for actor, action in zip(agent.policy.actors, (SMALL, LARGE), strict=True):
        actor.mu.weight.data.zero_()
        actor.mu.bias.data.fill_(np.arctanh(action))
        actor.log_std.weight.data.zero_()
        actor.log_std.bias.data.fill_(-100.0)
    hidden, _, values = agent.policy.master.q_net.q_net
    for weights in (hidden.weight, hidden.bias, values.weight, values.bias):
        weights.data.zero_()
    hidden.weight.data[0] = 1.0
    values.weight.data[1, 0] = 1.0
    values.bias.data[1] = -1.5
    return agent


def places(*numbers):
    return np.array(numbers, dtype=np.float32).reshape(-1, 1)


def test_an_option_is_held_while_its_state_is_passed_in(agent):
    state, actions = None, []
    for place in (0, 9, 9, 9, 0, 0, 0):
        action, state = agent.predict(places(place), state=state, deterministic=True)
        actions.append(float(action[0, 0]))
    assert actions == pytest.approx([SMALL] * 3 + [LARGE] * 3 + [SMALL])


def test_without_state_every_call_starts_an_option(agent):
    actions = [float(agent.predict(places(place), deterministic=True)[0][0, 0]) for place in (0, 9, 0)]
    assert actions == pytest.approx([SMALL, LARGE, SMALL])


def test_an_episode_start_starts_an_option_in_its_env_only(agent):
    action, state = agent.predict(places(0, 9), deterministic=True)
    assert action.flatten().tolist() == pytest.approx([SMALL, LARGE])
    action, state = agent.predict(places(9, 0), state, np.array([False, True]), deterministic=True)
    assert action.flatten().tolist() == pytest.approx([SMALL, SMALL])
    action, state = agent.predict(places(9, 9), state, np.array([False, False]), deterministic=True)
    assert action.flatten().tolist() == pytest.approx([SMALL, SMALL])
    action, _ = agent.predict(places(9, 9), state, np.array([False, False]), deterministic=True)
    assert action.flatten().tolist() == pytest.approx([LARGE, SMALL])


def test_predict_changes_nothing_that_was_passed_in(agent):
    _, state = agent.predict(places(0, 9), deterministic=True)
    kept = [rows.copy() for rows in state]
    obs, episode_start = places(9, 0), np.array([True, False])
    first, _ = agent.predict(obs, state, episode_start, deterministic=True)
    again, _ = agent.predict(obs, state, episode_start, deterministic=True)
    assert first.tolist() == again.tolist()
    assert all((rows == before).all() for rows, before in zip(state, kept, strict=True))
    assert (obs.tolist(), episode_start.tolist()) == ([[9.0], [0.0]], [True, False])


def test_state_is_a_tuple_of_arrays_with_one_row_per_env(agent):
    for obs, n_envs in ((places(0)[0], 1), (places(0, 9, 0), 3)):
        action, state = agent.predict(obs)
        assert action.shape == obs.shape
        assert isinstance(state, tuple)
        assert [rows.shape for rows in state] == [(n_envs,), (n_envs,)]


def test_state_of_another_number_of_envs_is_refused(agent):
    _, state = agent.predict(places(0, 9))
    with pytest.raises(ValueError, match="2 rows but there are 1 envs"):
        agent.predict(places(0), state)


@pytest.mark.filterwarnings("ignore:Evaluation environment is not wrapped")
def test_evaluate_policy_holds_options_in_each_env(agent):
    """Choices at places 0 (small) and 3 (large), and at 6 where the episode gets that far; anew in each episode."""
    venv = DummyVecEnv([lambda: ChainEnv(lengths=(5,)), lambda: ChainEnv(lengths=(7,))])
    evaluate_policy(agent, venv, n_eval_episodes=4)
    assert venv.envs[0].actions[:10] == pytest.approx(([SMALL] * 3 + [LARGE] * 2) * 2)
    assert venv.envs[1].actions[:14] == pytest.approx(([SMALL] * 3 + [LARGE] * 4) * 2)


def test_training_holds_options_in_each_env(make_agent):
    venv = DummyVecEnv([lambda: ChainEnv(lengths=(5,)), lambda: ChainEnv(lengths=(7, 2))])
    agent = make_agent(venv, option_length=3, learning_starts=0, batch_size=4).learn(24)
    lengths = agent.option_memory.lengths[:12]
    assert lengths[:, 0].tolist() == [3, 0, 0, 2, 0] * 2 + [0, 0]
    assert lengths[:, 1].tolist() == [3, 0, 0, 3, 0, 0, 1, 2, 0, 3, 0, 0]


@pytest.mark.parametrize(
    ("between", "reset_num_timesteps", "first_lengths"),
    [
        ("nothing", False, [3, 0, 0, 3, 0, 0, 1]),
        ("nothing", True, [3, 0, 0, 0, 3, 0, 0]),
        ("set_env", False, [3, 0, 0, 0, 3, 0, 0]),
    ],
)
def test_an_option_goes_on_where_its_episode_does(make_agent, between, reset_num_timesteps, first_lengths):
    """The second ``learn`` begins one step into the second option."""
    agent = make_agent(ChainEnv(lengths=(7,)), learning_starts=0, batch_size=4).learn(4)
    if between == "set_env":
        agent.set_env(ChainEnv(lengths=(7,)))
    agent.learn(12, reset_num_timesteps=reset_num_timesteps)
    assert agent.option_memory.lengths[:7, 0].tolist() == first_lengths
