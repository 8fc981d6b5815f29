"""Return and cost of an agent over seeded episodes, compared with its sub-policies alone and with random switching."""

from collections.abc import Callable
from dataclasses import replace
from typing import Any

import numpy as np
from stable_baselines3.common.type_aliases import GymEnv
from stable_baselines3.common.vec_env import VecEnv

from sb3_asym.asym_sac import AsymSAC
from sb3_asym.evaluation.env import prepare_env
from sb3_asym.evaluation.report import EvaluationReport
from sb3_asym.evaluation.rollout import rollout
from sb3_asym.options import OptionStatistics
from sb3_asym.policies import Chooser


def evaluate(
    model: AsymSAC,
    env: GymEnv | str | None = None,
    n_eval_episodes: int = 10,
    deterministic: bool = True,
    seed: int = 0,
    compare: bool = True,
    on_episode: Callable[[], Any] | None = None,
) -> EvaluationReport:
    """
    Measure return and cost of an agent.

    For comparison, each sub-policy alone is measured too, and random switching with the same use of each sub-policy.

    :param model: an AsymSAC agent
    :param env: env or its id, normalized as the training env unless it is already; by default a new env like the training env
    :param n_eval_episodes: number of episodes for each way to choose the options
    :param deterministic: True for mean actions of the sub-policies, False for samples
    :param seed: seed of the envs, the same for each way to choose the options
    :param compare: True to measure the sub-policies alone and random switching too
    :param on_episode: function to call after each episode, such as the update of a progress bar; with ``compare``, there are
        ``n_evaluations(model) * n_eval_episodes`` episodes
    :return: report of the agent, with those of the comparison
    :raises ValueError: if there is no env, the agent is learning in it, its spaces differ from the agent's, or
        ``n_eval_episodes`` is below 1
    """
    if n_eval_episodes < 1:
        raise ValueError(f"n_eval_episodes must be at least 1, got {n_eval_episodes}.")
    vec_env = prepare_env(model, env)
    arguments = (model, vec_env, n_eval_episodes, deterministic, seed, on_episode)
    report = _measure("agent", None, *arguments)
    if compare:
        use = list(report.option_use.values())
        rng = np.random.default_rng(seed)
        others = {f"{name} alone": _always(option) for option, name in enumerate(model.option_names)}
        others["random switching"] = lambda _, n_obs: rng.choice(len(use), size=n_obs, p=use)
        comparisons = tuple(_measure(name, choose, *arguments) for name, choose in others.items())
        report = replace(report, comparisons=comparisons)
    if env is None or isinstance(env, str):
        vec_env.close()
    return report


def n_evaluations(model: AsymSAC) -> int:
    """
    Number of ways to choose the options that ``evaluate(compare=True)`` measures.

    :param model: an AsymSAC agent
    :return: number of ways
    """
    return len(model.option_names) + 2


def _always(option: int) -> Chooser:
    """Function that chooses the same option everywhere."""
    return lambda _, n_obs: np.full(n_obs, option)


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
