"""Envs and models that the tests of ActorQ share."""

import os
import uuid
from copy import deepcopy
from functools import partial
from pathlib import Path
from typing import Any

import gymnasium as gym
import numpy as np
from gymnasium import spaces
from sb3_contrib import QRDQN, TQC
from stable_baselines3 import DDPG, DQN, SAC, TD3
from stable_baselines3.common.noise import NormalActionNoise

from sb3_asym import AsymSAC

KWARGS: dict[str, Any] = dict(
    policy_kwargs={"net_arch": [16, 16]}, buffer_size=50_000, batch_size=32, learning_starts=20, device="cpu", seed=0
)

ALGORITHMS: dict[str, Any] = {c.__name__: c for c in (SAC, TD3, DDPG, DQN, TQC, QRDQN, AsymSAC)}
TASKS = {name: "CartPole-v1" if "DQN" in name else "Pendulum-v1" for name in ALGORITHMS}


class Trail(gym.Env):
    """Episodes that can be told apart: an observation is the episode's number and the step in it, a reward that step."""

    def __init__(self, discrete: bool = False, length: int = 50, log: Path | None = None):
        self.observation_space = spaces.Box(-np.inf, np.inf, (2,), np.float64)
        self.action_space = spaces.Discrete(3) if discrete else spaces.Box(-2, 2, (1,), np.float32)
        self.length, self.log = length, log

    def reset(self, *, seed: int | None = None, options: Any = None) -> tuple[np.ndarray, dict]:
        self.episode, self.t = uuid.uuid4().int % 2**40, 0
        return self._observation(), {}

    def step(self, action: Any) -> tuple[np.ndarray, float, bool, bool, dict]:
        self.t += 1
        if self.log is not None:
            line = f"{os.getpid()} {self.episode} {self.t}\n".encode()
            file = os.open(self.log, os.O_WRONLY | os.O_APPEND | os.O_CREAT)
            os.write(file, line)
            os.close(file)
        return self._observation(), float(self.t), False, self.t == self.length, {}

    def _observation(self) -> np.ndarray:
        return np.array([self.episode, self.t], dtype=np.float64)


def make_model(algorithm: str, env: gym.Env | str | None = None, **kwargs: Any) -> Any:
    """A small model by the name of its algorithm."""
    kwargs = {"policy": "MlpPolicy", "env": env or TASKS[algorithm], **deepcopy(KWARGS), **kwargs}
    if algorithm in ("TD3", "DDPG"):
        kwargs["action_noise"] = NormalActionNoise(np.zeros(1), 0.1 * np.ones(1))
    return ALGORITHMS[algorithm](**kwargs)


def env_fn(algorithm: str) -> Any:
    """The function that makes the env of an algorithm's actors."""
    return partial(gym.make, TASKS[algorithm])
