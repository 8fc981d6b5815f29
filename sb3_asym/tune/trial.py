"""One trial: agents that are trained as the Zoo does, and measured."""

from argparse import Namespace
from collections.abc import Sequence
from contextlib import redirect_stdout
from pathlib import Path
from typing import Any

import numpy as np
import optuna
import rl_zoo3.exp_manager
from stable_baselines3.common.vec_env import VecNormalize, sync_envs_normalization

from sb3_asym.asym_sac import AsymSAC
from sb3_asym.envs import find_envs
from sb3_asym.evaluation import EvaluationReport, evaluate
from sb3_asym.tune.settings import TuneSettings
from sb3_asym.zoo import ALGO, register
from sb3_asym.zoo.experiment import AsymExperimentManager

SIZES = {"small": (4, 8, 16, 32), "large": (64, 128, 256)}
"""Units per layer to choose from, where sizes are tuned."""


def objective(trial: optuna.Trial, settings: TuneSettings) -> float | tuple[float, float]:
    """
    Train and measure the agents of a trial.

    :param trial: the trial
    :param settings: what is tuned
    :return: mean return and FLOPs per inference, or the return alone where there is a budget
    :raises TrialPruned: if training diverged
    """
    arguments: dict[str, Any] = {**settings.hyperparams}
    arguments["cost_coef"] = trial.suggest_float("cost_coef", *settings.cost_coef, log=True)
    if settings.option_length is not None:
        arguments["option_length"] = trial.suggest_int("option_length", *settings.option_length, log=True)
    if settings.sizes:
        units = {name: trial.suggest_categorical(name, choices) for name, choices in SIZES.items()}
        arguments["policy_kwargs"] = with_sizes(settings, units)
    try:
        reports = [_train(settings, arguments, trial.number, seed) for seed in range(settings.n_seeds)]
    except FloatingPointError as error:
        raise optuna.TrialPruned(str(error)) from error
    rewards, flops = ([getattr(report, key) for report in reports] for key in ("mean_reward", "flops_per_inference"))
    share = 1 - float(np.mean([report.flops_reduction for report in reports]))
    trial.set_user_attr("rewards", rewards)
    trial.set_user_attr("flops", flops)
    trial.set_user_attr("flops_share", share)
    trial.set_user_attr("alone", _alone(reports))
    if settings.budget is not None:
        trial.set_constraint("budget", share - settings.budget)
        return float(np.mean(rewards))
    return float(np.mean(rewards)), float(np.mean(flops))


def _train(settings: TuneSettings, arguments: dict[str, Any], number: int, seed: int) -> EvaluationReport:
    """Train an agent as the Zoo does, save it in the Zoo's layout, and measure it."""
    register()
    find_envs([settings.env])
    folder = settings.folder(number) / f"seed_{seed}"
    folder.mkdir(parents=True, exist_ok=True)
    with (folder / "log.txt").open("w") as log, redirect_stdout(log):
        manager = _manager(settings, folder, arguments, seed)
        setup = manager.setup_experiment()
        assert setup is not None
        model = setup[0]
        assert isinstance(model, AsymSAC)
        assert model.env is not None
        # Not `manager.learn`: it takes an interrupted training for a finished one.
        model.learn(manager.n_timesteps, callback=manager.callbacks or None)
        manager.save_trained_model(model)
        env = manager.create_envs(1, eval_env=True, no_log=True)
        if isinstance(env, VecNormalize):
            sync_envs_normalization(model.env, env)
        report = evaluate(model, env, settings.n_eval_episodes, seed=seed)
        for each in (model.env, env):
            each.close()
    return report


def _manager(settings: TuneSettings, folder: Path, arguments: dict[str, Any], seed: int) -> AsymExperimentManager:
    return AsymExperimentManager(
        Namespace(env_kwargs={}),
        ALGO,
        settings.env,
        str(folder),
        n_timesteps=settings.n_timesteps,
        eval_freq=-1,
        hyperparams=arguments,
        seed=seed,
        verbose=0,
        device=settings.device,
        config=settings.config,
    )


def with_sizes(settings: TuneSettings, units: dict[str, int]) -> dict[str, Any]:
    """
    :param settings: what is tuned
    :param units: of each of the two hidden layers, by sub-policy
    :return: the hyperparameters' ``policy_kwargs`` with those sizes
    """
    hyperparams, _ = _manager(settings, settings.output, dict(settings.hyperparams), 0).read_hyperparameters()
    found = hyperparams.get("policy_kwargs", {})
    kwargs = eval(found, vars(rl_zoo3.exp_manager)) if isinstance(found, str) else found  # as the Zoo does
    kwargs = {name: value for name, value in kwargs.items() if name != "net_arch"}
    return {**kwargs, "sub_net_archs": {name: [width] * 2 for name, width in units.items()}}


def _alone(reports: Sequence[EvaluationReport]) -> dict[str, list[float]]:
    """Mean return and FLOPs of each sub-policy alone, by its name."""
    found: dict[str, list[float]] = {}
    for comparisons in zip(*(report.comparisons for report in reports), strict=True):
        name = comparisons[0].name.removesuffix(" alone")
        if name != comparisons[0].name:
            keys = ("mean_reward", "flops_per_inference")
            found[name] = [float(np.mean([getattr(report, key) for report in comparisons])) for key in keys]
    return found
