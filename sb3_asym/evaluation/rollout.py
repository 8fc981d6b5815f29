"""Rollouts of an agent in an env, with the option in force at each step."""

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any, NamedTuple

import gymnasium as gym
import numpy as np
from stable_baselines3.common.type_aliases import GymEnv
from stable_baselines3.common.vec_env import VecEnv, VecNormalize, unwrap_vec_normalize

from sb3_asym.asym_sac import AsymSAC
from sb3_asym.evaluation.env import prepare_env
from sb3_asym.policies import Chooser


class Step(NamedTuple):
    """
    One step of all envs.

    :param observations: observations before the step, ``(n_envs, …)``
    :param options: options in force, ``(n_envs,)``
    :param started: ``(n_envs,)`` True where this is the option's first step
    :param rewards: rewards of the step, not normalized, ``(n_envs,)``
    :param dones: ``(n_envs,)`` True where the episode ends with this step
    :param infos: info of each env
    """

    observations: np.ndarray | dict[str, np.ndarray]
    options: np.ndarray
    started: np.ndarray
    rewards: np.ndarray
    dones: np.ndarray
    infos: list[dict[str, Any]]


def rollout(
    model: AsymSAC, env: VecEnv, seed: int, choose: Chooser | None = None, deterministic: bool = True
) -> Iterator[Step]:
    """
    Run an agent in an env without an end.

    :param model: an AsymSAC agent
    :param env: env to seed, reset and step
    :param seed: seed of the env
    :param choose: function that chooses the options; by default the master
    :param deterministic: True for mean actions of the sub-policies, False for samples
    :return: endless iterator over the steps
    """
    with _frozen(env) as normalization:
        env.seed(seed)
        observations: Any = env.reset()
        state, episode_start = None, np.ones(env.num_envs, dtype=bool)
        while True:
            action, state = model.policy.predict(observations, state, episode_start, deterministic, choose)
            options, steps_left = state[:2]  # type: ignore[index]
            new_observations, rewards, dones, infos = env.step(action)
            if normalization is not None:
                rewards = normalization.get_original_reward()
            yield Step(observations, options, steps_left == model.option_length - 1, rewards, dones, infos)
            observations, episode_start = new_observations, dones


@contextmanager
def _frozen(env: VecEnv) -> Iterator[VecNormalize | None]:
    """Freeze the statistics of the env's normalization, and restore its training mode at the end."""
    normalization = unwrap_vec_normalize(env)
    training = normalization is not None and normalization.training
    if normalization is not None:
        normalization.training = False
    try:
        yield normalization
    finally:
        if normalization is not None:
            normalization.training = training


@dataclass(frozen=True)
class EpisodeRecord:
    """
    Steps of one episode of an AsymSAC agent.

    :param option_names: names of the sub-policies, cheapest first
    :param options: options in force, ``(n_steps,)``
    :param rewards: rewards, ``(n_steps,)``
    :param observations: flat observations, ``(n_steps, obs_dim)``
    :param frames: pictures of the env by step; none where the env does not render
    """

    option_names: tuple[str, ...]
    options: np.ndarray
    rewards: np.ndarray
    observations: np.ndarray
    frames: dict[int, np.ndarray]


def record_episode(model: AsymSAC, env: GymEnv | str | None = None, seed: int = 0, n_frames: int = 10) -> EpisodeRecord:
    """
    Record one episode of an agent.

    :param model: an AsymSAC agent
    :param env: env or its id, by default a new env like the training env; the first of several envs is recorded, with
        pictures if its ``render_mode`` is "rgb_array"
    :param seed: seed of the env
    :param n_frames: approximate number of evenly spaced pictures to keep; 0 for no rendering
    :return: steps of the episode
    """
    vec_env = prepare_env(model, env)
    options, rewards, observations = [], [], []
    frames: dict[int, np.ndarray] = {}
    stride = 1
    for index, step in enumerate(rollout(model, vec_env, seed)):
        if isinstance(step.observations, dict):
            first: Any = {key: values[0] for key, values in step.observations.items()}
        else:
            first = step.observations[0]
        options.append(int(step.options[0]))
        rewards.append(float(step.rewards[0]))
        observations.append(gym.spaces.flatten(model.observation_space, first))
        if step.dones[0]:
            break
        if n_frames > 0 and vec_env.render_mode == "rgb_array" and (index + 1) % stride == 0:
            frame = vec_env.render()
            if frame is not None:
                frames[index + 1] = frame
        if len(frames) > 2 * n_frames:
            stride *= 2
            frames = {i: frame for i, frame in frames.items() if i % stride == 0}
    if env is None or isinstance(env, str):
        vec_env.close()
    return EpisodeRecord(model.option_names, np.array(options), np.array(rewards), np.array(observations), frames)
