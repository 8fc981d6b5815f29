"""Which critic for which option length? That of options, which knows that they are held, or release 0.1.0's shared one?

    python benchmarks/critic_target.py Risky-v0 --jobs 2

does the runs that ``benchmarks/results/critic_target_<task>.json`` lacks, each a training for one λ and an evaluation over
held-out episodes, and adds them to it. Each critic has its own master: a fitted one, or a DQN. In ``Risky-v0`` (``risky.py``)
the small sub-policy gets into trouble that only the large one can leave, but not before the option has ended.
"""

from typing import Any

import numpy as np
import risky  # noqa: F401  (registers its env)
from critic_target_tables import CRITICS
from stable_baselines3.common.env_util import make_vec_env
from switching import HELD_OUT, N_EVAL_EPISODES
from switching import TASKS as SWITCHING_TASKS
from switching_tables import RESULTS
from training_jobs import go_on, parse_arguments

from sb3_asym import AsymSAC, evaluate

LENGTHS = (1, 5, 20)
"""Env steps for which options are held; with one step, both critics assume what is done."""
TASKS: dict[str, dict[str, Any]] = {
    "Risky-v0": dict(
        timesteps=5_000,
        small=[],
        large=[16, 16],
        learning_rate=3e-3,
        gamma=0.9,
        batch_size=64,
        cost_coef=2.0,
    ),
    "Pendulum-v1": dict(cost_coef=0.1),
    "KnockedCartPole-v0": dict(cost_coef=0.1),
}
SAC_ARGUMENTS = ("learning_rate", "learning_starts", "gamma", "batch_size")


def settings_of(task: str) -> dict[str, Any]:
    """What the runs of a task have in common, much of it with ``switching.py``."""
    return {**SWITCHING_TASKS.get(task, {}), **TASKS[task], "n_eval_episodes": N_EVAL_EPISODES}


def run_one(task: str, run: str, seed: int) -> dict[str, Any]:
    """Train one agent, and measure what it was trained for: return less λ · cost."""
    settings = settings_of(task)
    critic, length = run.split()
    model = AsymSAC(
        "MlpPolicy",
        task,
        critic=critic,
        option_length=int(length),
        cost_coef=settings["cost_coef"],
        policy_kwargs={"sub_net_archs": {"small": settings["small"], "large": settings["large"]}},
        seed=seed,
        device="cpu",
        **{name: settings[name] for name in SAC_ARGUMENTS if name in settings},
    ).learn(settings["timesteps"])
    report = evaluate(model, make_vec_env(task, N_EVAL_EPISODES, seed=HELD_OUT), N_EVAL_EPISODES, seed=HELD_OUT)
    cost = np.dot(list(report.option_use.values()), model.option_memory.costs)
    net = report.mean_reward - settings["cost_coef"] * report.mean_length * float(cost)
    return {"run": run, "seed": seed, "net_return": net, **report.to_dict()}


def main() -> None:
    """Do the runs that are missing."""
    arguments = parse_arguments(__doc__, TASKS, n_seeds=5)
    task = arguments.task
    runs = [f"{critic} {length}" for length in LENGTHS for critic in CRITICS]
    go_on(arguments, RESULTS / f"critic_target_{task}.json", runs, settings_of(task), run_one)


if __name__ == "__main__":
    main()
