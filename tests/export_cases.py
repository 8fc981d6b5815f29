"""Small agents of all kinds that can be exported, and what compares them with their exports."""

import subprocess

import gymnasium as gym
import numpy as np
import torch as th
from gymnasium import spaces
from sb3_contrib import QRDQN, TQC
from stable_baselines3 import A2C, DDPG, DQN, PPO, SAC, TD3
from stable_baselines3.common.vec_env import DummyVecEnv, VecNormalize
from torch import nn

from sb3_asym import AsymSAC
from sb3_asym.deployment.recording import record
from sb3_asym.deployment.runners import ModelRunner
from sb3_asym.export import deployable

STRICT = ("-std=c99", "-Wall", "-Wextra", "-Werror", "-pedantic")
BOX = spaces.Box(-5.0, 5.0, (5,))
DICT = spaces.Dict(touch=spaces.MultiBinary(3), achieved_goal=spaces.Box(-5.0, 5.0, (2, 2)), observation=BOX)


class RandomEnv(gym.Env):
    """
    Seeded observations whatever the action, in episodes that are no multiple of any option's length.

    :param observation_space: where they are drawn from
    :param discrete: whether actions are
    """

    def __init__(self, observation_space=BOX, discrete=False):
        self.observation_space = observation_space
        self.action_space = spaces.Discrete(4) if discrete else spaces.Box(np.float32([-1, -3]), np.float32([2, 3]))

    def reset(self, *, seed=None, options=None):
        super().reset(seed=seed)
        if seed is not None:
            self.observation_space.seed(seed)
        self.steps = 0
        return self.observation_space.sample(), {}

    def step(self, action):
        self.steps += 1
        return self.observation_space.sample(), float(np.sum(action)), False, self.steps >= 37, {}


def asym(env=None, policy="MlpPolicy", archs=None, net=None, **kwargs):
    """An AsymSAC model that uses all its options."""
    archs = archs or dict(small=[4], large=[16, 12])
    policy_kwargs = {"sub_net_archs": archs, "master_net_arch": [8], **(net or {})}
    settings = dict(option_length=3, seed=0, device="cpu", buffer_size=100, policy_kwargs=policy_kwargs)
    return lively(AsymSAC(policy, env or RandomEnv(), **{**settings, **kwargs}))


def plain(algorithm, env=None, policy="MlpPolicy", **kwargs):
    """A model of SB3."""
    return lively(algorithm(policy, env or RandomEnv(), seed=0, device="cpu", **kwargs))


def lively(model):
    """Larger weights, so that nothing is linear, and a master without a favourite."""
    space = model.observation_space
    space.seed(0)
    with th.no_grad():
        for network in (*getattr(model.policy, "actors", [model.policy]), getattr(model.policy, "master", nn.Identity())):
            for weight in network.parameters():
                weight.mul_(2)
        if hasattr(model.policy, "action_net"):
            model.policy.action_net.weight.mul_(50)  # SB3 starts with 0.01
        if isinstance(model, AsymSAC):
            draws = [space.sample() for _ in range(200)]
            if model.get_vec_normalize_env():
                draws = [model.get_vec_normalize_env().normalize_obs(draw) for draw in draws]
            q_values = [model.policy.master.q_net(model.policy.obs_to_tensor(draw)[0]) for draw in draws]
            model.policy.master.q_net.q_net[-1].bias.sub_(th.cat(q_values).mean(0))
    return model


def normalized(space=BOX, **kwargs):
    """An env with statistics of observations; those that are clipped are not rare."""
    env = VecNormalize(DummyVecEnv([lambda: RandomEnv(space)]), clip_obs=1.2, **kwargs)
    env.seed(0)
    env.reset()
    for _ in range(50):
        env.step([env.action_space.sample()])
    env.training = False
    return env


ASYM_CASES = {
    "vector": asym,
    "Dict": lambda: asym(RandomEnv(DICT), "MultiInputPolicy"),
    "VecNormalize": lambda: asym(normalized()),
    "VecNormalize of some keys": lambda: asym(normalized(DICT, norm_obs_keys=["achieved_goal"]), "MultiInputPolicy"),
    "three sub-policies": lambda: asym(archs=dict(tiny=[3], middle=[8], large=[16, 16])),
    "option_length 1": lambda: asym(option_length=1),
    "no hidden layer": lambda: asym(archs=dict(small=[], large=[7])),
    "gSDE": lambda: asym(use_sde=True),
    "dial": lambda: asym(cost_coef=(0.1, 10.0)),
    "dial, linear master": lambda: asym(cost_coef=(0.1, 10.0), net=dict(master_net_arch=[])),
    **{
        kind.__name__: lambda kind=kind: asym(net=dict(activation_fn=kind))
        for kind in (nn.Tanh, nn.ELU, nn.LeakyReLU, nn.Sigmoid, nn.Softplus)
    },
}
PLAIN_CASES = {
    "SAC": lambda: plain(SAC, policy_kwargs=dict(net_arch=[9, 5])),
    "SAC with gSDE": lambda: plain(SAC, use_sde=True, policy_kwargs=dict(net_arch=[9, 5])),
    "SAC, Dict": lambda: plain(SAC, RandomEnv(DICT), "MultiInputPolicy", policy_kwargs=dict(net_arch=[9])),
    "TD3": lambda: plain(TD3, policy_kwargs=dict(net_arch=[9, 5])),
    "DDPG": lambda: plain(DDPG, policy_kwargs=dict(net_arch=[9, 5])),
    "TQC": lambda: plain(TQC, policy_kwargs=dict(net_arch=[9, 5])),
    "PPO": lambda: plain(PPO, n_steps=8, batch_size=8, policy_kwargs=dict(net_arch=[9, 5])),
    "PPO, squashed": lambda: plain(PPO, use_sde=True, policy_kwargs=dict(net_arch=[9], squash_output=True)),
    "PPO, Discrete": lambda: plain(PPO, RandomEnv(discrete=True), policy_kwargs=dict(net_arch=[9, 5])),
    "A2C, VecNormalize": lambda: plain(A2C, normalized(), policy_kwargs=dict(net_arch=[9, 5])),
    "QRDQN": lambda: plain(QRDQN, RandomEnv(discrete=True), policy_kwargs=dict(net_arch=[9, 5], n_quantiles=7)),
    "DQN": lambda: plain(DQN, RandomEnv(discrete=True), policy_kwargs=dict(net_arch=[9, 5])),
}
CASES = {**ASYM_CASES, **PLAIN_CASES}


def made(case, n_steps=200):
    """The model of a case, its deployable form, and what ``predict`` does over episodes."""
    model = CASES[case]()
    agent = deployable(model)
    statistics = model.get_vec_normalize_env()
    env = RandomEnv(model.observation_space, isinstance(model.action_space, spaces.Discrete))
    recording = record(ModelRunner(model, statistics), agent, env, n_steps=n_steps)
    assert set(recording.options) == set(range(len(agent.sub_policies)))
    return model, agent, recording


def command(*arguments, **kwargs):
    """Runs a program that must succeed; gives what it printed."""
    done = subprocess.run([str(a) for a in arguments], capture_output=True, text=True, timeout=300, **kwargs)
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout
