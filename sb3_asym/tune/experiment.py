"""A training as the RL Zoo sets it up, and its hyperparameters."""

import io
from argparse import Namespace
from collections import OrderedDict
from contextlib import redirect_stdout
from copy import deepcopy
from importlib import import_module
from pathlib import Path
from typing import Any

import rl_zoo3.exp_manager

from sb3_asym.envs import find_envs
from sb3_asym.zoo import ALGO, register
from sb3_asym.zoo.experiment import AsymExperimentManager

SIZES = {"small": (4, 8, 16, 32), "large": (64, 128, 256)}
"""Units per layer to choose from, where sizes are tuned."""


class TrialExperiment(AsymExperimentManager):
    """
    The Zoo's experiment for one training of a trial.

    :param env_id: Gymnasium id, which may have its module in front
    :param folder: folder of the trained agent
    :param config: hyperparameters, as the Zoo's ``-conf``
    :param hyperparams: hyperparameters that replace those, by name
    :param settings: further arguments of the Zoo's class
    """

    def __init__(self, env_id: str, folder: Path, config: str | None, hyperparams: dict[str, Any], **settings: Any):
        register()
        super().__init__(
            Namespace(env_kwargs={}),
            ALGO,
            registered_id(env_id),
            str(folder),
            eval_freq=-1,
            verbose=0,
            config=config,
            hyperparams=hyperparams,
            **settings,
        )

    def read_hyperparameters(self) -> tuple[dict[str, Any], dict[str, Any]]:
        """
        The hyperparameters as the Zoo reads them, in a copy: the Zoo changes them, and those of a Python module would stay so.

        :return: the hyperparameters by name, and the same sorted
        """
        replaced, self.custom_hyperparams = self.custom_hyperparams or {}, None
        found, _ = super().read_hyperparameters()
        self.custom_hyperparams = replaced
        hyperparams = deepcopy({**found, **replaced})
        return hyperparams, OrderedDict(sorted(hyperparams.items()))


def registered_id(env_id: str) -> str:
    """
    The id of an env in Gymnasium's registry, which the Zoo looks up, after the env's module has been imported.

    :param env_id: Gymnasium id, which may have its module in front
    :return: the id without the module
    :raises ValueError: if there is no such module
    """
    find_envs([env_id])
    module, colon, name = env_id.rpartition(":")
    if colon:
        import_module(module)
    return name


def read_hyperparameters(env_id: str, config: str | None, hyperparams: dict[str, Any]) -> dict[str, Any]:
    """
    The hyperparameters of a study, before a trial replaces some.

    :param env_id: Gymnasium id, which may have its module in front
    :param config: hyperparameters, as the Zoo's ``-conf``
    :param hyperparams: hyperparameters that replace those, by name
    :return: values by name, as they are written there
    :raises ValueError: if they cannot be read
    """
    try:
        with redirect_stdout(io.StringIO()):
            found, _ = TrialExperiment(env_id, Path(), config, hyperparams).read_hyperparameters()
    except Exception as error:  # YAML, Python, or whatever a file of another kind holds
        raise ValueError(f"The hyperparameters for {env_id} cannot be read from {config} ({error!r}).") from error
    return found


def policy_kwargs_with_sizes(hyperparams: dict[str, Any], units: dict[str, int]) -> dict[str, Any]:
    """
    The arguments of the policy for sub-policies of other sizes.

    :param hyperparams: hyperparameters of the study
    :param units: units of each of the two hidden layers, by sub-policy
    :return: the hyperparameters' ``policy_kwargs`` with those sizes
    """
    kwargs = hyperparams.get("policy_kwargs", {})
    if isinstance(kwargs, str):
        kwargs = eval(kwargs, vars(rl_zoo3.exp_manager))  # as the Zoo does
    kwargs = {name: value for name, value in kwargs.items() if name != "net_arch"}
    return {**kwargs, "sub_net_archs": {name: [width] * 2 for name, width in units.items()}}
