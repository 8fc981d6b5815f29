"""Tiny deterministic environments whose returns can be computed by hand."""

from itertools import cycle

import gymnasium as gym
import numpy as np
from gymnasium import spaces


class ChainEnv(gym.Env):
    """
    Walks 0, 1, 2, … whatever the action; arriving at a place earns its number.

    :param lengths: steps of the first, second, … episode, over and over
    :param truncate: whether episodes end by a time limit instead of a terminal state
    """

    def __init__(self, lengths=(7,), truncate=False):
        self.observation_space = spaces.Box(0.0, 100.0, (1,))
        self.action_space = spaces.Box(-1.0, 1.0, (1,))
        self.lengths = cycle(lengths)
        self.truncate = truncate
        self.actions = []

    def reset(self, *, seed=None, options=None):
        super().reset(seed=seed)
        self.place, self.length = 0, next(self.lengths)
        return self._observation(), {}

    def step(self, action):
        self.actions.append(float(action[0]))
        self.place += 1
        over = self.place == self.length
        return self._observation(), float(self.place), over and not self.truncate, over and self.truncate, {}

    def _observation(self):
        return np.array([self.place], dtype=np.float32)


class DriftEnv(gym.Env):
    """A noisy, seeded walk pushed by the action, paid for staying near 0. Ends at a wall, by chance or by its time limit."""

    def __init__(self, time_limit=8):
        self.observation_space = spaces.Box(-10.0, 10.0, (1,))
        self.action_space = spaces.Box(-1.0, 1.0, (1,))
        self.time_limit = time_limit

    def reset(self, *, seed=None, options=None):
        super().reset(seed=seed)
        self.place, self.steps = self.np_random.normal(), 0
        return self._observation(), {}

    def step(self, action):
        self.steps += 1
        self.place += float(action[0]) + 0.3 * self.np_random.normal()
        terminated = bool(abs(self.place) > 4.0 or self.np_random.random() < 0.05)
        return self._observation(), -(self.place**2), terminated, self.steps >= self.time_limit, {}

    def _observation(self):
        return np.array([np.clip(self.place, -10.0, 10.0)], dtype=np.float32)


class EndlessEnv(DriftEnv):
    """An episode without an end."""

    def step(self, action):
        observation, reward, _, _, info = super().step(action)
        return observation, reward, False, False, info


class GoalChainEnv(gym.Env):
    """
    ChainEnv with a place as its goal; the reward is minus the distance to it. Ends by its time limit.

    :param length: steps of an episode
    :param goal: the desired place
    """

    def __init__(self, length=7, goal=5):
        place = spaces.Box(-1000.0, 1000.0, (1,))
        self.observation_space = spaces.Dict(observation=place, achieved_goal=place, desired_goal=place)
        self.action_space = spaces.Box(-1.0, 1.0, (1,))
        self.length, self.goal = length, goal

    def reset(self, *, seed=None, options=None):
        super().reset(seed=seed)
        self.place = 0
        return self._observation(), {}

    def step(self, action):
        self.place += 1
        obs = self._observation()
        reward = float(self.compute_reward(obs["achieved_goal"], obs["desired_goal"], {}))
        return obs, reward, False, self.place >= self.length, {}

    def compute_reward(self, achieved_goal, desired_goal, info):
        return -np.abs(achieved_goal - desired_goal).sum(axis=-1)

    def _observation(self):
        place = np.array([self.place], dtype=np.float32)
        return dict(observation=place, achieved_goal=place.copy(), desired_goal=np.array([self.goal], dtype=np.float32))
