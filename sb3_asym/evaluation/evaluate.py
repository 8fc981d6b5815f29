"""Return and cost of an agent over seeded episodes, compared with its sub-policies alone and with random switching."""

import math
from collections.abc import Callable, Sequence
from dataclasses import replace
from itertools import pairwise
from typing import Any

import numpy as np
from stable_baselines3.common.type_aliases import GymEnv
from stable_baselines3.common.vec_env import VecEnv

from sb3_asym.asym_sac import AsymSAC
from sb3_asym.cost_coef import Dial
from sb3_asym.evaluation.env import prepare_env
from sb3_asym.evaluation.report import EvaluationReport
from sb3_asym.evaluation.rollout import rollout
from sb3_asym.options import OptionStatistics
from sb3_asym.policies import Chooser

N_DIALLED = 9
"""Number of λ over a dial's range."""
EVENNESS = 0.2
"""How much a part of the range counts, where λ are to be measured, beside the part of the cost that is saved there."""


def evaluate(
    model: AsymSAC,
    env: GymEnv | str | None = None,
    n_eval_episodes: int = 10,
    deterministic: bool = True,
    seed: int = 0,
    compare: bool = True,
    on_episode: Callable[[], Any] | None = None,
    cost_coef: float | Sequence[float] | str = (),
) -> EvaluationReport:
    """
    Measure return and cost of an agent.

    For comparison, each sub-policy alone is measured too, and random switching with the same use of each sub-policy. With
    ``cost_coef``, an agent with a dial is measured under each of these λ, and random switching at the use of each. The curve
    of cost over λ is kept in ``model.cost_curve``, for :meth:`sb3_asym.AsymSAC.set_budget` and for ``save``.

    :param model: an AsymSAC agent
    :param env: env or its id, normalized as the training env unless it is already; by default a new env like the training env
    :param n_eval_episodes: number of episodes for each way to choose the options
    :param deterministic: True for mean actions of the sub-policies, False for samples
    :param seed: seed of the envs, the same for each way to choose the options
    :param compare: True to measure the sub-policies alone and random switching too
    :param on_episode: function to call after each episode, such as the update of a progress bar; with ``compare``, there are
        ``n_evaluations(model, compare, cost_coef) * n_eval_episodes`` episodes
    :param cost_coef: one or several λ of an agent with a dial, or "dial" for nine over its range, closest where its cost
        changes most
    :return: report of the agent, with those of the comparison
    :raises ValueError: if there is no env, the agent is learning in it, its spaces differ from the agent's,
        ``n_eval_episodes`` is below 1, or the agent has no dial, or not this λ on it
    """
    if n_eval_episodes < 1:
        raise ValueError(f"n_eval_episodes must be at least 1, got {n_eval_episodes}.")
    vec_env = prepare_env(model, env)
    cost_coefs = _cost_coefs(model, cost_coef)

    def measure(name: str, choose: Chooser | None = None) -> EvaluationReport:
        return _measure(name, choose, model, vec_env, n_eval_episodes, deterministic, seed, on_episode)

    report = measure("agent")
    comparisons: list[EvaluationReport] = []
    if compare:
        comparisons += [measure(f"{name} alone", _always(option)) for option, name in enumerate(model.option_names)]
        comparisons.append(measure("random switching", _random(report, seed)))
    if cost_coefs:
        for under in _along_the_dial(model, cost_coefs, measure):
            comparisons.append(under)
            if compare:
                comparisons.append(measure(f"random switching, as {under.name}", _random(under, seed)))
    if env is None or isinstance(env, str):
        vec_env.close()
    return replace(report, comparisons=tuple(comparisons))


def n_evaluations(model: AsymSAC, compare: bool = True, cost_coef: float | Sequence[float] | str = ()) -> int:
    """
    Number of ways to choose the options that ``evaluate`` measures.

    :param model: an AsymSAC agent
    :param compare: as for ``evaluate``
    :param cost_coef: as for ``evaluate``
    :return: number of ways
    """
    return 1 + compare * (len(model.option_names) + 1) + (1 + compare) * len(_cost_coefs(model, cost_coef))


def _cost_coefs(model: AsymSAC, cost_coef: float | Sequence[float] | str) -> list[float | None]:
    """λ under which an agent is measured, rising; None for one that hangs on what was measured before."""
    if isinstance(cost_coef, str):
        if cost_coef != "dial":
            raise ValueError(f"cost_coef must be numbers or 'dial', got {cost_coef!r}.")
        values = []
    else:
        values = sorted(set(np.atleast_1d(cost_coef).tolist()))
        if not values:
            return []
    if model.dial is None:
        raise ValueError("The agent learned for one λ, so it cannot be measured under others: train it with cost_coef='dial'.")
    for value in values:
        model.dial.check(value)
    return values or [None] * N_DIALLED


def _along_the_dial(
    model: AsymSAC, cost_coefs: Sequence[float | None], measure: Callable[[str], EvaluationReport]
) -> list[EvaluationReport]:
    """Reports of an agent under several λ, rising; keeps the curve of its cost."""
    assert model.dial is not None
    cost_coef, budget = model.master.cost_coef, model.policy.budget
    under: dict[float, EvaluationReport] = {}
    try:
        for wanted in cost_coefs:
            value = _next_cost_coef(model.dial, under) if wanted is None else wanted
            model.set_cost_coef(value)
            under[value] = replace(measure(f"λ = {value:.3g}"), cost_coef=value)
    finally:
        model.master.set_cost_coef(cost_coef, budget)  # type: ignore[attr-defined]
    known = {point[0]: point for point in model.cost_curve}  # of the same weights, as learning forgets it
    known |= {value: (value, 1 - report.flops_reduction, report.mean_reward) for value, report in under.items()}
    model.cost_curve = [known[value] for value in sorted(known)]
    return [under[value] for value in sorted(under)]


def _next_cost_coef(dial: Dial, under: dict[float, EvaluationReport]) -> float:
    """The next λ to measure: an end of the range, or the middle of the part over which the cost changes most."""
    if len(under) < 2:
        return dial.high if under else dial.low
    values, whole = sorted(under), math.log(dial.high / dial.low)
    worth = [
        abs(under[a].flops_reduction - under[b].flops_reduction) + EVENNESS * math.log(b / a) / whole
        for a, b in pairwise(values)
    ]
    place = int(np.argmax(worth))
    return math.sqrt(values[place] * values[place + 1])


def _random(report: EvaluationReport, seed: int) -> Chooser:
    """Function that chooses at random, with the use of a report."""
    use, rng = list(report.option_use.values()), np.random.default_rng(seed)
    return lambda _, envs: rng.choice(len(use), size=len(envs), p=use)


def _always(option: int) -> Chooser:
    """Function that chooses the same option everywhere."""
    return lambda _, envs: np.full(len(envs), option)


def _measure(
    name: str,
    choose: Chooser | None,
    model: AsymSAC,
    env: VecEnv,
    n_eval_episodes: int,
    deterministic: bool,
    seed: int,
    on_episode: Callable[[], Any] | None,
) -> EvaluationReport:
    """
    Measure one way to choose the options.

    As in SB3's ``evaluate_policy``, each env contributes its share of the episodes.
    """
    n_envs = env.num_envs
    shares = np.array([(n_eval_episodes + i) // n_envs for i in range(n_envs)])
    finished, returns = np.zeros(n_envs, dtype=int), np.zeros(n_envs)
    statistics = OptionStatistics(len(model.option_names), n_envs)
    episode_rewards: list[float] = []
    for step in rollout(model, env, seed, choose, deterministic):
        counted = finished < shares
        statistics.count(step.options, step.started, step.dones, counted)
        returns += step.rewards
        for i in np.flatnonzero(step.dones):
            if counted[i]:
                # Monitor has the return before the outer wrappers change the rewards.
                episode_rewards.append(float(step.infos[i].get("episode", {"r": returns[i]})["r"]))
                if on_episode:
                    on_episode()
            finished[i] += 1
            returns[i] = 0.0
        if (finished >= shares).all():
            break
    n_steps = int(statistics.steps.sum())
    n_choices = statistics.n_choices if choose is None else 0
    flops = model.policy.mean_flops(statistics.steps, n_choices)
    return EvaluationReport(
        name=name,
        mean_reward=float(np.mean(episode_rewards)),
        std_reward=float(np.std(episode_rewards)),
        n_episodes=len(episode_rewards),
        mean_length=n_steps / len(episode_rewards),
        option_use={name: float(steps / n_steps) for name, steps in zip(model.option_names, statistics.steps, strict=True)},
        flops_per_inference=flops,
        flops_reduction=1 - flops / model.policy.option_costs[-1].flops,
        mean_option_length=n_steps / statistics.n_choices,
        switches_per_episode=statistics.n_switches / len(episode_rewards),
        episode_rewards=tuple(episode_rewards),
    )
