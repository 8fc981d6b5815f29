"""Runners: a model's own ``predict`` and its deployable form behind one interface, step by step."""

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
    """One way to run an agent, which holds the option state of one episode."""

    def reset(self) -> None:
        """Start an episode."""

    def step(self, observation: Observation) -> tuple[int, np.ndarray]:
        """
        One control step.

        :param observation: a single observation, as the env gives it
        :return: option in force, and action ``(action_dim,)``
        """


class ModelRunner:
    """
    The model's own ``predict``, deterministic.

    :param model: an SB3 model
    :param vec_normalize: normalization of its observations
    :param option: option to hold for ever, of an AsymSAC model; by default its master chooses
    """

    def __init__(self, model: BaseAlgorithm, vec_normalize: VecNormalize | None = None, option: int | None = None):
        self.vec_normalize = vec_normalize
        if option is None:
            self._predict: Callable[..., Any] = model.predict
        else:
            policy: Any = model.policy
            self._predict = partial(policy.predict, choose=lambda _, n_obs: np.full(n_obs, option))
        self.reset()

    def reset(self) -> None:
        self.state: Any = None

    def step(self, observation: Observation) -> tuple[int, np.ndarray]:
        if self.vec_normalize is not None:
            observation = self.vec_normalize.normalize_obs(observation)
        action, self.state = self._predict(observation, self.state, deterministic=True)
        option = 0 if self.state is None else int(self.state[0][0])
        return option, np.ravel(action).astype(np.float32)


class ReferenceRunner:
    """
    The deployable form, in torch.

    :param agent: the agent, in any precision
    """

    def __init__(self, agent: DeployableAgent):
        self.agent = agent
        self.reset()

    def reset(self) -> None:
        self.option, self.steps_left = 0, 0

    def step(self, observation: Observation) -> tuple[int, np.ndarray]:
        flat = self.agent.flatten(observation)[None]
        if self.steps_left == 0:
            self.option, self.steps_left = int(self.agent.choices(flat)[0]), self.agent.option_length
        self.steps_left -= 1
        return self.option, self.agent.actions(flat, np.array([self.option]))[0]


def step_latencies(runner: Runner, agent: DeployableAgent, observations: np.ndarray) -> np.ndarray:
    """
    Time of each control step, called from Python.

    :param runner: the runner
    :param agent: the agent, which knows how observations are flattened
    :param observations: ``(n_steps, obs_dim)`` of an episode
    :return: nanoseconds of each step over several rounds; the first round, which warms up, is left out
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
