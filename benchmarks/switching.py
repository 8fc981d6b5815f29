"""Is switching worth it? The dial's curve, a budget, the other masters, random switching, and fixed actors, on four tasks.

    python benchmarks/switching.py Pendulum-v1 --jobs 2

does the runs that ``benchmarks/results/switching_<task>.json`` lacks, each a training and evaluations over held-out episodes,
and adds them to it; some of HalfCheetah-v5's ``returns.py`` has done. ``KnockedCartPole-v0`` (``rare_need.py``) needs its
large network seldom, by construction.
"""

from typing import Any

import numpy as np
import rare_need  # noqa: F401  (registers its env)
from stable_baselines3 import SAC
from stable_baselines3.common.env_util import make_vec_env
from stable_baselines3.common.evaluation import evaluate_policy
from stable_baselines3.common.vec_env import VecEnv
from switching_tables import FIXED, RESULTS, measured_before
from training_jobs import go_on, parse_arguments

from sb3_asym import AsymSAC, evaluate
from sb3_asym.cost_coef import DEFAULT_DIAL
from sb3_asym.costs import actor_cost
from sb3_asym.evaluation.rollout import rollout

N_EVAL_EPISODES = 20
HELD_OUT = 50_000
"""Seed of the episodes that are measured; none of training has it."""
MIXTURES = (0.05, 0.1, 0.2, 0.3, 0.5, 0.7)
"""Uses of the large network for random switching between actors that learned under random switching."""
TASKS: dict[str, dict[str, Any]] = {
    "Pendulum-v1": dict(timesteps=20_000, small=[4], large=[64, 64], shared=(0.03, 0.1, 0.3), learning_rate=1e-3),
    "HalfCheetah-v5": dict(timesteps=150_000, small=[4, 4], large=[128, 128], shared=(0.5, 1.0, 2.0), learning_starts=10_000),
    "Hopper-v5": dict(timesteps=150_000, small=[8, 8], large=[128, 128], shared=(0.1, 0.3, 1.0), learning_starts=10_000),
    "KnockedCartPole-v0": dict(timesteps=60_000, small=[4], large=[64, 64], shared=(0.03, 0.1, 0.3), learning_rate=1e-3),
}


def runs(task: str) -> list[str]:
    """Labels of the runs of one seed."""
    shared = [f"shared {cost_coef:g}" for cost_coef in TASKS[task]["shared"]]
    return ["dial", "auto_0.4", "generalists", *shared, *FIXED]


def make_model(task: str, run: str, seed: int) -> SAC:
    """The agent that a label stands for, untrained."""
    settings = TASKS[task]
    small, large = settings["small"], settings["large"]
    common = {"seed": seed, "device": "cpu"}
    common |= {name: settings[name] for name in ("learning_rate", "learning_starts") if name in settings}
    stock = {
        "sac large": {"pi": large, "qf": large},
        "sac large small-critic": {"pi": large, "qf": small},
        "sac small": {"pi": small, "qf": small},
        "sac small large-critic": {"pi": small, "qf": large},
    }
    if run in stock:
        return SAC("MlpPolicy", task, policy_kwargs={"net_arch": stock[run]}, **common)
    options: dict[str, Any] = {
        "dial": dict(cost_coef="dial"),
        "auto_0.4": dict(cost_coef="auto_0.4"),
        "generalists": dict(
            critic="option", cost_coef=0.0, master_kwargs=dict(exploration_initial_eps=1.0, exploration_final_eps=1.0)
        ),
    }.get(run) or dict(critic="shared", cost_coef=float(run.split()[1]))
    archs = {"sub_net_archs": {"small": small, "large": large}}
    return AsymSAC("MlpPolicy", task, policy_kwargs=archs, **options, **common)


def run_one(task: str, run: str, seed: int) -> dict[str, Any]:
    """Train one agent, and measure its return and cost."""
    model = make_model(task, run, seed).learn(TASKS[task]["timesteps"])
    return {"run": run, "seed": seed, **measure(task, run, model)}


def measure(task: str, run: str, model: SAC) -> dict[str, Any]:
    """Return and cost of a trained agent, over held-out episodes, each in an env of its own."""
    env = make_vec_env(task, N_EVAL_EPISODES, seed=HELD_OUT)
    if not isinstance(model, AsymSAC):
        rewards, _ = evaluate_policy(model, env, N_EVAL_EPISODES, return_episode_rewards=True)
        return {"mean_reward": float(np.mean(rewards)), "flops_per_inference": actor_cost(model.actor).flops}
    # A budget cannot be spent where even the least λ leads to less.
    cost_coef: Any = {"dial": "dial", "auto_0.4": DEFAULT_DIAL.low}.get(run, ())
    report = evaluate(model, env, N_EVAL_EPISODES, seed=HELD_OUT, cost_coef=cost_coef).to_dict()
    own = {"cost_coef": model.master.cost_coef, "budget_share": 1 - report["flops_reduction"]}
    if run == "auto_0.4":
        own["share_over_several"] = spent_over_several(env, model)
    if run == "generalists":
        own["mixtures"] = [mixture(env, model, use) for use in MIXTURES]
    return {**report, **own}


def spent_over_several(env: VecEnv, model: AsymSAC, n_episodes: int = 5) -> float:
    """What an agent spends, as a share of the large network's FLOPs, over episodes in a row: λ goes on over their ends."""
    shares, n_ended = [], np.zeros(env.num_envs, dtype=np.int64)
    for step in rollout(model, env, HELD_OUT):
        shares.append(model.policy.cost_shares[step.options][n_ended < n_episodes])
        n_ended += step.dones
        if n_ended.min() >= n_episodes:
            break
    return float(np.concatenate(shares).mean())


def mixture(env: VecEnv, model: AsymSAC, use: float) -> dict[str, float]:
    """Random switching that uses the large network for a given share of the steps; chance costs nothing to ask."""
    rng = np.random.default_rng(0)
    episodes: dict[int, dict[str, float]] = {}
    for step in rollout(model, env, HELD_OUT, lambda _, envs: (rng.random(len(envs)) < use).astype(np.int64)):
        for i in np.flatnonzero(step.dones):
            episodes.setdefault(int(i), step.infos[i]["episode"])
        if len(episodes) == env.num_envs:
            break
    small, large = (cost.flops for cost in model.policy.option_costs)
    return {
        "use": use,
        "mean_reward": float(np.mean([episode["r"] for episode in episodes.values()])),
        "mean_length": float(np.mean([episode["l"] for episode in episodes.values()])),
        "flops_per_inference": use * large + (1 - use) * small,
    }


def main() -> None:
    """Do the runs that are missing."""
    arguments = parse_arguments(__doc__, TASKS, n_seeds=5)
    task = arguments.task
    settings = {**TASKS[task], "n_eval_episodes": N_EVAL_EPISODES}
    before = measured_before(task)
    go_on(arguments, RESULTS / f"switching_{task}.json", runs(task), settings, run_one, before)


if __name__ == "__main__":
    main()
