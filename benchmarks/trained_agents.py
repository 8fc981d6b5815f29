"""Agents that others trained, as files ``<algo>_<env>.zip``."""

from pathlib import Path

from stable_baselines3.common.base_class import BaseAlgorithm
from stable_baselines3.common.vec_env import VecNormalize

from sb3_asym.deployment import load_model, load_statistics
from sb3_asym.envs import find_vec_normalize


def load_agent(path: Path) -> tuple[BaseAlgorithm, VecNormalize | None, str]:
    """The model, the statistics of its observations if it has any, and the id of its env."""
    model = load_model(path)
    statistics = find_vec_normalize(path)
    return model, None if statistics is None else load_statistics(model, statistics), path.stem.partition("_")[2]
