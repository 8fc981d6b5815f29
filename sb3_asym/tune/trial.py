"""One trial: agents that are trained as the Zoo does, and measured."""

from collections.abc import Sequence
from contextlib import redirect_stdout
from dataclasses import replace
from typing import Any

import numpy as np
import optuna
from stable_baselines3.common.vec_env import sync_envs_normalization, unwrap_vec_normalize

from sb3_asym.asym_sac import AsymSAC
from sb3_asym.cost_coef import budget_of
from sb3_asym.evaluation import EvaluationReport, evaluate
from sb3_asym.tune.experiment import SIZES, TrialExperiment, policy_kwargs_with_sizes
from sb3_asym.tune.settings import TuneSettings

TOLERANCE = 0.05
"""Share of a range of returns that may be given up for less cost."""


def objective(trial: optuna.Trial, settings: TuneSettings) -> float | tuple[float, float]:
    """
    Train and measure the agents of a trial.

    :param trial: the trial
    :param settings: settings of the study
    :return: mean return and FLOPs per inference, or the return alone where there is a budget
    :raises TrialPruned: if training diverged
    """
    hyperparams: dict[str, Any] = {**settings.hyperparams}
    if settings.searches_cost_coef:
        hyperparams["cost_coef"] = trial.suggest_float("cost_coef", *settings.cost_coef, log=True)
    if settings.option_length is not None:
        hyperparams["option_length"] = trial.suggest_int("option_length", *settings.option_length, log=True)
    if settings.sizes:
        units = {name: trial.suggest_categorical(name, choices) for name, choices in SIZES.items()}
        hyperparams["policy_kwargs"] = policy_kwargs_with_sizes(settings.read_hyperparameters(), units)
    try:
        trained = [_train(settings, hyperparams, trial.number, seed) for seed in range(settings.n_seeds)]
    except FloatingPointError as error:
        raise optuna.TrialPruned(str(error)) from error
    reports = [report for report, _ in trained]
    rewards = [report.mean_reward for report in reports]
    flops = [report.flops_per_inference for report in reports]
    share = 1 - float(np.mean([report.flops_reduction for report in reports]))
    trial.set_user_attr("rewards", rewards)
    trial.set_user_attr("flops", flops)
    trial.set_user_attr("flops_share", share)
    trial.set_user_attr("cost_coefs", [cost_coef for _, cost_coef in trained])
    trial.set_user_attr("alone", _alone(reports))
    if settings.budget is not None:
        trial.set_constraint("budget", share - settings.budget)
        return float(np.mean(rewards))
    return float(np.mean(rewards)), float(np.mean(flops))


def _train(settings: TuneSettings, hyperparams: dict[str, Any], number: int, seed: int) -> tuple[EvaluationReport, float]:
    """Train an agent as the Zoo does, measure it, and save it in the Zoo's layout: its report, and its λ."""
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
        experiment.eval_env_kwargs = experiment.env_kwargs  # those of the hyperparameters, which the Zoo reads later
        env = experiment.create_envs(1, eval_env=True, no_log=True)
        if unwrap_vec_normalize(env) is not None:
            sync_envs_normalization(model.env, env)
        has_dial = model.dial is not None and budget_of(model.cost_coef) is None
        report = evaluate(model, env, settings.n_eval_episodes, seed=seed, cost_coef="dial" if has_dial else ())
        if has_dial:
            report = deploy(model, report, settings.budget)
            experiment.save_trained_model(model)
        for each in (model.env, env):
            each.close()
    return report, model.master.cost_coef


def cheapest_of(measured: Sequence[Any], tolerance: float = TOLERANCE) -> Any:
    """
    The cheapest of what gives up little return.

    :param measured: reports or results, with ``mean_reward`` and ``flops_per_inference``
    :param tolerance: share of the range of their returns that may be given up for less cost
    :return: one of them
    """
    rewards = [each.mean_reward for each in measured]
    enough = max(rewards) - tolerance * (max(rewards) - min(rewards))
    return min((each for each in measured if each.mean_reward >= enough), key=lambda each: each.flops_per_inference)


def deploy(model: AsymSAC, report: EvaluationReport, budget: float | None) -> EvaluationReport:
    """
    Set an agent's dial to the λ that was best: within a budget, that of the greatest return; else the one of the least cost
    that gives up no more than 5 % of what the curve spans.

    :param model: agent with a dial
    :param report: its evaluation under several λ
    :param budget: greatest cost as a share of the largest sub-policy's, or None
    :return: the report under that λ, with the comparisons of ``report``
    """
    curve = [under for under in report.comparisons if under.cost_coef is not None]
    if budget is None:
        best = cheapest_of(curve)
    else:
        within = [under for under in curve if 1 - under.flops_reduction <= budget]
        cheapest = min(curve, key=lambda under: under.flops_per_inference)
        best = max(within or [cheapest], key=lambda under: under.mean_reward)
    assert best.cost_coef is not None
    model.set_cost_coef(best.cost_coef)
    return replace(best, comparisons=report.comparisons)


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
