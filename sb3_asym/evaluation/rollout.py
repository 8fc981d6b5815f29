"""Steps of an agent in an env, with the option that was in force at each."""

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
    """One step of all envs, with rewards as the env gave them. Arrays have one row per env."""

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
    Endless steps of an agent that holds its options.

    :param model: the agent
    :param env: env to step, which is seeded and reset first
    :param seed: seed of the env
    :param choose: function that picks the options, the master by default
    :param deterministic: whether the sub-policies act deterministically
    :return: iterator over the steps
    """
    with _frozen(env) as normalization:
        env.seed(seed)
        observations: Any = env.reset()
        state, episode_start = None, np.ones(env.num_envs, dtype=bool)
        while True:
            action, state = model.policy.predict(observations, state, episode_start, deterministic, choose)
            options, steps_left = state  # type: ignore[misc]
            new_observations, rewards, dones, infos = env.step(action)
            if normalization is not None:
                rewards = normalization.get_original_reward()
            yield Step(observations, options, steps_left == model.option_length - 1, rewards, dones, infos)
            observations, episode_start = new_observations, dones


@contextmanager
def _frozen(env: VecEnv) -> Iterator[VecNormalize | None]:
    """The env's normalization, whose statistics do not change meanwhile."""
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
    One episode, step by step, of an agent that switches.

    :param option_names: cheapest first
    :param options: ``(n_steps,)`` option in force
    :param rewards: ``(n_steps,)``
    :param observations: ``(n_steps, obs_dim)``, flattened where they are images or dicts
    :param frames: pictures of the env by step, where it can render
    """

    option_names: tuple[str, ...]
    options: np.ndarray
    rewards: np.ndarray
    observations: np.ndarray
    frames: dict[int, np.ndarray]


def record_episode(model: AsymSAC, env: GymEnv | str | None = None, seed: int = 0, n_frames: int = 10) -> EpisodeRecord:
    """
    One episode, step by step.

    :param model: the agent
    :param env: env or its id, by default as for :func:`evaluate`; the first of its envs is recorded, and pictures are
        taken if its ``render_mode`` is "rgb_array"
    :param seed: of the env
    :param n_frames: about how many pictures to keep, evenly spaced; with 0, the env is not rendered
    :return: the episode
    """
    vec_env = prepare_env(model, env)
    options, rewards, observations = [], [], []
    frames: dict[int, np.ndarray] = {}
    stride = 1
    for index, step in enumerate(rollout(model, vec_env, seed)):
        first = (
            {k: v[0] for k, v in step.observations.items()} if isinstance(step.observations, dict) else step.observations[0]
        )
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
