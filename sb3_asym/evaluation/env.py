"""Envs to evaluate an agent on, apart from the one that it learns in."""

from dataclasses import replace
from typing import Any

import gymnasium as gym
import numpy as np
from stable_baselines3.common.env_util import make_vec_env
from stable_baselines3.common.preprocessing import is_image_space
from stable_baselines3.common.type_aliases import GymEnv
from stable_baselines3.common.utils import check_for_correct_spaces
from stable_baselines3.common.vec_env import VecEnv, VecFrameStack, unwrap_vec_normalize, unwrap_vec_wrapper

from sb3_asym.asym_sac import AsymSAC
from sb3_asym.envs import frozen_copy, make_single_vec_env, rewrap, same_envs


def prepare_env(model: AsymSAC, env: GymEnv | str | None) -> VecEnv:
    """
    The env to evaluate an agent on.

    :param model: the agent
    :param env: an env or its id, which is normalized as the agent's own env if it is not yet; by default an env like the
        agent's own, made anew
    :return: the env, vectorized
    :raises TypeError: if the model is not an AsymSAC agent
    :raises ValueError: if there is no env, its spaces differ from the agent's, or the agent is learning in it
    """
    if not isinstance(model, AsymSAC):
        raise TypeError(f"An AsymSAC agent is needed, got {type(model).__name__}: SB3's evaluate_policy measures others.")
    if env is None:
        return evaluation_env(model)
    vec_env = model._wrap_env(make_single_vec_env(env) if isinstance(env, str) else env, verbose=0)
    training_env, normalization = model.get_env(), model.get_vec_normalize_env()
    if training_env is not None and model._last_obs is not None and same_envs(training_env, vec_env):
        raise ValueError(
            "The agent is learning in this env, and evaluating there would change what it learns next: "
            "pass another env, or none to have one made like it."
        )
    if normalization is not None and unwrap_vec_normalize(vec_env) is None:
        assert training_env is not None
        if unwrap_vec_wrapper(training_env, VecFrameStack) is None:
            vec_env = frozen_copy(normalization, vec_env)
    _check_spaces(model, vec_env)
    return vec_env


def evaluation_env(model: AsymSAC, **env_kwargs: Any) -> VecEnv:
    """
    An env like the one that the model was trained on, made anew, so that training is not disturbed.

    :param model: the agent, with an env
    :param env_kwargs: overrides of the env's arguments, such as ``render_mode``
    :return: the env, in the same wrappers; normalized with the present statistics if the training env is
    :raises ValueError: if the model has no env, or it cannot be made anew
    """
    training_env = model.get_env()
    if training_env is None:
        raise ValueError("The model has no env: pass one to evaluate on.")
    spec = training_env.get_attr("spec")[0]
    if spec is None:
        raise ValueError("The training env is not registered with Gymnasium and cannot be made anew: pass an env.")
    # SB3's Monitor cannot be made from a spec; make_vec_env adds it again.
    wrappers = tuple(wrapper for wrapper in spec.additional_wrappers if wrapper.name != "Monitor")
    spec = replace(spec, additional_wrappers=wrappers)
    return rewrap(training_env, make_vec_env(lambda: gym.make(spec, **env_kwargs)))


def _check_spaces(model: AsymSAC, env: VecEnv) -> None:
    """As SB3's check, with a word on frames that were stacked in training."""
    try:
        check_for_correct_spaces(env, model.observation_space, model.action_space)
    except ValueError as error:
        n_frames = _stacked_frames(model.observation_space, env.observation_space)
        if n_frames is None:
            raise
        raise ValueError(
            f"The agent learned on {n_frames} stacked frames: wrap the env in VecFrameStack(env, n_stack={n_frames})."
        ) from error


def _stacked_frames(stacked: gym.Space, single: gym.Space) -> int | None:
    """Number of frames of one Box that make up the other, if it is made up of several."""
    if not isinstance(stacked, gym.spaces.Box) or not isinstance(single, gym.spaces.Box):
        return None
    if len(stacked.shape) != len(single.shape) or not stacked.shape:
        return None
    axis = 0 if is_image_space(single) else -1  # SB3's models see images with their channels first
    n_frames, rest = divmod(stacked.shape[axis], single.shape[axis])
    others = [tuple(np.delete(space.shape, axis)) for space in (stacked, single)]
    return n_frames if n_frames > 1 and rest == 0 and others[0] == others[1] else None
