"""Runners: one interface to run an agent step by step, for a model's own ``predict`` and for its deployable form."""

import time
from collections.abc import Callable
from functools import partial
from typing import Any, Protocol

import numpy as np
from stable_baselines3.common.base_class import BaseAlgorithm
from stable_baselines3.common.vec_env import VecNormalize

from sb3_asym.deployment.agent import DeployableAgent

Observation = np.ndarray | dict[str, np.ndarray]


class Runner(Protocol):
    """Interface of a runner, which runs an agent step by step and holds its option state."""

    def reset(self) -> None:
        """Start an episode."""

    def step(self, observation: Observation) -> tuple[int, np.ndarray]:
        """
        Run the agent for one step.

        :param observation: a single observation, as the env returns it
        :return: option in force, and action ``(action_dim,)`` float32
        """


class ModelRunner:
    """
    Runner of the model's own, deterministic ``predict``. λ is not steered for a budget.

    :param model: an SB3 model
    :param vec_normalize: normalization of the observations, or None
    :param option: option of an AsymSAC model that is always in force; by default the master chooses
    """

    def __init__(self, model: BaseAlgorithm, vec_normalize: VecNormalize | None = None, option: int | None = None):
        self.vec_normalize = vec_normalize
        policy: Any = model.policy
        self._predict: Callable[..., Any] = model.predict
        if option is not None:
            self._predict = partial(policy.predict, choose=lambda _, envs: np.full(len(envs), option))
        elif getattr(policy, "budget", None) is not None:
            self._predict = partial(policy.predict, choose=policy.greedy_options)
        self.reset()

    def reset(self) -> None:
        """Start an episode."""
        self.state: Any = None

    def step(self, observation: Observation) -> tuple[int, np.ndarray]:
        """Option in force and action for an observation."""
        if self.vec_normalize is not None:
            observation = self.vec_normalize.normalize_obs(observation)
        action, self.state = self._predict(observation, self.state, deterministic=True)
        option = 0 if self.state is None else int(self.state[0][0])
        return option, np.ravel(action).astype(np.float32)


class ReferenceRunner:
    """
    Runner of the deployable form in torch, the reference for the exports.

    :param agent: agent in any precision
    """

    def __init__(self, agent: DeployableAgent):
        self.agent = agent
        self.reset()

    def reset(self) -> None:
        """Start an episode."""
        self.option, self.steps_left = 0, 0

    def step(self, observation: Observation) -> tuple[int, np.ndarray]:
        """Option in force and action for an observation."""
        flat = self.agent.flatten(observation)[None]
        if self.steps_left == 0:
            self.option, self.steps_left = int(self.agent.choices(flat)[0]), self.agent.option_length
        self.steps_left -= 1
        return self.option, self.agent.actions(flat, np.array([self.option]))[0]


def step_latencies(runner: Runner, agent: DeployableAgent, observations: np.ndarray) -> np.ndarray:
    """
    Time of each step of a runner, called from Python, without a first round that warms up.

    :param runner: runner of the agent
    :param agent: the agent, with the order of its flat observations
    :param observations: ``(n_steps, obs_dim)`` observations of an episode
    :return: ``(n_rounds * n_steps,)`` time of each step, ns
    """
    steps = [agent.unflatten(observation) for observation in observations]
    times = []
    for _ in range(4):
        runner.reset()
        for step in steps:
            start = time.perf_counter_ns()
            runner.step(step)
            times.append(time.perf_counter_ns() - start)
    return np.array(times[len(steps) :], dtype=np.float64)
