"""One trial: agents that are trained as the Zoo does, and measured."""

from collections.abc import Sequence
from contextlib import redirect_stdout
from typing import Any

import numpy as np
import optuna
from stable_baselines3.common.vec_env import VecNormalize, sync_envs_normalization

from sb3_asym.asym_sac import AsymSAC
from sb3_asym.evaluation import EvaluationReport, evaluate
from sb3_asym.tune.experiment import SIZES, TrialExperiment, policy_kwargs_with_sizes
from sb3_asym.tune.settings import TuneSettings


def objective(trial: optuna.Trial, settings: TuneSettings) -> float | tuple[float, float]:
    """
    Train and measure the agents of a trial.

    :param trial: the trial
    :param settings: settings of the study
    :return: mean return and FLOPs per inference, or the return alone where there is a budget
    :raises TrialPruned: if training diverged
    """
    hyperparams: dict[str, Any] = {**settings.hyperparams}
    hyperparams["cost_coef"] = trial.suggest_float("cost_coef", *settings.cost_coef, log=True)
    if settings.option_length is not None:
        hyperparams["option_length"] = trial.suggest_int("option_length", *settings.option_length, log=True)
    if settings.sizes:
        units = {name: trial.suggest_categorical(name, choices) for name, choices in SIZES.items()}
        hyperparams["policy_kwargs"] = policy_kwargs_with_sizes(settings.read_hyperparameters(), units)
    try:
        reports = [_train(settings, hyperparams, trial.number, seed) for seed in range(settings.n_seeds)]
    except FloatingPointError as error:
        raise optuna.TrialPruned(str(error)) from error
    rewards = [report.mean_reward for report in reports]
    flops = [report.flops_per_inference for report in reports]
    share = 1 - float(np.mean([report.flops_reduction for report in reports]))
    trial.set_user_attr("rewards", rewards)
    trial.set_user_attr("flops", flops)
    trial.set_user_attr("flops_share", share)
    trial.set_user_attr("alone", _alone(reports))
    if settings.budget is not None:
        trial.set_constraint("budget", share - settings.budget)
        return float(np.mean(rewards))
    return float(np.mean(rewards)), float(np.mean(flops))


def _train(settings: TuneSettings, hyperparams: dict[str, Any], number: int, seed: int) -> EvaluationReport:
    """Train an agent as the Zoo does, save it in the Zoo's layout, and measure it."""
    folder = settings.folder(number) / f"seed_{seed}"
    folder.mkdir(parents=True, exist_ok=True)
    with (folder / "log.txt").open("w", encoding="utf-8") as log, redirect_stdout(log):
        experiment = TrialExperiment(
            settings.env,
            folder,
            settings.config,
            hyperparams,
            n_timesteps=settings.n_timesteps,
            seed=seed,
            device=settings.device,
        )
        setup = experiment.setup_experiment()
        assert setup is not None
        model = setup[0]
        assert isinstance(model, AsymSAC)
        assert model.env is not None
        # Not `experiment.learn`: it takes an interrupted training for a finished one.
        model.learn(experiment.n_timesteps, callback=experiment.callbacks or None)
        experiment.save_trained_model(model)
        env = experiment.create_envs(1, eval_env=True, no_log=True)
        if isinstance(env, VecNormalize):
            sync_envs_normalization(model.env, env)
        report = evaluate(model, env, settings.n_eval_episodes, seed=seed)
        for each in (model.env, env):
            each.close()
    return report


def _alone(reports: Sequence[EvaluationReport]) -> dict[str, list[float]]:
    """Mean return and FLOPs of each sub-policy alone, by its name."""
    found: dict[str, list[float]] = {}
    for comparisons in zip(*(report.comparisons for report in reports), strict=True):
        name = comparisons[0].name.removesuffix(" alone")
        if name != comparisons[0].name:
            reward = np.mean([report.mean_reward for report in comparisons])
            flops = np.mean([report.flops_per_inference for report in comparisons])
            found[name] = [float(reward), float(flops)]
    return found
