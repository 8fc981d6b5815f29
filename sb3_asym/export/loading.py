"""Loads a saved model without being told which algorithm trained it."""

from importlib import import_module
from pathlib import Path
from typing import Any
from zipfile import BadZipFile

from stable_baselines3.common.base_class import BaseAlgorithm
from stable_baselines3.common.off_policy_algorithm import OffPolicyAlgorithm
from stable_baselines3.common.save_util import load_from_zip_file

from sb3_asym.checks import check_file

ALGORITHMS = {
    "sb3_asym.": ("sb3_asym", "AsymSAC"),
    "stable_baselines3.sac": ("stable_baselines3", "SAC"),
    "stable_baselines3.td3": ("stable_baselines3", "TD3"),  # DDPG's policy is TD3's
    "stable_baselines3.dqn": ("stable_baselines3", "DQN"),
    "sb3_contrib.tqc": ("sb3_contrib", "TQC"),
}


def load_model(path: str | Path) -> BaseAlgorithm:
    """
    :param path: what ``save`` wrote, of an AsymSAC, SAC, TD3, DDPG, TQC, DQN, PPO or A2C model
    :return: the model, on the CPU
    :raises ValueError: if the file is not such a model, or is damaged
    :raises FileNotFoundError: if there is no such file
    """
    check_file(path)
    try:
        data, _, _ = load_from_zip_file(path, device="cpu")
        module = data["policy_class"].__module__  # type: ignore[index]
    except (AttributeError, BadZipFile, KeyError, RuntimeError, TypeError, ValueError) as error:
        raise ValueError(f"{path} is not a model that SB3 or sb3-asym saved, or it is damaged ({error}).") from error
    on_policy = ("stable_baselines3", "PPO" if "clip_range" in data else "A2C")  # type: ignore[operator]
    known = {**ALGORITHMS, "stable_baselines3.common.policies": on_policy}
    for start, (package, name) in known.items():
        if module.startswith(start):
            algorithm = getattr(import_module(package), name)
            # HER's replay buffer would ask for the env; none is needed here.
            memory: dict[str, Any] = {"replay_buffer_class": None, "replay_buffer_kwargs": {}, "buffer_size": 1}
            return algorithm.load(path, device="cpu", **(memory if issubclass(algorithm, OffPolicyAlgorithm) else {}))
    raise ValueError(f"{path} has a policy of {module}, which has no deployable form here.")
