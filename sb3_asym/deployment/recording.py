"""Recorded rollouts, for self-tests, for the calibration of int8, and for reports."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import gymnasium as gym
import numpy as np
from stable_baselines3.common.base_class import BaseAlgorithm

from sb3_asym.deployment.agent import DeployableAgent
from sb3_asym.deployment.runners import Runner


@dataclass(frozen=True)
class Recording:
    """
    Steps of a runner in an env.

    :param observations: flat observations, not normalized, ``(n_steps, obs_dim)`` float32
    :param episode_starts: ``(n_steps,)`` True where an episode starts
    :param options: options in force, ``(n_steps,)``
    :param actions: actions of the env, ``(n_steps, action_dim)`` float32
    :param returns: returns of the finished episodes, ``(n_episodes,)``
    """

    observations: np.ndarray
    episode_starts: np.ndarray
    options: np.ndarray
    actions: np.ndarray
    returns: np.ndarray

    def choices(self, option_length: int) -> np.ndarray:
        """
        The steps at which the master chose an option.

        :param option_length: env steps for which an option is held
        :return: ``(n_choices,)`` indices of the steps
        """
        steps = np.arange(len(self.options))
        age = steps - np.maximum.accumulate(np.where(self.episode_starts, steps, 0))
        return np.flatnonzero(age % option_length == 0)

    def head(self, n_steps: int) -> "Recording":
        """
        The first steps of the recording.

        :param n_steps: number of steps
        :return: recording of those steps
        """
        return Recording(*(values[:n_steps] for values in vars(self).values()))

    def first_episode(self) -> "Recording":
        """
        The first episode of the recording.

        :return: recording of its steps
        """
        starts = np.flatnonzero(self.episode_starts)
        return self.head(int(starts[1]) if len(starts) > 1 else len(self.options))


def record(
    runner: Runner,
    agent: DeployableAgent,
    env: gym.Env,
    n_episodes: int | None = None,
    n_steps: int | None = None,
    seed: int = 0,
    on_episode: Callable[[], Any] | None = None,
) -> Recording:
    """
    Run an agent in an env for a number of episodes or of steps, whichever ends first.

    :param runner: runner of the agent
    :param agent: the agent, with the order of its flat observations
    :param env: env (not vectorized); episode ``i`` is seeded with ``seed + i``
    :param n_episodes: number of episodes, or None
    :param n_steps: number of env steps, which may end within an episode, or None
    :param seed: seed of the env
    :param on_episode: function to call after each episode
    :return: recorded steps
    """
    observations: list[np.ndarray] = []
    starts: list[bool] = []
    options: list[int] = []
    actions: list[np.ndarray] = []
    returns: list[float] = []
    while (n_episodes is None or len(returns) < n_episodes) and (n_steps is None or len(options) < n_steps):
        observation, _ = env.reset(seed=seed + len(returns))
        runner.reset()
        done, total = False, 0.0
        starts.append(True)
        while not done and (n_steps is None or len(options) < n_steps):
            option, action = runner.step(observation)
            observations.append(agent.flatten(observation))
            options.append(option)
            actions.append(action)
            observation, reward, terminated, truncated, _ = env.step(env_action(env.action_space, action))
            total += float(reward)
            done = terminated or truncated
            starts.append(done)
        starts.pop()
        if done:
            returns.append(total)
            if on_episode is not None:
                on_episode()
    return Recording(np.array(observations), np.array(starts), np.array(options), np.array(actions), np.array(returns))


def replay(runner: Runner, agent: DeployableAgent, recording: Recording) -> tuple[np.ndarray, np.ndarray]:
    """
    Run an agent on recorded observations.

    :param runner: runner of the agent
    :param agent: the agent, with the order of its flat observations
    :param recording: steps with the observations to run on
    :return: options ``(n_steps,)``, and actions ``(n_steps, action_dim)``
    """
    options, actions = [], []
    for observation, start in zip(recording.observations, recording.episode_starts, strict=True):
        if start:
            runner.reset()
        option, action = runner.step(agent.unflatten(observation))
        options.append(option)
        actions.append(action)
    return np.array(options), np.array(actions)


def errors(agent: DeployableAgent, recording: Recording) -> dict[str, Any]:
    """
    Differences between recorded steps and what an agent does at the same observations, with the same options in force.

    :param agent: the agent, such as that in fp32
    :param recording: steps of the other, such as that in int8
    :return: ``choice_agreement``, share of the master's choices that agree, or None without a master; ``mean_action_error``
        and ``max_action_error``, distance of the actions, relative to the range of the action where it is bounded
    """
    asked = recording.choices(agent.option_length)
    agreement = (agent.choices(recording.observations[asked]) == recording.options[asked]).mean()
    distance = np.abs(agent.actions(recording.observations, recording.options) - recording.actions)
    with np.errstate(over="ignore", invalid="ignore"):
        span = agent.high - agent.low
    distance = distance / np.where(np.isfinite(span) & (span > 0), span, 1)
    return {
        "choice_agreement": None if agent.master is None else float(agreement),
        "mean_action_error": float(distance.mean()),
        "max_action_error": float(distance.max()),
    }


def env_action(space: gym.Space, action: np.ndarray) -> np.ndarray | int:
    """
    Convert a flat action to the form that the env takes.

    :param space: action space of the env
    :param action: ``(action_dim,)`` flat action
    :return: action in the space
    """
    if isinstance(space, gym.spaces.Discrete):
        return int(action[0])
    return action.reshape(space.shape).astype(space.dtype)


class SampledObservations(gym.Env):
    """
    Env whose observations are drawn from their space, for models without an env.

    :param model: model with the observation and action space
    """

    def __init__(self, model: BaseAlgorithm):
        self.observation_space, self.action_space = _samplable(model.observation_space), model.action_space

    def reset(self, *, seed: int | None = None, options: dict | None = None) -> tuple:
        """Seed the observation space and draw a first observation."""
        self.observation_space.seed(seed)
        return self.observation_space.sample(), {}

    def step(self, action: object) -> tuple:
        """Draw another observation; the reward is 0 and the episode does not end."""
        return self.observation_space.sample(), 0.0, False, False, {}


def _samplable(space: gym.Space) -> gym.Space:
    """The space with infinite bounds instead of huge ones, such as the greatest float, up to which samples would reach."""
    if isinstance(space, gym.spaces.Dict):
        return gym.spaces.Dict([(key, _samplable(part)) for key, part in space.spaces.items()])  # of a dict it sorts the keys
    if not isinstance(space, gym.spaces.Box) or space.dtype.kind != "f":
        return space
    low, high = np.where(space.low < -1e6, -np.inf, space.low), np.where(space.high > 1e6, np.inf, space.high)
    return gym.spaces.Box(low.astype(space.dtype), high.astype(space.dtype), dtype=space.dtype)
