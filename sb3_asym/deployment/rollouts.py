"""Rollouts of many agents side by side, in several envs of one kind."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any

import gymnasium as gym
import numpy as np

from sb3_asym.deployment.agent import DeployableAgent
from sb3_asym.deployment.recording import env_action
from sb3_asym.options import OptionState, advance_options

Chooser = Callable[[np.ndarray], np.ndarray]
"""Function from observations ``(batch, obs_dim)`` to options ``(batch,)``."""


@dataclass(frozen=True)
class Episodes:
    """
    What an agent did in a number of episodes.

    :param returns: ``(n_episodes,)``
    :param option_steps: ``(n_options,)`` env steps in which each sub-policy acted
    :param n_choices: number of the master's choices
    """

    returns: np.ndarray
    option_steps: np.ndarray
    n_choices: int


class EnvPool:
    """
    Envs of one kind, with flat observations.

    :param make_env: function that makes one env
    :param n_envs: number of envs
    :param agent: any agent for these envs, which knows how observations are flattened
    """

    def __init__(self, make_env: Callable[[], gym.Env], n_envs: int, agent: DeployableAgent):
        self.envs = [make_env() for _ in range(n_envs)]
        self.agent = agent
        self.observations = np.zeros((n_envs, agent.obs_dim), dtype=np.float32)

    def reset(self, index: int, seed: int | None = None) -> None:
        """
        Start an episode.

        :param index: index of the env
        :param seed: seed of the episode
        """
        observation, _ = self.envs[index].reset(seed=seed)
        self.observations[index] = self.agent.flatten(observation)

    def step(self, index: int, action: np.ndarray) -> tuple[float, bool]:
        """
        One env step.

        :param index: index of the env
        :param action: ``(action_dim,)`` in the env's units
        :return: reward, and whether the episode ended
        """
        env = self.envs[index]
        observation, reward, terminated, truncated, _ = env.step(env_action(env.action_space, action))
        self.observations[index] = self.agent.flatten(observation)
        return float(reward), terminated or truncated

    def close(self) -> None:
        """Close the envs."""
        for env in self.envs:
            env.close()


def run_episodes(
    pool: EnvPool,
    agents: Sequence[DeployableAgent],
    n_episodes: int,
    seed: int,
    choosers: Sequence[Chooser | None] | None = None,
    on_episode: Callable[[], Any] = lambda: None,
) -> list[Episodes]:
    """
    Episodes of several agents, with the same seeds for each.

    :param pool: envs
    :param agents: the agents
    :param n_episodes: episodes of each agent
    :param seed: seed of the first episode; the others follow
    :param choosers: function that picks the options of each agent, or None for its master
    :param on_episode: called after each episode
    :return: the episodes of each agent
    """
    jobs = [(agent, episode) for agent in range(len(agents)) for episode in range(n_episodes)]
    returns = np.zeros((len(agents), n_episodes))
    steps = [np.zeros(len(agent.sub_policies), dtype=np.int64) for agent in agents]
    n_choices = np.zeros(len(agents), dtype=np.int64)
    picks = [chooser or agent.choices for agent, chooser in zip(agents, choosers or [None] * len(agents), strict=True)]
    n_envs = len(pool.envs)
    current: list[tuple[int, int] | None] = [None] * n_envs
    options, steps_left = np.zeros(n_envs, dtype=np.int64), np.zeros(n_envs, dtype=np.int64)
    while jobs or any(job is not None for job in current):
        for env in range(n_envs):
            if current[env] is None and jobs:
                current[env] = jobs.pop(0)
                pool.reset(env, seed + current[env][1])  # type: ignore[index]
                steps_left[env] = 0
        for index in {job[0] for job in current if job is not None}:
            rows = np.array([env for env, job in enumerate(current) if job is not None and job[0] == index])
            agent, observations = agents[index], pool.observations[rows]
            n_choices[index] += np.count_nonzero(steps_left[rows] == 0)
            pick = partial(_pick_where_due, picks[index], observations)
            state = OptionState(options[rows], steps_left[rows])
            clock = advance_options(state, None, len(rows), agent.option_length, pick)
            options[rows], steps_left[rows] = clock
            steps[index] += np.bincount(clock.option, minlength=len(steps[index]))
            for env, action in zip(rows, agent.actions(observations, clock.option), strict=True):
                job = current[env]
                assert job is not None
                reward, done = pool.step(env, action)
                returns[job] += reward
                if done:
                    current[env] = None
                    on_episode()
    return [Episodes(returns[i], steps[i], int(n_choices[i])) for i in range(len(agents))]


def _pick_where_due(pick: Chooser, observations: np.ndarray, due: np.ndarray) -> np.ndarray:
    return pick(observations[due])
