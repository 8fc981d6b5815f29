"""SB3's features around SAC work with AsymSAC: goals, images, normalization, gSDE, noise, spaces and custom parts."""

import gymnasium as gym
import numpy as np
import pytest
import torch as th
from envs import ChainEnv, DriftEnv, GoalChainEnv
from gymnasium import spaces
from stable_baselines3 import SAC, HerReplayBuffer
from stable_baselines3.common.buffers import DictReplayBuffer, NStepReplayBuffer, ReplayBuffer
from stable_baselines3.common.callbacks import EvalCallback
from stable_baselines3.common.env_util import make_vec_env
from stable_baselines3.common.envs import BitFlippingEnv, FakeImageEnv, SimpleMultiObsEnv
from stable_baselines3.common.evaluation import evaluate_policy
from stable_baselines3.common.logger import Logger
from stable_baselines3.common.noise import NormalActionNoise, OrnsteinUhlenbeckActionNoise, VectorizedActionNoise
from stable_baselines3.common.preprocessing import get_flattened_obs_dim
from stable_baselines3.common.torch_layers import BaseFeaturesExtractor
from stable_baselines3.common.vec_env import VecNormalize
from torch import nn

from sb3_asym import AsymSAC
from sb3_asym.options import NO_OPTION
from sb3_asym.policies import MlpPolicy

TINY = dict(sub_net_archs=dict(small=[4], large=[16]), master_net_arch=[8])
CRITICS = pytest.mark.parametrize("critic", ["shared", "separate", "option"])
CRITICS_BESIDE_A_DQN = pytest.mark.parametrize("critic", ["shared", "separate"])


class SampleEnv(gym.Env):
    """Observations are drawn at random. Where actions are of the same space, copying the observation is what pays."""

    def __init__(self, observation_space, action_space, time_limit=5):
        self.observation_space, self.action_space, self.time_limit = observation_space, action_space, time_limit

    def reset(self, *, seed=None, options=None):
        if seed is not None:
            self.observation_space.seed(seed)
        self.steps, self.obs = 0, self.observation_space.sample()
        return self.obs, {}

    def step(self, action):
        assert self.action_space.contains(action)
        reward = -float(np.square(action - self.obs).sum()) if self.observation_space == self.action_space else 0.0
        self.steps, self.obs = self.steps + 1, self.observation_space.sample()
        return self.obs, reward, False, self.steps == self.time_limit, {}


class LinearExtractor(BaseFeaturesExtractor):
    """Features with weights, and batch normalization if asked."""

    def __init__(self, observation_space, features_dim=3, batch_norm=False):
        super().__init__(observation_space, features_dim)
        n_inputs = get_flattened_obs_dim(observation_space)
        norm = [nn.BatchNorm1d(n_inputs)] if batch_norm else []
        self.layers = nn.Sequential(nn.Flatten(), *norm, nn.Linear(n_inputs, features_dim))

    def forward(self, observations):
        return self.layers(observations)


BATCH_NORM = dict(TINY, features_extractor_class=LinearExtractor, features_extractor_kwargs=dict(batch_norm=True))


def running_means(network):
    return [value.clone() for name, value in network.state_dict().items() if name.endswith("running_mean")]


def assert_loads(model, path, obs):
    """The saved agent acts as the original one and goes on learning."""
    model.save(path)
    loaded = AsymSAC.load(path, env=model.env)
    np.testing.assert_array_equal(model.predict(obs, deterministic=True)[0], loaded.predict(obs, deterministic=True)[0])
    loaded.learn(10, reset_num_timesteps=False)
    assert loaded.num_timesteps >= model.num_timesteps + 10


# --- goals, dicts, images ---


@CRITICS
@pytest.mark.parametrize("n_envs", [1, 2])
@pytest.mark.parametrize("strategy", ["future", "final", "episode"])
def test_hindsight_experience_replay(make_agent, tmp_path, critic, n_envs, strategy):
    env = make_vec_env(BitFlippingEnv, n_envs, seed=0, env_kwargs=dict(n_bits=3, continuous=True))
    kwargs = dict(n_sampled_goal=2, goal_selection_strategy=strategy, copy_info_dict=True)
    model = make_agent(
        env, "MultiInputPolicy", critic=critic, replay_buffer_class=HerReplayBuffer, replay_buffer_kwargs=kwargs
    )
    model.learn(60)
    assert model._n_updates > 0
    assert model.master._n_updates > 0
    assert 0 <= evaluate_policy(model, env, n_eval_episodes=4)[0] + 3 <= 3
    model.save(tmp_path / "agent")
    model.save_replay_buffer(tmp_path / "memory")
    loaded = AsymSAC.load(tmp_path / "agent", env=env)
    loaded.load_replay_buffer(tmp_path / "memory", truncate_last_traj=False)
    for name in ("rewards", "ep_length"):
        np.testing.assert_array_equal(getattr(loaded.replay_buffer, name), getattr(model.replay_buffer, name))
    np.testing.assert_array_equal(loaded.option_memory.options, model.option_memory.options)
    loaded.learn(20, reset_num_timesteps=False)
    assert loaded.replay_buffer.size() == 80 // n_envs


def test_hindsight_experience_replay_with_normalization(make_agent):
    env = VecNormalize(make_vec_env(GoalChainEnv, 2))
    model = make_agent(env, "MultiInputPolicy", replay_buffer_class=HerReplayBuffer).learn(40)
    assert model.master._n_updates > 0
    # The memory keeps what the env returned.
    assert set(model.replay_buffer.rewards[:20].ravel()) == {0.0, -1.0, -2.0, -3.0, -4.0}


@CRITICS
def test_dict_observations_with_images(make_agent, tmp_path, critic):
    env = SimpleMultiObsEnv(discrete_actions=False)
    policy_kwargs = dict(TINY, features_extractor_kwargs=dict(cnn_output_dim=4))
    model = make_agent(env, "MultiInputPolicy", critic=critic, policy_kwargs=policy_kwargs, buffer_size=50, batch_size=4)
    model.learn(25)
    assert isinstance(model.replay_buffer, DictReplayBuffer)
    obs, _ = env.reset()
    assert_loads(model, tmp_path / "agent", obs)
    actions, state = model.predict({key: np.stack([value] * 3) for key, value in obs.items()})
    assert actions.shape == (3, 4)
    assert state.option.shape == (3,)


@CRITICS
@pytest.mark.parametrize("channel_first", [False, True])
def test_images(make_agent, tmp_path, critic, channel_first):
    env = FakeImageEnv(screen_height=36, screen_width=36, discrete=False, channel_first=channel_first)
    kwargs = dict(optimize_memory_usage=True, replay_buffer_kwargs=dict(handle_timeout_termination=False), batch_size=4)
    policy_kwargs = dict(TINY, features_extractor_kwargs=dict(features_dim=4), share_features_extractor=channel_first)
    model = make_agent(env, "CnnPolicy", critic=critic, policy_kwargs=policy_kwargs, buffer_size=30, **kwargs).learn(40)
    assert model.replay_buffer.full
    assert model.observation_space.shape == (1, 36, 36)
    assert_loads(model, tmp_path / "agent", env.observation_space.sample())


# --- spaces ---


@pytest.mark.parametrize(
    "observation_space",
    [
        spaces.Discrete(4),
        spaces.MultiDiscrete([3, 2]),
        spaces.MultiBinary(3),
        spaces.Box(-1.0, 1.0, (2, 3), dtype=np.float64),
        spaces.Dict(place=spaces.Box(-1.0, 1.0, (2,)), room=spaces.Discrete(3)),
    ],
    ids=lambda space: type(space).__name__,
)
@pytest.mark.parametrize(
    "action_space",
    [spaces.Box(np.array([-2.0, 0.0]), np.array([2.0, 10.0]), dtype=np.float64), spaces.Box(-1.0, 1.0, (2, 2))],
    ids=["bounds", "matrix"],
)
@pytest.mark.parametrize("n_envs", [1, 2])
def test_spaces(make_agent, observation_space, action_space, n_envs):
    env = make_vec_env(lambda: SampleEnv(observation_space, action_space), n_envs)
    policy = "MultiInputPolicy" if isinstance(observation_space, spaces.Dict) else "MlpPolicy"
    model = make_agent(env, policy, learning_starts=4).learn(12)
    action, _ = model.predict(observation_space.sample())
    assert action.shape == action_space.shape
    assert model.predict(env.reset(), deterministic=True)[0].shape == (n_envs, *action_space.shape)


# --- collecting ---


@CRITICS
@pytest.mark.parametrize("norm_reward", [True, False])
def test_normalized_envs(make_agent, tmp_path, critic, norm_reward):
    env, eval_env = (VecNormalize(make_vec_env(ChainEnv, 2), norm_reward=norm_reward, training=t) for t in (True, False))
    model = make_agent(env, critic=critic).learn(60, EvalCallback(eval_env, eval_freq=30, verbose=0))
    assert eval_env.obs_rms.mean == env.obs_rms.mean > 1
    # The memory keeps what the env returned.
    assert set(model.replay_buffer.rewards[:30].ravel()) == set(range(1, 8))
    assert set(model.replay_buffer.observations[:30].ravel()) == set(range(7))
    assert model.get_vec_normalize_env() is env
    env.save(tmp_path / "statistics")
    model.save(tmp_path / "agent")
    restored = VecNormalize.load(tmp_path / "statistics", make_vec_env(ChainEnv, 2))
    loaded = AsymSAC.load(tmp_path / "agent", env=restored)
    place = restored.normalize_obs(np.array([[3.0], [5.0]]))
    np.testing.assert_array_equal(loaded.predict(place, None, None, True)[0], model.predict(place, None, None, True)[0])
    loaded.learn(40, reset_num_timesteps=False)
    assert loaded.get_vec_normalize_env() is restored


@CRITICS
@pytest.mark.parametrize("n_envs", [1, 2])
@pytest.mark.parametrize("sde_sample_freq", [-1, 4])
def test_state_dependent_exploration(make_agent, tmp_path, critic, n_envs, sde_sample_freq):
    env = make_vec_env(DriftEnv, n_envs)
    kwargs = dict(use_sde=True, sde_sample_freq=sde_sample_freq, train_freq=8)
    model = make_agent(env, critic=critic, use_sde_at_warmup=True, policy_kwargs=dict(TINY, log_std_init=-2), **kwargs)
    before = [actor.log_std.clone() for actor in model.policy.actors]
    model.learn(64, log_interval=1)
    assert (model.option_memory.options[: 64 // n_envs] != NO_OPTION).all()
    assert all(not th.equal(old, actor.log_std) for old, actor in zip(before, model.policy.actors, strict=True))
    observations = np.zeros((n_envs, 1), dtype=np.float32)
    model.policy.reset_noise(n_envs)
    first, second = (model.predict(observations)[0] for _ in range(2))
    np.testing.assert_array_equal(first, second)
    model.policy.reset_noise(n_envs)
    assert not np.array_equal(first, model.predict(observations)[0])
    assert_loads(model, tmp_path / "agent", observations)


def test_warm_up_without_state_dependent_exploration_is_random(make_agent):
    options = make_agent(use_sde=True).learn(30).option_memory.options
    assert ((options[:30] == NO_OPTION).ravel() == (np.arange(30) < 20)).all()


@CRITICS_BESIDE_A_DQN
@pytest.mark.parametrize("n_envs", [1, 2])
def test_n_step_returns(make_agent, critic, n_envs):
    model = make_agent(make_vec_env(ChainEnv, n_envs), critic=critic, n_steps=3, gamma=0.9).learn(60)
    assert isinstance(model.replay_buffer, NStepReplayBuffer)
    batch = model.replay_buffer.sample(200)
    # Three steps, and fewer at the end of an episode; the master's transitions are still whole options.
    exponents = np.log(batch.discounts.numpy()) / np.log(0.9)
    assert set(np.unique(exponents.round(3))) == {1.0, 2.0, 3.0}
    assert model.option_memory.sample(50).discounts.max().item() <= 0.9


@pytest.mark.parametrize("n_envs", [1, 2])
@pytest.mark.parametrize(
    "noise",
    [
        NormalActionNoise(np.array([100.0]), np.array([1.0])),
        OrnsteinUhlenbeckActionNoise(np.array([100.0]), np.array([1.0]), initial_noise=np.array([100.0])),
    ],
    ids=["normal", "Ornstein-Uhlenbeck"],
)
def test_action_noise(make_agent, n_envs, noise):
    env = make_vec_env(ChainEnv, n_envs)
    model = make_agent(env, action_noise=noise).learn(60)
    assert isinstance(model.action_noise, VectorizedActionNoise) == (n_envs > 1)
    # So much noise saturates every action, in the memory and in the env.
    assert np.median(model.replay_buffer.actions[: 60 // n_envs]) == 1.0
    assert np.median(env.get_attr("actions")[0]) == 1.0


@pytest.mark.parametrize("n_envs", [1, 2])
def test_memory_is_saved_and_loaded(make_agent, tmp_path, n_envs):
    kwargs = dict(optimize_memory_usage=True, replay_buffer_kwargs=dict(handle_timeout_termination=False), buffer_size=80)
    model = make_agent(make_vec_env(DriftEnv, n_envs), **kwargs).learn(120)
    model.save_replay_buffer(tmp_path / "memory")
    loaded = make_agent(make_vec_env(DriftEnv, n_envs), **kwargs)
    loaded.load_replay_buffer(tmp_path / "memory")
    for name in ("observations", "actions", "rewards", "dones", "pos", "full"):
        np.testing.assert_array_equal(getattr(loaded.replay_buffer, name), getattr(model.replay_buffer, name))
    for name in ("options", "lengths"):
        np.testing.assert_array_equal(getattr(loaded.option_memory, name), getattr(model.option_memory, name))
    assert loaded.option_memory.replay_buffer is loaded.replay_buffer
    assert loaded.master.memory is loaded.option_memory
    with pytest.warns(UserWarning, match="last trajectory in the replay buffer will be truncated"):
        loaded.learn(40)
    assert loaded.master._n_updates > 0


# --- custom parts ---


class CountingBuffer(ReplayBuffer):
    def __init__(self, *args, start=0, **kwargs):
        super().__init__(*args, **kwargs)
        self.n_added = start

    def add(self, *args, **kwargs):
        super().add(*args, **kwargs)
        self.n_added += 1


def test_custom_buffer_and_policy_class(make_agent):
    model = make_agent(None, MlpPolicy, replay_buffer_class=CountingBuffer, replay_buffer_kwargs=dict(start=5)).learn(30)
    assert isinstance(model.policy, MlpPolicy)
    assert model.replay_buffer.n_added == 35
    assert model.option_memory.replay_buffer is model.replay_buffer


@CRITICS
def test_custom_optimizer_trains_every_network(make_agent, tmp_path, critic):
    policy_kwargs = dict(TINY, optimizer_class=th.optim.RMSprop, optimizer_kwargs=dict(alpha=0.9), activation_fn=nn.Tanh)
    model = make_agent(policy_kwargs=policy_kwargs, critic=critic).learn(40)
    for network in (*model.policy.actors, *model.policy.critics, model.policy.master):
        assert isinstance(network.optimizer, th.optim.RMSprop)
        assert network.optimizer.param_groups[0]["alpha"] == 0.9
        assert network.optimizer.state
    assert_loads(model, tmp_path / "agent", np.zeros(1, dtype=np.float32))


@CRITICS
@pytest.mark.parametrize("share", [True, False])
def test_batch_normalization(make_agent, critic, share):
    # Nothing but the running statistics can change.
    policy_kwargs = dict(BATCH_NORM, share_features_extractor=share)
    model = make_agent(critic=critic, policy_kwargs=policy_kwargs, learning_rate=0.0, tau=0.0)
    networks = [*model.policy.actors, *model.policy.critics, *model.policy.critic_targets, model.policy.master]
    before = [running_means(network) for network in networks]
    assert all(before)
    model.learn(20)
    model.predict(np.ones((4, 1), dtype=np.float32))
    assert [running_means(network) for network in networks] == before
    model.learn(40, reset_num_timesteps=False)
    after = [running_means(network) for network in networks]
    assert all(not th.equal(th.stack(old), th.stack(new)) for old, new in zip(before, after, strict=True))
    assert running_means(model.policy.critics) == running_means(model.policy.critic_targets)
    model.predict(np.ones((4, 1), dtype=np.float32))
    model.policy.actions(th.ones(4, 1), np.array([0, 1, 1, 0]), deterministic=True)
    assert [running_means(network) for network in networks] == after


@CRITICS_BESIDE_A_DQN
def test_sub_policies_leave_the_statistics_of_the_master_alone(make_agent, critic):
    model = make_agent(critic=critic, policy_kwargs=dict(BATCH_NORM), master_kwargs=dict(learning_starts=1000))
    before = running_means(model.policy.master.q_net)
    model.learn(30)
    assert model._n_updates > 0
    assert running_means(model.policy.master.q_net) == before


@CRITICS
def test_shared_features_extractor_learns_from_the_actor_alone(make_agent, tmp_path, critic):
    policy_kwargs = dict(TINY, features_extractor_class=LinearExtractor, share_features_extractor=True)
    model = make_agent(critic=critic, policy_kwargs=policy_kwargs).learn(30)
    for index, network in enumerate(reversed(model.policy.critics)):
        assert network.features_extractor is model.policy.actors[-1 - index].features_extractor
        trained = {id(weight) for group in network.optimizer.param_groups for weight in group["params"]}
        assert not trained & {id(weight) for weight in network.features_extractor.parameters()}
    assert_loads(model, tmp_path / "agent", np.zeros(1, dtype=np.float32))


# --- learning ---


def sac_twin(model, index, **settings):
    """SB3's SAC with the networks and the memory of one sub-policy."""
    twin = SAC("MlpPolicy", model.env, **settings)
    for network, ours in (("actor", "actors"), ("critic", "critics"), ("critic_target", "critic_targets")):
        getattr(twin, network).load_state_dict(getattr(model.policy, ours)[index].state_dict())
    twin.replay_buffer = model.replay_buffer
    twin.set_logger(Logger(folder=None, output_formats=[]))
    return twin


@pytest.mark.parametrize(
    ("settings", "policy_kwargs"),
    [
        (dict(), dict()),
        (dict(ent_coef=0.1, target_entropy=-2.0), dict(n_critics=3, activation_fn=nn.Tanh)),
        (dict(n_steps=3, gamma=0.9), dict(optimizer_class=th.optim.AdamW, optimizer_kwargs=dict(weight_decay=0.1))),
        (dict(use_sde=True), dict(log_std_init=-1)),
        (dict(tau=0.1), dict(features_extractor_class=LinearExtractor)),
        (dict(tau=0.1), dict(features_extractor_class=LinearExtractor, share_features_extractor=True)),
    ],
    ids=["default", "fixed entropy coefficient", "n-step", "gSDE", "features", "shared features"],
)
def test_separate_critics_learn_as_sac_does(make_agent, settings, policy_kwargs):
    archs = dict(small=[4], large=[16])
    ours = dict(policy_kwargs, sub_net_archs=archs, critic_net_arch=dict(small=[12], large=[20]))
    model = make_agent(critic="separate", policy_kwargs=ours, gradient_steps=0, **settings).learn(60)
    twins = [
        sac_twin(model, index, **settings, policy_kwargs=dict(policy_kwargs, net_arch=dict(pi=archs[name], qf=[qf])))
        for index, (name, qf) in enumerate(dict(small=12, large=20).items())
    ]
    for seed in range(3):
        th.manual_seed(seed)
        np.random.seed(seed)
        model.train(1, batch_size=32)
        th.manual_seed(seed)
        # Exploration matrices are drawn for the largest first.
        for twin in reversed(twins) if model.use_sde else twins:
            np.random.seed(seed)
            twin.train(1, batch_size=32)
    for index, (name, twin) in enumerate(zip(archs, twins, strict=True)):
        for network, ours in (("actor", "actors"), ("critic", "critics"), ("critic_target", "critic_targets")):
            expected = getattr(twin, network).state_dict()
            for key, value in getattr(model.policy, ours)[index].state_dict().items():
                th.testing.assert_close(value, expected[key], rtol=1e-6, atol=1e-6)
        if twin.log_ent_coef is not None:
            th.testing.assert_close(model.log_ent_coef[index : index + 1], twin.log_ent_coef, rtol=1e-6, atol=1e-6)
        for key in ("actor_loss", "critic_loss", "ent_coef"):
            assert model.logger.name_to_value[f"{name}/{key}"] == pytest.approx(
                twin.logger.name_to_value[f"train/{key}"], rel=1e-5
            )


@CRITICS
def test_learns_to_copy_the_observation(make_agent, critic):
    space = spaces.Box(-1.0, 1.0, (1,))
    env = make_vec_env(lambda: SampleEnv(space, space, time_limit=10), seed=0)
    settings = dict(learning_rate=5e-3, batch_size=64, learning_starts=50, gamma=0.9, tau=0.02)
    model = make_agent(env, critic=critic, cost_coef=0.01, **settings)
    # Random actions get -6.7 on average, the best constant action -3.3.
    assert evaluate_policy(model, env, n_eval_episodes=20)[0] < -2.5
    model.learn(500)
    assert evaluate_policy(model, env, n_eval_episodes=20)[0] > -1
