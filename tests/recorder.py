"""Steps that are stored as training stores them, with a plain record of them to compare with."""

from typing import NamedTuple

import numpy as np
from stable_baselines3.common.buffers import DictReplayBuffer

from sb3_asym.options import NO_OPTION

GAMMA = 0.5
GOAL = -5.0
"""The desired goal of recorded steps; it is never achieved."""


class Step(NamedTuple):
    """One recorded env step; observations are running numbers, so that each tells which step it belongs to."""

    obs: float
    next_obs: float
    reward: float
    option: int
    started: bool
    end: str | None


class Recorder:
    """Stores steps in a replay buffer and its option memory, as training does, and keeps a plain record of them."""

    def __init__(self, memory):
        self.memory, self.buffer = memory, memory.replay_buffer
        self.steps = [[] for _ in range(self.buffer.n_envs)]
        self.held = [0] * self.buffer.n_envs
        self.running = [NO_OPTION] * self.buffer.n_envs
        self.n_observations = self.buffer.n_envs
        self.obs = [float(env) for env in range(self.buffer.n_envs)]

    def step(self, rewards, options, ends=None):
        """
        One step of each env.

        :param rewards: one for each env
        :param options: the option to start in each env where one is due
        :param ends: None, "terminated" or "truncated" for each env
        """
        ends = ends or [None] * self.buffer.n_envs
        rows = []
        for env, (reward, option, end) in enumerate(zip(rewards, options, ends, strict=True)):
            started = self.held[env] == 0 and option != NO_OPTION
            self.running[env] = option if self.held[env] == 0 else self.running[env]
            self.held[env] += self.running[env] != NO_OPTION
            next_obs = self._new_observation()
            rows.append(Step(self.obs[env], next_obs, reward, self.running[env], started, end))
            self.steps[env].append(rows[-1])
            self.obs[env] = self._new_observation() if end else next_obs
        full = [self.held[env] == self.memory.option_length for env in range(self.buffer.n_envs)]
        ended = np.array([row.end is not None or is_full for row, is_full in zip(rows, full, strict=True)])
        self.memory.add(np.array([row.option for row in rows]), np.array([row.started for row in rows]), ended)
        self.held = [0 if over else held for over, held in zip(ended, self.held, strict=True)]
        self.buffer.add(
            self._observations([row.obs for row in rows]),
            self._observations([row.next_obs for row in rows]),
            np.zeros((len(rows), 1), dtype=np.float32),
            np.array(rewards, dtype=np.float32),
            np.array([row.end is not None for row in rows]),
            [{"TimeLimit.truncated": row.end == "truncated", "weight": 1.0} for row in rows],
        )

    def run_randomly(self, n_steps, warm_up=0):
        """Random rewards, options and ends; no option is in force in the first ``warm_up`` steps."""
        n_envs = self.buffer.n_envs
        for step in range(n_steps):
            options = np.full(n_envs, NO_OPTION) if step < warm_up else np.random.randint(0, 2, n_envs)
            ends = np.random.choice([None, "terminated", "truncated"], n_envs, p=[0.8, 0.1, 0.1])
            self.step(np.random.normal(size=n_envs).tolist(), options.tolist(), ends.tolist())

    def _new_observation(self):
        self.n_observations += 1
        return float(self.n_observations)

    def _observations(self, numbers):
        places = np.array(numbers, dtype=np.float32).reshape(-1, 1)
        if not isinstance(self.buffer, DictReplayBuffer):
            return places
        return dict(observation=places, achieved_goal=places, desired_goal=np.full_like(places, GOAL))
