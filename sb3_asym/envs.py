"""Envs by their ids, and the vectorized wrappers around them."""

import io
import pickle
from collections.abc import Iterable
from contextlib import redirect_stderr
from importlib import import_module
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import gymnasium as gym
import numpy as np
from stable_baselines3.common.env_util import make_vec_env
from stable_baselines3.common.preprocessing import is_image_space
from stable_baselines3.common.utils import check_for_correct_spaces
from stable_baselines3.common.vec_env import (
    VecCheckNan,
    VecEnv,
    VecEnvWrapper,
    VecFrameStack,
    VecMonitor,
    VecNormalize,
    VecTransposeImage,
)

ENV_PACKAGES = ("custom_envs", "sb3_asym.robots", "gymnasium_robotics", "shimmy")
"""Modules that register envs when they are imported: a user's own, as the RL Zoo has it, our robots, and packages for some of
whose envs we bring hyperparameters."""


def find_envs(env_ids: Iterable[str]) -> None:
    """
    Register envs that are not registered yet, by the modules that may know them (``ENV_PACKAGES``).

    :param env_ids: Gymnasium ids; one in the form ``module:Env-v0`` is registered by its module
    :raises ValueError: if there is no such module
    """
    for env_id in env_ids:
        module, colon, _ = env_id.rpartition(":")
        if colon and find_spec(module) is None:
            raise ValueError(f"There is no module {module!r} that registers the env {env_id}.")
        if not colon and env_id not in gym.registry:
            for package in filter(find_spec, ENV_PACKAGES):
                with redirect_stderr(io.StringIO()):  # gymnasium_robotics warns of some of its envs
                    import_module(package)


def env_file_name(env_id: str) -> str:
    """
    A name for files and folders of an env.

    :param env_id: Gymnasium id, which may have a namespace or a module in front
    :return: the id without characters that file systems refuse
    """
    return env_id.replace("/", "-").replace(":", "-")


def make_env(env_id: str, **kwargs: Any) -> gym.Env:
    """
    An env by its id.

    :param env_id: Gymnasium id
    :param kwargs: arguments of the env
    :return: the env
    :raises gymnasium.error.Error: if there is no such env
    """
    find_envs([env_id])
    return gym.make(env_id, **kwargs)


def make_single_vec_env(env_id: str, **kwargs: Any) -> VecEnv:
    """
    A vectorized env with a single env, in a Monitor.

    :param env_id: Gymnasium id
    :param kwargs: arguments of the env
    :return: the env
    :raises gymnasium.error.Error: if there is no such env
    """
    find_envs([env_id])
    return make_vec_env(env_id, env_kwargs=kwargs)


def check_spaces(env: gym.Env | VecEnv, observation_space: gym.Space, action_space: gym.Space) -> None:
    """
    Refuse an env whose spaces differ from an agent's.

    :param env: the env
    :param observation_space: observation space of the agent
    :param action_space: action space of the agent
    :raises ValueError: if a space differs
    """
    try:
        check_for_correct_spaces(env, observation_space, action_space)
    except ValueError as error:
        n_frames = _stacked_frames(observation_space, env.observation_space)
        if n_frames is None:
            raise
        raise ValueError(
            f"The agent learned on {n_frames} stacked frames: give an env that stacks them (VecFrameStack with {n_frames})."
        ) from error


def _stacked_frames(stacked: gym.Space, single: gym.Space) -> int | None:
    """Number of frames of one Box that make up the other, if it is made up of several."""
    if not isinstance(stacked, gym.spaces.Box) or not isinstance(single, gym.spaces.Box):
        return None
    if len(stacked.shape) != len(single.shape) or not stacked.shape:
        return None
    axis = 0 if is_image_space(single) else -1  # SB3's models see images with their channels first
    n_frames, rest = divmod(stacked.shape[axis], single.shape[axis])
    others = [np.delete(space.shape, axis).tolist() for space in (stacked, single)]
    return n_frames if n_frames > 1 and rest == 0 and others[0] == others[1] else None


def same_envs(first: VecEnv, second: VecEnv) -> bool:
    """
    Whether a step of one vectorized env is a step of the other.

    :param first: a vectorized env
    :param second: a vectorized env
    :return: True if they wrap the same env
    """
    bases = [_base(first), _base(second)]
    envs = [{id(env.unwrapped) for env in getattr(base, "envs", [])} for base in bases]
    return bases[0] is bases[1] or bool(envs[0] & envs[1])


def rewrap(template: VecEnv, env: VecEnv) -> VecEnv:
    """
    The wrappers of one vectorized env, made anew around another.

    :param template: env with the wrappers
    :param env: env without any
    :return: the wrapped env; a ``VecNormalize`` has the same statistics, frozen, and leaves rewards as they are
    :raises ValueError: if a wrapper is of a kind that cannot be made anew
    """
    wrappers = []
    while isinstance(template, VecEnvWrapper):
        wrappers.append(template)
        template = template.venv
    for wrapper in reversed(wrappers):
        if isinstance(wrapper, VecNormalize):
            env = frozen_copy(wrapper, env)
        elif isinstance(wrapper, VecFrameStack):
            env = VecFrameStack(env, wrapper.stacked_obs.n_stack, _channels_order(wrapper.stacked_obs))
        elif type(wrapper) in (VecTransposeImage, VecMonitor, VecCheckNan):
            env = type(wrapper)(env)
        else:
            raise ValueError(f"The training env's {type(wrapper).__name__} cannot be made anew: pass an env.")
    return env


def frozen_copy(normalization: VecNormalize, env: VecEnv) -> VecNormalize:
    """
    A ``VecNormalize`` for deployment and evaluation.

    :param normalization: wrapper with the statistics
    :param env: env to wrap
    :return: wrapper with the same statistics, which do not change any more, and rewards as they are
    """
    copy = pickle.loads(pickle.dumps(normalization))
    copy.set_venv(env)
    copy.training = copy.norm_reward = False
    return copy


def load_vec_normalize(path: str | Path, env: VecEnv) -> VecNormalize:
    """
    A ``VecNormalize`` for deployment and evaluation, from a file.

    :param path: file that ``VecNormalize.save`` wrote
    :param env: env to wrap
    :return: wrapper whose statistics do not change, and rewards as they are
    :raises ValueError: if the file holds no statistics for such an env
    :raises FileNotFoundError: if there is no such file
    """
    if not Path(path).is_file():
        raise FileNotFoundError(f"There is no file {path} with statistics of VecNormalize.")
    try:
        normalization = VecNormalize.load(str(path), env)
        normalization.training = normalization.norm_reward = False
        normalization.normalize_obs(env.reset())  # type: ignore[arg-type]
    except Exception as error:  # pickle, and whatever a file of another kind holds
        raise ValueError(
            f"{path} holds no statistics that VecNormalize.save wrote for such an env ({error or type(error).__name__})."
        ) from error
    return normalization


def find_vec_normalize(model_path: str | Path) -> Path | None:
    """
    The statistics that were saved with a model: as ``<model>.vecnormalize.pkl`` or ``vecnormalize.pkl`` beside it, by
    SB3's ``CheckpointCallback``, or in the RL Zoo's layout, in a folder beside it.

    :param model_path: path to the model
    :return: path to the statistics, or None
    """
    model = Path(model_path)
    stem = model.name.removesuffix(".zip")
    prefix, _, steps = stem.removesuffix("_steps").rpartition("_")
    names = [f"{stem}.vecnormalize.pkl", "vecnormalize.pkl", f"{stem}/vecnormalize.pkl"]
    if stem.endswith("_steps"):
        names.insert(0, f"{prefix}_vecnormalize_{steps}_steps.pkl")
    for name in names:
        if (model.parent / name).is_file():
            return model.parent / name
    below = sorted(model.parent.glob("*/vecnormalize.pkl")) if stem == "best_model" or stem.startswith("rl_model") else []
    return below[0] if len(below) == 1 else None


def _base(env: VecEnv) -> VecEnv:
    while isinstance(env, VecEnvWrapper):
        env = env.venv
    return env


def _channels_order(stack: Any) -> Any:
    """The order that a frame stack was given, or has found."""
    if isinstance(stack.observation_space, gym.spaces.Dict):
        return {key: _channels_order(part) for key, part in stack.sub_stacked_observations.items()}
    return "first" if stack.channels_first else "last"
