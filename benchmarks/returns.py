"""Return against cost: AsymSAC at several λ, its sub-policies alone, random switching, and stock SAC of each size.

    python benchmarks/returns.py Pendulum-v1 --jobs 2

does the runs that ``benchmarks/results/returns_<task>.json`` lacks, each a training and an evaluation over 20 episodes, and
adds them to it. The trained agents are kept in ``outputs/returns``.
"""

from pathlib import Path
from typing import Any

import gymnasium as gym
from stable_baselines3 import SAC
from stable_baselines3.common.callbacks import BaseCallback
from stable_baselines3.common.env_util import make_vec_env
from stable_baselines3.common.evaluation import evaluate_policy
from training_jobs import go_on, parse_arguments

from sb3_asym import AsymSAC, evaluate
from sb3_asym.costs import actor_cost
from sb3_asym.sub_policies import CRITICS

ROOT = Path(__file__).parent
MODELS = ROOT.parent / "outputs" / "returns"
N_EVAL_EPISODES = 20
TASKS: dict[str, dict[str, Any]] = {
    "Pendulum-v1": {
        "timesteps": 20_000,
        "eval_every": 2_000,
        "small": [4],
        "large": [64, 64],
        "shared": (0.03, 0.1, 0.3),
        "separate": (0.03, 0.1, 0.3),
        "option": (0.03, 0.1, 0.3),
        "sac": {"learning_rate": 1e-3, "learning_starts": 100},
    },
    "HalfCheetah-v5": {
        "timesteps": 150_000,
        "eval_every": 10_000,
        "small": [4, 4],
        "large": [128, 128],
        "shared": (0.1, 0.5, 1.0, 2.0),
        "separate": (0.5,),
        "option": (0.1, 0.5, 1.0, 2.0),
        "sac": {"learning_starts": 10_000},
    },
}


class LearningCurve(BaseCallback):
    """Evaluates over 5 episodes every so often; rows are timestep, mean and std of the return."""

    def __init__(self, task: str, every: int, seed: int):
        super().__init__()
        self.rows: list[tuple[int, float, float]] = []
        self.every = every
        self.env = make_vec_env(task, seed=10_000 + seed)

    def _on_step(self) -> bool:
        if self.num_timesteps % self.every == 0:
            mean, std = evaluate_policy(self.model, self.env, n_eval_episodes=5)
            self.rows.append((self.num_timesteps, float(mean), float(std)))
        return True


def runs(task: str) -> list[str]:
    """Labels of the runs of one seed."""
    asymmetric = [f"{critic}_{cost_coef:g}" for critic in CRITICS for cost_coef in TASKS[task][critic]]
    return ["sac_large", "sac_small_large_critic", "sac_small", *asymmetric]


def make_model(task: str, run: str, seed: int) -> SAC:
    """The agent that a label stands for, untrained."""
    settings = TASKS[task]
    small, large = settings["small"], settings["large"]
    common = {"seed": seed, "device": "cpu", **settings["sac"]}
    stock = {
        "sac_large": {"pi": large, "qf": large},
        "sac_small": {"pi": small, "qf": small},
        "sac_small_large_critic": {"pi": small, "qf": large},
    }
    if run in stock:
        return SAC("MlpPolicy", task, policy_kwargs={"net_arch": stock[run]}, **common)
    critic, cost_coef = run.split("_")
    archs = {"sub_net_archs": {"small": small, "large": large}}
    return AsymSAC("MlpPolicy", task, critic=critic, cost_coef=float(cost_coef), policy_kwargs=archs, **common)


def run_one(task: str, run: str, seed: int) -> dict[str, Any]:
    """Train one agent, keep it, and measure its return and cost."""
    model = make_model(task, run, seed)
    curve = LearningCurve(task, TASKS[task]["eval_every"], seed)
    model.learn(TASKS[task]["timesteps"], callback=curve)
    model.save(MODELS / task / f"{run}_{seed}.zip")
    return {"run": run, "seed": seed, "curve": curve.rows, **measure(task, model)}


def measure(task: str, model: SAC) -> dict[str, Any]:
    """Return and cost of a trained agent."""
    if isinstance(model, AsymSAC):
        return evaluate(model, gym.make(task), N_EVAL_EPISODES).to_dict()
    rewards, _ = evaluate_policy(model, make_vec_env(task, seed=0), N_EVAL_EPISODES, return_episode_rewards=True)
    return {"mean_reward": sum(rewards) / len(rewards), "flops_per_inference": actor_cost(model.actor).flops}


def main() -> None:
    """Do the runs that are missing."""
    arguments = parse_arguments(__doc__, TASKS, n_seeds=3)
    task = arguments.task
    (MODELS / task).mkdir(parents=True, exist_ok=True)
    settings = {**TASKS[task], "n_eval_episodes": N_EVAL_EPISODES}
    go_on(arguments, ROOT / "results" / f"returns_{task}.json", runs(task), settings, run_one)


if __name__ == "__main__":
    main()
