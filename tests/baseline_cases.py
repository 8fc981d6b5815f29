"""Teachers that are worth imitating, and their envs."""

import gymnasium as gym
import numpy as np
import torch as th
from envs import DriftEnv
from stable_baselines3 import DQN, SAC


class Steer(DriftEnv):
    """A walk that is to be steered back to 0 against noise; an episode has 20 steps."""

    def __init__(self):
        super().__init__(time_limit=20)

    def step(self, action):
        observation, reward, _, truncated, info = super().step(action)
        return observation, reward, False, truncated, info


def steering_teacher(env=None):
    """A SAC agent whose mean action is tanh(−2 x) to the last digit: relu(x) and relu(−x), then −2 and 2."""
    model = SAC("MlpPolicy", env or Steer(), policy_kwargs=dict(net_arch=[32]), seed=0, buffer_size=10, device="cpu")
    actor = model.policy.actor
    hidden = actor.latent_pi[0]
    with th.no_grad():
        for parameter in (hidden.weight, hidden.bias, actor.mu.weight, actor.mu.bias):
            parameter.zero_()
        hidden.weight[:2, 0] = th.tensor([1.0, -1.0])
        actor.mu.weight[0, :2] = th.tensor([-2.0, 2.0])
    return model


class Balance(gym.ObservationWrapper):
    """The same by a push to the left, none, or one to the right, and with Dict observations; far from 0 the episode ends."""

    def __init__(self):
        super().__init__(Steer())
        self.action_space = gym.spaces.Discrete(3)
        self.observation_space = gym.spaces.Dict(place=self.env.observation_space, goal=gym.spaces.Box(0.0, 1.0, (1,)))

    def observation(self, observation):
        return dict(place=observation, goal=np.ones(1, dtype=np.float32))

    def step(self, action):
        observation, _, _, truncated, info = self.env.step(np.array([action - 1.0]))
        return self.observation(observation), 1.0, abs(self.env.place) > 2.0, truncated, info


def balancing_teacher():
    """A DQN agent that pushes against the place."""
    policy_kwargs = dict(net_arch=[32])
    model = DQN("MultiInputPolicy", Balance(), policy_kwargs=policy_kwargs, seed=0, buffer_size=10, device="cpu")
    first, last = (layer for layer in model.policy.q_net.q_net if isinstance(layer, th.nn.Linear))
    with th.no_grad():
        for parameter in model.policy.q_net.parameters():
            parameter.zero_()
        first.weight[:2, list(model.observation_space.spaces).index("place")] = th.tensor([1.0, -1.0])
        last.weight[:, :2] = th.tensor([[1.0, -1.0], [0.0, 0.0], [-1.0, 1.0]])
        last.bias[1] = 0.2
    return model
