"""Search space of ``asym_sac`` for the Zoo's ``-optimize``: the Zoo's search space of SAC, and that of AsymSAC's arguments."""

from typing import Any

import optuna
from rl_zoo3.hyperparams_opt import convert_offpolicy_params, sample_sac_params

OWN = (
    "option_length",
    "cost_coef",
    "master_learning_rate",
    "exploration_fraction",
    "exploration_final_eps",
    "small_divisor",
)
"""Names of AsymSAC's part of the search space."""


def sample_asym_sac_params(
    trial: optuna.Trial, n_actions: int, n_envs: int, additional_args: dict[str, Any]
) -> dict[str, Any]:
    """
    Sample the arguments of AsymSAC for a trial.

    The Zoo's objective is the return alone, for which λ → 0 is best: to tune λ, use ``sb3-asym tune``.

    :param trial: trial of the study
    :param n_actions: length of the action
    :param n_envs: number of envs
    :param additional_args: further arguments that the Zoo passes to its samplers
    :return: arguments of AsymSAC
    """
    sac = sample_sac_params(trial, n_actions, n_envs, additional_args)
    own = {
        "option_length": trial.suggest_int("option_length", 1, 20, log=True),
        "cost_coef": trial.suggest_float("cost_coef", 1e-3, 1.0, log=True),
        "master_learning_rate": trial.suggest_float("master_learning_rate", 1e-5, 2e-3, log=True),
        "exploration_fraction": trial.suggest_float("exploration_fraction", 0.05, 0.5),
        "exploration_final_eps": trial.suggest_float("exploration_final_eps", 0.02, 0.4, log=True),
        "small_divisor": trial.suggest_categorical("small_divisor", [4, 8, 16, 32]),
    }
    return _merge(sac, own)


def convert_asym_sac_params(sampled_params: dict[str, Any]) -> dict[str, Any]:
    """
    Convert the parameters of a trial to arguments of AsymSAC.

    :param sampled_params: parameters of a trial, as the study stores them
    :return: arguments of AsymSAC
    """
    own = {name: value for name, value in sampled_params.items() if name in OWN}
    sac = {name: value for name, value in sampled_params.items() if name not in OWN}
    return _merge(convert_offpolicy_params(sac), own)


def _merge(sac: dict[str, Any], own: dict[str, Any]) -> dict[str, Any]:
    """Arguments of AsymSAC from the arguments of SAC and AsymSAC's part of the search space."""
    policy_kwargs = dict(sac["policy_kwargs"])
    large = policy_kwargs.pop("net_arch")
    small = [max(width // own["small_divisor"], 4) for width in large]
    return {
        **sac,
        "policy_kwargs": {**policy_kwargs, "sub_net_archs": {"small": small, "large": large}},
        "option_length": own["option_length"],
        "cost_coef": own["cost_coef"],
        "master_kwargs": {
            "learning_rate": own["master_learning_rate"],
            "exploration_fraction": own["exploration_fraction"],
            "exploration_final_eps": own["exploration_final_eps"],
        },
    }
