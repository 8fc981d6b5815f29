import numpy as np
import pytest
from envs import ChainEnv, DriftEnv, GoalChainEnv
from gymnasium import spaces
from gymnasium.utils.env_checker import check_env
from sb3_contrib import RecurrentPPO
from stable_baselines3 import A2C, DQN, PPO, SAC, TD3, HerReplayBuffer
from stable_baselines3.common.envs import FakeImageEnv
from stable_baselines3.common.evaluation import evaluate_policy
from stable_baselines3.common.vec_env import DummyVecEnv

from sb3_asym import OptionWrapper


class ConstantPolicy:
    """A sub-policy that always takes the same action."""

    def __init__(self, action, **attributes):
        self.action = np.array([action], dtype=np.float32)
        self.__dict__.update(attributes)

    def predict(self, observation, state=None, episode_start=None, deterministic=False):
        return self.action, None


def wrap(env, **kwargs):
    """Sub-policies 0 and 1 take the actions -0.5 and 0.5; the first costs a quarter of the second."""
    policies = [ConstantPolicy(-0.5), ConstantPolicy(0.5)]
    return OptionWrapper(env, **{**dict(sub_policies=policies, costs=[0.25, 1.0], option_length=3, gamma=0.5), **kwargs})


def test_one_step_of_the_wrapper_is_one_option():
    env = wrap(ChainEnv(lengths=(7,)), cost_coef=0.1)
    env.reset(seed=0)
    obs, reward, terminated, truncated, info = env.step(1)
    assert obs.tolist() == [3.0]
    assert reward == pytest.approx((1 - 0.1) + 0.5 * (2 - 0.1) + 0.25 * (3 - 0.1))
    assert (terminated, truncated) == (False, False)
    assert (info["option_length"], info["discount"], info["option_reward"]) == (3, 0.125, 6.0)
    assert env.unwrapped.actions == [0.5] * 3
    _, reward, _, _, _ = env.step(0)
    assert reward == pytest.approx((4 - 0.025) + 0.5 * (5 - 0.025) + 0.25 * (6 - 0.025))
    assert env.unwrapped.actions[3:] == [-0.5] * 3


@pytest.mark.parametrize("truncate", [False, True])
def test_an_option_ends_with_the_episode(truncate):
    env = wrap(ChainEnv(lengths=(5,), truncate=truncate), cost_coef=0.0)
    env.reset(seed=0)
    env.step(0)
    obs, reward, terminated, truncated, info = env.step(0)
    assert obs.tolist() == [5.0]
    assert reward == 4.0 + 0.5 * 5.0
    assert (terminated, truncated) == (not truncate, truncate)
    assert (info["option_length"], info["discount"]) == (2, 0.25)
    assert env.reset()[0].tolist() == [0.0]
    assert env.step(1)[4]["option_length"] == 3


@pytest.mark.filterwarnings("ignore:.*is different from the unwrapped version", "ignore:.*not having a spec")
def test_wrapper_passes_gymnasiums_checks():
    check_env(wrap(DriftEnv(), sub_policies=[SAC("MlpPolicy", DriftEnv(), device="cpu")] * 2, costs=None))


def test_info_of_the_env_is_passed_on():
    class InfoEnv(ChainEnv):
        def step(self, action):
            return *super().step(action)[:4], {"place": self.place}

    env = wrap(InfoEnv())
    env.reset()
    assert env.step(0)[4]["place"] == 3


@pytest.mark.parametrize("sub_policy_class", [SAC, TD3, PPO, A2C])
def test_any_sb3_model_or_its_policy_is_a_sub_policy(sub_policy_class):
    kwargs = dict(device="cpu", seed=0)
    small = sub_policy_class("MlpPolicy", DriftEnv(), policy_kwargs=dict(net_arch=[4]), **kwargs)
    large = sub_policy_class("MlpPolicy", DriftEnv(), policy_kwargs=dict(net_arch=[16, 16]), **kwargs)
    for sub_policies in ([small, large], [small.policy, large.policy]):
        env = OptionWrapper(DriftEnv(), sub_policies, option_length=3)
        assert 0 < env.costs[0] < env.costs[1] == 1
        env.reset(seed=1)
        reference = DriftEnv()
        obs, _ = reference.reset(seed=1)
        for _ in range(3):
            obs, *_ = reference.step(small.predict(obs, deterministic=True)[0])
        assert env.step(0)[0] == pytest.approx(obs)


def test_default_costs_are_flops_relative_to_the_largest():
    """One hidden layer of h units on 1 observation: 2·1·h for it, 2·h·1 for the mean action."""
    sub_policies = [SAC("MlpPolicy", DriftEnv(), device="cpu", policy_kwargs=dict(net_arch=[h])) for h in (4, 16)]
    assert OptionWrapper(DriftEnv(), sub_policies).costs.tolist() == [0.25, 1.0]


def test_stock_dqn_trains_on_the_wrapper():
    env = wrap(ChainEnv(lengths=(7,)))
    master = DQN("MlpPolicy", env, learning_starts=10, gamma=0.5**3, device="cpu", seed=0, policy_kwargs=dict(net_arch=[8]))
    before = [weight.clone() for weight in master.q_net.parameters()]
    master.learn(60)
    assert any((old != new).any() for old, new in zip(before, master.q_net.parameters(), strict=True))
    mean_return, _ = evaluate_policy(master, DummyVecEnv([lambda: wrap(ChainEnv(lengths=(7,)), cost_coef=0.0)]), 2, warn=False)
    assert mean_return == (1 + 0.5 * 2 + 0.25 * 3) + (4 + 0.5 * 5 + 0.25 * 6) + 7


@pytest.mark.parametrize(
    ("kwargs", "message"),
    [
        (dict(sub_policies=[ConstantPolicy(0.0)], costs=[1.0]), "at least two sub-policies, got 1"),
        (dict(option_length=0), "option_length must be an integer of at least 1 env step, got 0"),
        (dict(option_length=2.5), "option_length must be an integer of at least 1 env step, got 2.5"),
        (dict(cost_coef=-0.1), "cost_coef .*at least 0.*got -0.1"),
        (dict(cost_coef=float("nan")), "cost_coef .*at least 0.*got nan"),
        (dict(costs=[1.0]), r"one number in \(0, 1\] for each of the 2 policies, got \[1.0\]"),
        (dict(costs=[0.0, 1.0]), r"one number in \(0, 1\].*got \[0.0, 1.0\]"),
        (dict(costs=[0.5, 2.0]), r"one number in \(0, 1\].*got \[0.5, 2.0\]"),
        (
            dict(sub_policies=[ConstantPolicy(0.0), ConstantPolicy(0.0, action_space=spaces.Box(-2, 2, (1,)))]),
            r"Sub-policy 1 has the action_space Box\(-2.* but the env's is Box\(-1",
        ),
        (
            dict(sub_policies=[ConstantPolicy(0.0, observation_space=spaces.Box(-2, 2, (3,))), ConstantPolicy(0.0)]),
            "Sub-policy 0 has the observation_space",
        ),
    ],
)
def test_bad_arguments_are_named(kwargs, message):
    with pytest.raises(ValueError, match=message):
        wrap(ChainEnv(), **kwargs)


def test_costs_of_unknown_policies_must_be_given():
    with pytest.raises(TypeError, match="Cannot count the FLOPs of a ConstantPolicy: pass costs="):
        wrap(ChainEnv(), costs=None)


@pytest.mark.parametrize("option", [-1, 2, 0.5])
def test_unknown_option_is_refused(option):
    env = wrap(ChainEnv())
    env.reset()
    with pytest.raises(ValueError, match="is not an option: choose 0 to 1"):
        env.step(option)


# --- the agent and the wrapper ---


def without_exploration(agent):
    """Sampled actions are the mean actions, so that training and deterministic deployment act alike."""
    for actor in agent.policy.actors:
        actor.log_std.weight.data.zero_()
        actor.log_std.bias.data.fill_(-100.0)
    return agent


def complete_choices(agent, env):
    """The choices that the agent made in one env while it collected, in order, but for an option that still runs."""
    choices, n_run = [], 0
    for row in range(agent.replay_buffer.pos):
        n_run += 1
        if n_run == agent.option_length or agent.replay_buffer.dones[row, env]:
            choices.append(int(agent.option_memory.options[row, env]))
            n_run = 0
    return choices


@pytest.mark.parametrize("n_envs", [1, 3])
@pytest.mark.parametrize("option_length", [1, 4])
def test_agent_and_wrapper_make_the_same_option_transitions(make_agent, option_length, n_envs):
    """The agent collects with random choices; the wrapper repeats them on the same seeds with the same actors."""
    venv = DummyVecEnv([DriftEnv] * n_envs)
    master_kwargs = dict(learning_starts=10_000, exploration_final_eps=1.0)
    settings = dict(option_length=option_length, learning_starts=0, gradient_steps=0, critic="shared")
    agent = without_exploration(make_agent(venv, gamma=0.8, master_kwargs=master_kwargs, **settings)).learn(60 * n_envs)

    expected = {}
    for env_index in range(n_envs):
        env = OptionWrapper(DriftEnv(), list(agent.policy.actors), option_length=option_length, cost_coef=0.3, gamma=0.8)
        obs, _ = env.reset(seed=env_index)
        for option in complete_choices(agent, env_index):
            next_obs, reward, terminated, truncated, info = env.step(option)
            expected[float(obs[0])] = (option, float(next_obs[0]), reward, info["discount"], float(terminated))
            obs = env.reset()[0] if terminated or truncated else next_obs
    assert {option for option, *_ in expected.values()} == {0, 1}

    assert agent.option_memory.costs == pytest.approx(env.costs)
    samples = agent.option_memory.sample(3000).net(0.3)
    columns = (samples.observations, samples.actions, samples.next_observations, samples.rewards, samples.discounts)
    rows = zip(*(column.flatten().tolist() for column in (*columns, samples.dones)), strict=True)
    sampled = set()
    for start, *row in rows:
        nearest = min(expected, key=lambda other: abs(other - start))
        sampled.add(nearest)
        assert start == pytest.approx(nearest, abs=1e-5)
        assert row == pytest.approx(expected[nearest], abs=1e-4)
    assert sampled == set(expected)


# --- sub-policies that are more than a network ---


class CountingPolicy(ConstantPolicy):
    """A recurrent sub-policy whose state counts its own steps of the episode."""

    def predict(self, observation, state=None, episode_start=None, deterministic=False):
        assert (state is None) == bool(episode_start[0])
        count = np.zeros(1) if state is None else state[0]
        return np.array([0.1 * count[0]], dtype=np.float32), (count + 1,)


def test_recurrent_sub_policies_keep_their_state_through_the_episode():
    env = wrap(ChainEnv(lengths=(8, 2)), sub_policies=[CountingPolicy(0.0), CountingPolicy(0.0)])
    env.reset()
    for option in (0, 1, 0):
        env.step(option)
    assert env.unwrapped.actions == pytest.approx([0.0, 0.1, 0.2, 0.0, 0.1, 0.2, 0.3, 0.4])
    env.reset()
    env.step(0)
    assert env.unwrapped.actions[8:] == pytest.approx([0.0, 0.1])


def test_a_recurrent_ppo_of_sb3_contrib_is_a_sub_policy():
    kwargs = dict(n_steps=8, batch_size=8, seed=0, device="cpu", policy_kwargs=dict(lstm_hidden_size=4, net_arch=[4]))
    model = RecurrentPPO("MlpLstmPolicy", DriftEnv(), **kwargs)
    env = OptionWrapper(DriftEnv(), [model, model], costs=[0.5, 1.0], option_length=3)
    obs, _ = env.reset(seed=1)
    for _ in range(2):
        env.step(0)
    reference, state = DriftEnv(), None
    obs, _ = reference.reset(seed=1)
    for step in range(6):
        action, state = model.predict(obs, state, episode_start=np.array([step == 0]), deterministic=True)
        obs, *_ = reference.step(action)
    assert env._last_obs == pytest.approx(obs)


def test_hindsight_goals_are_refused():
    class GoalOptions(GoalChainEnv):
        pass

    env = wrap(GoalOptions())
    master = DQN("MultiInputPolicy", env, replay_buffer_class=HerReplayBuffer, learning_starts=5, device="cpu", buffer_size=50)
    with pytest.raises(ValueError, match="HerReplayBuffer cannot relabel the reward of an option"):
        master.learn(20)


def test_sub_policies_are_used_not_copied():
    class Unique(ConstantPolicy):
        def __deepcopy__(self, memo):
            raise TypeError("cannot be copied")

    policies = [Unique(-0.5), Unique(0.5)]
    env = wrap(ChainEnv(), sub_policies=policies)
    assert all(used is given for used, given in zip(env.sub_policies, policies, strict=True))
    assert env._saved_kwargs["sub_policies"] is policies


def test_images_with_their_channels_last_as_sac_takes_them():
    env = FakeImageEnv(screen_height=40, screen_width=40, n_channels=3, discrete=False)
    sac = SAC("CnnPolicy", env, buffer_size=10, device="cpu", policy_kwargs=dict(net_arch=[4]))
    assert sac.observation_space != env.observation_space
    wrapped = OptionWrapper(env, [sac, sac], costs=[0.5, 1.0])
    wrapped.reset()
    assert wrapped.step(1)[0].shape == (40, 40, 3)
