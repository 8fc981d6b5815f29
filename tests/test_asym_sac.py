"""Attributes of the agent that a user may set between two calls of ``learn``, and copies of the agent."""

import pickle

import numpy as np
import pytest
import stable_baselines3.sac as stock
import torch as th
from envs import ChainEnv, DriftEnv, GoalChainEnv
from stable_baselines3 import SAC, HerReplayBuffer
from stable_baselines3.common.logger import configure

from sb3_asym import AsymSAC
from sb3_asym.options import mean_duration
from sb3_asym.policies import CnnPolicy, MlpPolicy, MultiInputPolicy
from sb3_asym.update.compiled import CompiledUpdate
from sb3_asym.update.plain import PlainUpdate


@pytest.mark.parametrize("critic", ["option", "shared"])
def test_another_weight_of_the_cost_takes_effect_at_the_next_learn(make_agent, critic):
    agent = make_agent(cost_coef=0.1, critic=critic).learn(30)
    agent.cost_coef = 3.0
    agent.learn(1, reset_num_timesteps=False)
    assert agent.master.cost_coef == 3.0
    if critic == "option":
        assert agent._sample(8).cost_coefs.unique() == pytest.approx([3.0])
    else:
        np.random.seed(0)
        net = agent.master.replay_buffer.sample(8)
        np.random.seed(0)
        samples = agent.option_memory.sample(8)
        assert net.rewards.flatten().tolist() == pytest.approx((samples.rewards - 3.0 * samples.costs).flatten().tolist())
    agent.cost_coef = lambda progress: 5.0 * progress
    agent.learn(40)
    assert agent.master.cost_coef == pytest.approx(0.0)
    agent.cost_coef = -1.0
    with pytest.raises(ValueError, match=r"cost_coef .* got -1"):
        agent.learn(10)


@pytest.mark.parametrize("critic", ["option", "shared"])
def test_discount_and_learning_rate_reach_the_master_too(make_agent, critic):
    agent = make_agent(critic=critic, option_length=50).learn(30)
    agent.gamma, agent.learning_rate = 0.5, 1e-5
    agent._setup_lr_schedule()  # as SB3's users do
    agent.learn(30, reset_num_timesteps=False)
    assert agent.option_memory.gamma == 0.5
    assert agent.policy.master.optimizer.param_groups[0]["lr"] == 1e-5
    if critic == "option":
        price = agent.option_memory.costs[1] * mean_duration(50, 0.5)
        assert agent.policy.advantage_network.prices[1].item() == pytest.approx(price)
    own = make_agent(critic=critic, master_kwargs=dict(learning_rate=0.01)).learn(30)
    own.learning_rate = 1e-5
    own._setup_lr_schedule()
    own.learn(30, reset_num_timesteps=False)
    assert own.policy.master.optimizer.param_groups[0]["lr"] == 0.01


@pytest.mark.parametrize("critic", ["option", "shared", "separate"])
def test_learning_from_a_memory_without_an_env(make_agent, critic, tmp_path):
    """Offline, as SAC can."""
    agent = make_agent(critic=critic).learn(60)
    agent.save(tmp_path / "agent")
    agent.save_replay_buffer(tmp_path / "memory")
    loaded = AsymSAC.load(tmp_path / "agent")
    loaded.load_replay_buffer(tmp_path / "memory")
    loaded.set_logger(configure(None, []))
    before = {name: value.clone() for name, value in loaded.policy.state_dict().items()}
    loaded.train(10, 16)
    assert loaded._n_updates == agent._n_updates + 10
    changed = {name for name, value in loaded.policy.state_dict().items() if not th.equal(value, before[name])}
    assert {"actors.0.mu.weight", "actors.1.mu.weight", "critics.0.qf0.0.weight"} <= changed
    assert any(name.startswith("master.q_net.") for name in changed) == (critic == "option")


def test_the_number_of_updates_ahead(make_agent):
    """With 7 steps in an episode."""
    for settings, expected in (
        (dict(), 700),
        (dict(gradient_steps=-1), 700),
        (dict(train_freq=7, gradient_steps=2), 200),
        (dict(train_freq=(1, "episode"), gradient_steps=2), 200),
        (dict(train_freq=(5, "episode"), gradient_steps=-1), 700),
    ):
        agent = make_agent(ChainEnv(), **settings).learn(70)
        agent._total_timesteps = 770
        assert agent._updates_ahead() == pytest.approx(expected)


def test_the_kind_of_update_takes_effect_at_the_next_learn(make_agent):
    agent = make_agent(fast_update=False).learn(30)
    agent.fast_update = True
    agent.learn(20, reset_num_timesteps=False)
    assert isinstance(agent._update.present, CompiledUpdate)
    agent.fast_update = False
    agent.learn(20, reset_num_timesteps=False)
    assert isinstance(agent._update.present, PlainUpdate)
    assert agent.master.compiled_update is None


@pytest.mark.parametrize(("name", "value"), [("option_length", 7), ("critic_kind", "separate"), ("master_kwargs", {})])
def test_what_the_agent_was_built_from_cannot_be_set(make_agent, name, value):
    agent = make_agent()
    before = getattr(agent, name)
    with pytest.raises(AttributeError, match=f"{name} is fixed when the agent is built: make a new agent with {name}="):
        setattr(agent, name, value)
    assert getattr(agent, name) == before


def test_a_critic_without_hidden_layers(make_agent):
    for critic in ("shared", "separate", "option"):
        archs = dict(sub_net_archs=dict(small=[4], large=[16]), critic_net_arch=[])
        agent = make_agent(critic=critic, policy_kwargs=archs)
        assert [len(critic.q_networks[0]) for critic in agent.policy.critics] == [1] * len(agent.policy.critics)


@pytest.mark.parametrize(
    ("given", "used"),
    [(stock.MlpPolicy, MlpPolicy), (stock.CnnPolicy, CnnPolicy), (stock.MultiInputPolicy, MultiInputPolicy)],
)
def test_policy_classes_of_sac_stand_for_ours(given, used):
    env = GoalChainEnv() if used is MultiInputPolicy else DriftEnv()
    if used is CnnPolicy:
        from stable_baselines3.common.envs import FakeImageEnv

        env = FakeImageEnv(screen_height=40, screen_width=40, discrete=False)
    assert type(AsymSAC(given, env, buffer_size=10, policy_kwargs=dict(net_arch=[8]), device="cpu").policy) is used


def test_other_policy_classes_are_refused():
    class Mine(stock.MlpPolicy):
        pass

    with pytest.raises(ValueError, match="policy must be a name such as 'MlpPolicy' or an AsymSACPolicy, got Mine"):
        AsymSAC(Mine, DriftEnv())


@pytest.mark.parametrize("n_steps", [0, 60])
def test_agents_can_be_pickled_where_those_of_sac_can(make_agent, n_steps):
    kwargs = dict(buffer_size=100, learning_starts=20, batch_size=8, device="cpu")
    pickle.dumps(SAC("MlpPolicy", DriftEnv(), **kwargs).learn(n_steps))
    agent = make_agent().learn(n_steps)
    copy = pickle.loads(pickle.dumps(agent))
    observations = np.linspace(-3, 3, 7, dtype=np.float32).reshape(-1, 1)
    assert np.array_equal(*(model.predict(observations, deterministic=True)[0] for model in (agent, copy)))
    assert copy.learn(40, reset_num_timesteps=False).num_timesteps == n_steps + 40


def test_an_agent_with_goals_acts_without_an_env_and_learns_on_in_one(make_agent, tmp_path):
    kwargs = dict(policy="MultiInputPolicy", replay_buffer_class=HerReplayBuffer)
    make_agent(GoalChainEnv(), **kwargs).learn(40).save(tmp_path / "agent")
    loaded = AsymSAC.load(tmp_path / "agent", device="cpu")
    assert loaded.predict(GoalChainEnv().reset()[0], deterministic=True)[0].shape == (1,)
    loaded.set_env(GoalChainEnv())
    loaded.learning_starts = 60
    loaded.learn(40, reset_num_timesteps=False)
    assert loaded._n_updates == 20 + 20
    other = GoalChainEnv(goal=3)
    loaded.set_env(other)
    assert loaded.replay_buffer.env is loaded.get_env()


def test_a_replay_memory_of_more_sub_policies_is_refused_and_the_present_one_kept(make_agent, tmp_path):
    archs = dict(sub_net_archs=dict(a=[4], b=[8], c=[16]), master_net_arch=[8])
    make_agent(policy_kwargs=archs, learning_starts=0).learn(60).save_replay_buffer(tmp_path / "memory")
    agent = make_agent().learn(30)
    present = agent.replay_buffer
    with pytest.raises(ValueError, match=r"memory is of 3 sub-policies, the agent has \('small', 'large'\)"):
        agent.load_replay_buffer(tmp_path / "memory")
    assert agent.replay_buffer is present
    agent.learn(30, reset_num_timesteps=False)


def test_copying_one_actor_does_not_copy_the_policy(make_agent):
    actor = make_agent(ChainEnv(), use_sde=True).policy.actors[0]
    modules = {type(module).__name__ for module in actor.modules()}
    assert "AsymSACPolicy" not in modules
    assert not any("AsymSACPolicy" in type(value).__name__ for value in vars(actor).values())
