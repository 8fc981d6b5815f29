"""Simulation first: robots whose dynamics are drawn anew for each episode, and agents that learn on them."""

from collections.abc import Mapping
from contextlib import suppress
from functools import partial
from pathlib import Path
from typing import Any

import gymnasium as gym
from stable_baselines3 import DDPG, SAC, TD3
from stable_baselines3.common.env_util import make_vec_env
from stable_baselines3.common.off_policy_algorithm import OffPolicyAlgorithm
from stable_baselines3.common.type_aliases import MaybeCallback

from sb3_asym.asym_sac import AsymSAC
from sb3_asym.cloud_edge.action_history import ActionHistory
from sb3_asym.cloud_edge.robot_process import RobotProcess
from sb3_asym.envs import make_env

Ranges = Mapping[str, tuple[float, float]]
MODELS: dict[str, type[OffPolicyAlgorithm]] = {"AsymSAC": AsymSAC, "SAC": SAC, "TD3": TD3, "DDPG": DDPG}


class RandomizedEnv(gym.Env):
    """
    An env with other dynamics in each episode (domain randomization).

    Example::

        env = RandomizedEnv("ChangedPendulum-v0", {"mass": (0.7, 1.3)})

    :param env_id: Gymnasium id
    :param ranges: arguments of the env that are drawn uniformly, with their bounds; whole numbers where both bounds are
    :param kwargs: further arguments of the env
    :raises ValueError: if a lower bound is above its upper bound
    """

    def __init__(self, env_id: str, ranges: Ranges, **kwargs: Any):
        for name, (low, high) in ranges.items():
            if low > high:
                raise ValueError(f"The range of {name} must go from low to high, got {low} to {high}.")
        self._make, self.ranges = partial(make_env, env_id, **kwargs), dict(ranges)
        self.env = self._make()
        self.observation_space, self.action_space = self.env.observation_space, self.env.action_space

    def reset(self, *, seed: int | None = None, options: dict | None = None) -> tuple:
        """Draw dynamics, and start an episode with them."""
        super().reset(seed=seed)
        self.env.close()
        drawn: dict[str, float] = {}
        for name, (low, high) in self.ranges.items():
            if isinstance(low, int) and isinstance(high, int):
                drawn[name] = int(self.np_random.integers(low, high + 1))
            else:
                drawn[name] = float(self.np_random.uniform(low, high))
        self.env = self._make(**drawn)
        return self.env.reset(seed=int(self.np_random.integers(2**31)), options=options)

    def step(self, action: Any) -> tuple:
        """Step the env."""
        return self.env.step(action)

    def close(self) -> None:
        """Close the env."""
        self.env.close()


def make_robot(env_id: str, history: int = 0, real_time_hz: float = 0, ranges: Ranges | None = None, **kwargs: Any) -> gym.Env:
    """
    A simulated robot.

    :param env_id: Gymnasium id
    :param history: number of last actions that observations carry
    :param real_time_hz: steps per second at which it runs in a process of its own; 0 to be stepped by the caller
    :param ranges: arguments of the env that are drawn for each episode
    :param kwargs: further arguments of the env
    :return: the robot
    """
    make = partial(RandomizedEnv, env_id, ranges, **kwargs) if ranges else partial(make_env, env_id, **kwargs)
    env: gym.Env = RobotProcess(make, real_time_hz) if real_time_hz else make()
    return ActionHistory(env, history) if history else env


def pretrain(
    env_id: str,
    total_timesteps: int,
    output: str | Path,
    algorithm: str = "SAC",
    history: int = 0,
    ranges: Ranges | None = None,
    env_kwargs: Mapping[str, Any] | None = None,
    seed: int | None = None,
    callback: MaybeCallback = None,
    progress_bar: bool = False,
    **kwargs: Any,
) -> OffPolicyAlgorithm:
    """
    Train an agent in simulation, and save it; Ctrl-C ends training early.

    :param env_id: Gymnasium id of the simulated robot
    :param total_timesteps: env steps
    :param output: file to save the agent to
    :param algorithm: "AsymSAC", "SAC", "TD3" or "DDPG"
    :param history: number of last actions that observations carry
    :param ranges: arguments of the env that are drawn for each episode (domain randomization)
    :param env_kwargs: further arguments of the env
    :param seed: seed
    :param callback: callbacks
    :param progress_bar: whether to show a progress bar
    :param kwargs: arguments of the algorithm
    :return: the agent
    :raises ValueError: if there is no such algorithm
    """
    if algorithm not in MODELS:
        raise ValueError(f"algorithm must be one of {', '.join(MODELS)}, got {algorithm!r}.")
    robot = partial(make_robot, env_id, history, ranges=ranges, **(env_kwargs or {}))
    model = MODELS[algorithm]("MlpPolicy", make_vec_env(robot, seed=seed), seed=seed, **kwargs)
    with suppress(KeyboardInterrupt):  # keeps what was learned
        model.learn(total_timesteps, callback, progress_bar=progress_bar)
    model.save(output)
    return model
