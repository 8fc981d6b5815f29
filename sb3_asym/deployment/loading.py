"""Loading of saved models of any supported algorithm, found from the file."""

import json
from importlib import import_module
from importlib.util import find_spec
from pathlib import Path
from typing import Any
from zipfile import BadZipFile, ZipFile

from stable_baselines3.common.base_class import BaseAlgorithm
from stable_baselines3.common.off_policy_algorithm import OffPolicyAlgorithm
from stable_baselines3.common.vec_env import DummyVecEnv, VecNormalize

from sb3_asym.checks import check_file, read_model_data, saved_policy_class
from sb3_asym.deployment.recording import SampledObservations
from sb3_asym.envs import load_vec_normalize

ALGORITHMS = {
    "sb3_asym.": ("sb3_asym.asym_sac", "AsymSAC"),
    "stable_baselines3.sac": ("stable_baselines3", "SAC"),
    "stable_baselines3.td3": ("stable_baselines3", "TD3"),
    "stable_baselines3.dqn": ("stable_baselines3", "DQN"),
    "stable_baselines3.common.policies": ("stable_baselines3", "A2C"),
    "sb3_contrib.tqc": ("sb3_contrib", "TQC"),
    "sb3_contrib.qrdqn": ("sb3_contrib", "QRDQN"),
}


def load_model(path: str | Path) -> BaseAlgorithm:
    """
    Load a saved model of any supported algorithm, without replay buffer and env.

    :param path: path to a saved AsymSAC, SAC, TD3, DDPG, TQC, DQN, QRDQN, PPO or A2C model
    :return: the model, on the CPU
    :raises ValueError: if the file is not such a model, is damaged, or was made with OpenAI Gym, which is not installed
    :raises FileNotFoundError: if there is no such file
    """
    check_file(path)
    _check_that_gymnasium_made(Path(path))
    data = read_model_data(path)
    module = getattr(saved_policy_class(data), "__module__", "unknown")
    for start, (package, name) in ALGORITHMS.items():
        if module.startswith(start):
            algorithm = getattr(import_module(package), _sibling(name, data))
            # HER's replay buffer needs the env, which is not at hand; predictions need neither.
            memory: dict[str, Any] = {"replay_buffer_class": None, "replay_buffer_kwargs": {}, "buffer_size": 1}
            return algorithm.load(path, device="cpu", **(memory if issubclass(algorithm, OffPolicyAlgorithm) else {}))
    raise ValueError(f"{path} has a policy of {module}, which has no deployable form here.")


def load_statistics(model: BaseAlgorithm, path: str | Path) -> VecNormalize:
    """
    Statistics of normalized observations, without the env.

    :param model: model that learned on them
    :param path: file that ``VecNormalize.save`` wrote
    :return: the statistics, which do not change any more
    :raises ValueError: if the file holds no statistics for the model's observations
    :raises FileNotFoundError: if there is no such file
    """
    return load_vec_normalize(path, DummyVecEnv([lambda: SampledObservations(model)]))


def _sibling(name: str, data: dict[str, Any]) -> str:
    """Name of the algorithm, by its attributes, among those that share a policy class."""
    if name == "A2C" and "clip_range" in data:
        return "PPO"
    if name == "TD3" and (data.get("policy_delay"), data.get("target_noise_clip")) == (1, 0.0):
        return "DDPG"
    return name


def _check_that_gymnasium_made(path: Path) -> None:
    """Refuse spaces of OpenAI Gym, which SB3 cannot read where that is not installed."""
    if find_spec("gym") is not None:
        return
    try:
        with ZipFile(path if path.is_file() else f"{path}.zip") as archive:
            attributes = json.loads(archive.read("data"))
    except (BadZipFile, KeyError, ValueError):  # not a model, which the loader reports
        return
    kinds = [str(value.get(":type:")) for value in attributes.values() if isinstance(value, dict)]
    if any("'gym." in kind for kind in kinds):
        raise ValueError(
            f"{path} was saved with OpenAI Gym, which is not installed: load it once with custom_objects="
            "dict(observation_space=env.observation_space, action_space=env.action_space) for an env of gymnasium.make, "
            "save it again, and use that file."
        )
