"""Envs for the evaluation of an agent, apart from its training env."""

from dataclasses import replace
from typing import Any

import gymnasium as gym
from stable_baselines3.common.env_util import make_vec_env
from stable_baselines3.common.type_aliases import GymEnv
from stable_baselines3.common.vec_env import VecEnv, unwrap_vec_normalize

from sb3_asym.asym_sac import AsymSAC
from sb3_asym.envs import check_spaces, frozen_copy, make_single_vec_env, rewrap, same_envs


def prepare_env(model: AsymSAC, env: GymEnv | str | None) -> VecEnv:
    """
    Prepare the env for the evaluation of an agent.

    :param model: an AsymSAC agent
    :param env: env or its id, normalized as the training env unless it is already; by default a new env like the training env
    :return: vectorized env
    :raises TypeError: if the model is not an AsymSAC agent
    :raises ValueError: if there is no env, its spaces differ from the agent's, or the agent is learning in it
    """
    if not isinstance(model, AsymSAC):
        raise TypeError(f"An AsymSAC agent is needed, got {type(model).__name__}: SB3's evaluate_policy measures others.")
    if env is None:
        return evaluation_env(model)
    training_env, normalization = model.get_env(), model.get_vec_normalize_env()
    if isinstance(env, str):
        env = make_single_vec_env(env) if training_env is None else rewrap(training_env, make_single_vec_env(env))
    vec_env = model._wrap_env(env, verbose=0)
    if training_env is not None and model._last_obs is not None and same_envs(training_env, vec_env):
        raise ValueError(
            "The agent is learning in this env, and evaluating there would change what it learns next: "
            "pass another env, or none to have one made like it."
        )
    check_spaces(vec_env, model.observation_space, model.action_space)
    if normalization is not None and unwrap_vec_normalize(vec_env) is None:
        vec_env = frozen_copy(normalization, vec_env)
    return vec_env


def evaluation_env(model: AsymSAC, **env_kwargs: Any) -> VecEnv:
    """
    Make a new env like the training env, so that evaluation does not disturb training.

    :param model: an AsymSAC agent with an env
    :param env_kwargs: arguments of the env that differ, such as ``render_mode``
    :return: env in the same wrappers; normalized with the present statistics if the training env is
    :raises ValueError: if the agent has no env, or the env cannot be made anew
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
