import copy

import numpy as np
import pytest
import torch as th
from envs import ChainEnv, DriftEnv, GoalChainEnv
from stable_baselines3 import SAC, HerReplayBuffer
from stable_baselines3.common.callbacks import CheckpointCallback
from stable_baselines3.common.utils import set_random_seed
from stable_baselines3.common.vec_env import DummyVecEnv, VecNormalize
from trees import assert_same_tree

from sb3_asym import AsymSAC

AGENTS = {
    "default": dict(),
    "three sub-policies, separate critics": dict(
        critic="separate", policy_kwargs=dict(sub_net_archs=dict(a=[4], b=[8], c=[16]), master_net_arch=[8])
    ),
    "fixed entropy coefficient": dict(ent_coef=0.1),
    "schedules": dict(learning_rate=lambda progress: 1e-3 * progress, cost_coef=lambda progress: 0.2 * progress),
    "n-step returns": dict(n_steps=3),
    "gSDE": dict(use_sde=True, sde_sample_freq=4),
    "HER": dict(policy="MultiInputPolicy", replay_buffer_class=HerReplayBuffer),
    "dial": dict(cost_coef="dial"),
    "budget": dict(cost_coef="auto_0.4"),
    "DQN that learns by episodes": dict(critic="shared", master_kwargs=dict(train_freq=(1, "episode"), gradient_steps=2)),
}


def make_env(name, n_envs=1):
    return DummyVecEnv([GoalChainEnv if name == "HER" else DriftEnv] * n_envs)


def assert_same_agent(first, second):
    """Equal networks and optimizers, entropy coefficients and counters."""
    assert_same_tree(first.get_parameters(), second.get_parameters())
    if first.ent_coef_optimizer is None:
        assert_same_tree(first.ent_coef_tensor, second.ent_coef_tensor)
    else:
        assert_same_tree(first.log_ent_coef.detach(), second.log_ent_coef.detach())
    assert first.num_timesteps == second.num_timesteps
    assert first._n_updates == second._n_updates
    assert_same_tree(*map(counters_of, (first, second)))
    assert first.master.counters()["_n_updates"] > 0


def counters_of(agent):
    """The master's, λ over the episodes among them."""
    counters = agent.master.counters()
    acting = counters.pop("acting", None)
    return counters, {} if acting is None else vars(acting)


@pytest.mark.filterwarnings("ignore:`n_steps=3` is ignored")  # SB3's load warns of what it saved itself
@pytest.mark.parametrize("n_envs", [1, 2])
@pytest.mark.parametrize("name", AGENTS)
def test_a_loaded_agent_goes_on_as_the_saved_one(make_agent, tmp_path, name, n_envs):
    """In the running episode and its running options, with the same replay memory."""
    agent = make_agent(make_env(name, n_envs), **AGENTS[name]).learn(62)
    agent.save(tmp_path / "agent")
    agent.save_replay_buffer(tmp_path / "memory")
    venv = copy.deepcopy(agent.get_env())

    loaded = AsymSAC.load(tmp_path / "agent", env=venv, force_reset=False, device="cpu")
    loaded.load_replay_buffer(tmp_path / "memory", truncate_last_traj=False)
    assert_same_agent(agent, loaded)
    for model in (agent, loaded):
        set_random_seed(1)
        model.learn(41, reset_num_timesteps=False)
    assert_same_agent(agent, loaded)
    n_rows = agent.replay_buffer.pos
    assert loaded.replay_buffer.pos == n_rows
    assert np.array_equal(agent.replay_buffer.actions[:n_rows], loaded.replay_buffer.actions[:n_rows])
    assert np.array_equal(agent.option_memory.options, loaded.option_memory.options)
    assert np.array_equal(agent.option_memory.lengths, loaded.option_memory.lengths)


def test_a_loaded_agent_predicts_as_the_saved_one(make_agent, tmp_path):
    agent = make_agent(option_length=4, cost_coef=0.2).learn(40)
    agent.save(tmp_path / "agent.zip")
    loaded = AsymSAC.load(tmp_path / "agent.zip", device="cpu")
    assert (loaded.option_names, loaded.option_length, loaded.cost_coef) == (("small", "large"), 4, 0.2)
    obs, states = np.linspace(-3, 3, 20, dtype=np.float32).reshape(-1, 1), [None, None]
    for _ in range(6):
        (action, states[0]), (loaded_action, states[1]) = (
            model.predict(obs, state, deterministic=True) for model, state in zip((agent, loaded), states, strict=True)
        )
        assert np.array_equal(action, loaded_action)
        obs = -obs


def test_a_running_option_is_held_after_loading(make_agent, tmp_path):
    """Saved two steps into an option of three: it has one step left."""
    agent = make_agent(ChainEnv(lengths=(7,)), learning_starts=0, batch_size=4).learn(9)
    running = agent.option_memory.options[8, 0]
    agent.save(tmp_path / "agent")
    loaded = AsymSAC.load(tmp_path / "agent", env=copy.deepcopy(agent.get_env()), force_reset=False, device="cpu")
    loaded.learn(8, reset_num_timesteps=False)
    assert loaded.option_memory.options[0, 0] == running
    assert loaded.option_memory.lengths[:8, 0].tolist() == [0, 3, 0, 0, 1, 3, 0, 0]


def test_a_memory_does_not_go_on_with_options_of_another_time(make_agent, tmp_path):
    """It is saved after two steps of an option of three, and loaded where one step of another has been made."""
    agent = make_agent(ChainEnv(lengths=(100,)), learning_starts=0, batch_size=4, critic="shared").learn(8)
    assert agent._option_state.steps_left == 1
    agent.save_replay_buffer(tmp_path / "memory")
    agent.learn(2, reset_num_timesteps=False)
    assert agent._option_state.steps_left == 2
    agent.load_replay_buffer(tmp_path / "memory", truncate_last_traj=False)
    agent.learn(8, reset_num_timesteps=False)
    assert agent.option_memory.lengths[:16, 0].tolist() == [3, 0, 0, 3, 0, 0, 0, 0, 0, 0, 3, 0, 0, 3, 0, 0]
    agent.option_memory.sample(100)


def test_a_loaded_agent_starts_a_new_option_in_a_new_episode(make_agent, tmp_path):
    agent = make_agent(ChainEnv(lengths=(7,)), learning_starts=0, batch_size=4).learn(9)
    agent.save(tmp_path / "agent")
    loaded = AsymSAC.load(tmp_path / "agent", env=ChainEnv(lengths=(7,)), device="cpu")
    loaded.learn(7, reset_num_timesteps=False)
    assert loaded.option_memory.lengths[:7, 0].tolist() == [3, 0, 0, 3, 0, 0, 1]


def test_replay_memory_is_saved_with_its_options(make_agent, tmp_path):
    agent = make_agent().learn(60)
    agent.save_replay_buffer(tmp_path / "memory")
    loaded = make_agent(seed=1)
    loaded.load_replay_buffer(tmp_path / "memory")
    batches = []
    for model in (agent, loaded):
        set_random_seed(2)
        batches.append([model.replay_buffer.sample(32), model.option_memory.sample(32)])
    assert_same_tree(*batches)


@pytest.mark.parametrize("name", ["default", "HER"])
def test_a_replay_buffer_of_sac_can_be_loaded(make_agent, tmp_path, name):
    """Sub-policies learn from it at once, the master from the options that the agent adds."""
    kwargs = dict(buffer_size=1000, learning_starts=20, batch_size=16, seed=0, device="cpu")
    sac = SAC(**{"policy": "MlpPolicy", **AGENTS[name]}, env=make_env(name), **kwargs)
    sac.learn(49).save_replay_buffer(tmp_path / "memory")
    settings = {**AGENTS[name], "learning_starts": 0, "critic": "shared", "master_kwargs": dict(train_freq=3)}
    agent = make_agent(make_env(name), **settings)
    agent.load_replay_buffer(tmp_path / "memory")
    assert agent.replay_buffer.size() == 49
    assert agent.option_memory.size() == 0
    agent.learn(2)
    assert agent._n_updates == 2
    assert agent.master.counters()["_n_updates"] == 0
    agent.learn(40)
    assert agent.master.counters()["_n_updates"] > 0
    assert (agent.option_memory.options[:49] == -1).all()


def test_an_interrupted_run_resumes_from_its_checkpoint(make_agent, tmp_path):
    checkpoints = CheckpointCallback(50, str(tmp_path), save_replay_buffer=True, save_vecnormalize=True)
    make_agent(VecNormalize(make_env("default"))).learn(70, callback=checkpoints)
    venv = VecNormalize.load(tmp_path / "rl_model_vecnormalize_50_steps.pkl", make_env("default"))
    resumed = AsymSAC.load(tmp_path / "rl_model_50_steps", env=venv, device="cpu")
    resumed.load_replay_buffer(tmp_path / "rl_model_replay_buffer_50_steps")
    assert resumed.num_timesteps == 50
    assert resumed.replay_buffer.size() == 49  # callbacks come before the step is stored
    resumed.learn(20, reset_num_timesteps=False)
    assert resumed.num_timesteps == 70
    assert resumed.replay_buffer.size() == 69


@pytest.mark.parametrize("name", AGENTS)
def test_a_seed_fixes_the_run(make_agent, name):
    first, second = (make_agent(make_env(name, n_envs=2), **AGENTS[name]).learn(60) for _ in range(2))
    assert_same_agent(first, second)


def test_episodes_of_other_envs_have_other_cost_coefs(make_agent, tmp_path):
    make_agent(make_env("dial", 2), cost_coef="dial").learn(60).save(tmp_path / "agent")
    loaded = AsymSAC.load(tmp_path / "agent", env=make_env("dial", 3))
    assert len(loaded.master.acting.cost_coefs) == 3
    loaded.learn(60, reset_num_timesteps=False)


def test_another_seed_is_another_run(make_agent):
    first, second = (make_agent(seed=seed).learn(40).policy.actor.mu.weight for seed in (0, 1))
    assert not th.equal(first, second)


def test_n_step_returns_are_no_memory_for_a_critic_of_options(make_agent, tmp_path):
    make_agent(n_steps=3).learn(60).save_replay_buffer(tmp_path / "memory")
    agent = make_agent()
    present = agent.replay_buffer
    with pytest.raises(ValueError, match="learns from single steps"):
        agent.load_replay_buffer(tmp_path / "memory")
    assert agent.replay_buffer is present
    agent.learn(60)
