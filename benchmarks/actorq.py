"""Measures ActorQ: ``python benchmarks/actorq.py actors`` and ``python benchmarks/actorq.py learning`` write
results/actorq.json.

``actors``: env steps per second of processor time on Walker2d-v5, for policies of three layers of 2048, 256 and 64 units.
``learning``: learning curves, and so the time to a given return, with int8 and with fp32 actors, for an actor of three layers
of 2048 units with small critics, on Pendulum-v1. Such an actor needs a small learning rate, with which the critics learn from
normalized rewards alone; and it is updated rarely, as otherwise the learner, not the actors, sets the pace. What is in the
file already is not measured again.
"""

import argparse
import json
import time
from functools import partial
from pathlib import Path
from typing import Any

import gymnasium as gym
import numpy as np
import torch as th
from stable_baselines3 import TD3
from stable_baselines3.common.callbacks import BaseCallback
from stable_baselines3.common.monitor import Monitor
from stable_baselines3.common.noise import NormalActionNoise
from stable_baselines3.common.vec_env import DummyVecEnv, VecNormalize
from tqdm import tqdm

from sb3_asym.actorq import ActorQ
from sb3_asym.actorq.bench import CONTENDERS, bench_actors
from sb3_asym.versions import versions

RESULTS = Path(__file__).parent / "results" / "actorq.json"
WIDTHS = (64, 256, 2048)
TASK, N_STEPS = "Pendulum-v1", 220_000
EVERY, N_EPISODES = 10_000, 10
"""Env steps between two evaluations, and their episodes."""
GAMMA = 0.98
SETTINGS: dict[str, Any] = dict(
    learning_rate=1.5e-4,
    gamma=GAMMA,
    tau=0.04,
    train_freq=32,
    gradient_steps=1,
    batch_size=64,
    policy_delay=8,
    learning_starts=1_000,
    policy_kwargs={"net_arch": {"pi": [2048, 2048, 2048], "qf": [256, 256]}},
)


def measure_actors(width: int, n_rounds: int) -> dict[str, Any]:
    """Speed of actors of one width."""
    with tqdm(total=n_rounds * len(CONTENDERS), desc=f"{width} units", disable=None) as bar:
        bench = bench_actors("Walker2d-v5", [width] * 3, n_rounds, 1000, on_round=bar.update)
    print(bench)
    return bench.to_dict()


class Curve(BaseCallback):
    """Returns of the quantized policy as the model learns, with the time of learning alone."""

    def __init__(self, actors: ActorQ):
        super().__init__()
        self.actors = actors
        self.points: list[tuple[int, float, float]] = []
        self.env = gym.make(TASK)

    def _on_training_start(self) -> None:
        self.seconds, self.since = 0.0, time.monotonic()

    def _on_step(self) -> bool:
        if self.num_timesteps % EVERY:
            return True
        self.seconds += time.monotonic() - self.since
        reward, _ = self.actors.evaluate(self.env, N_EPISODES, warn=False)
        self.points.append((self.num_timesteps, self.seconds, float(reward)))
        self.since = time.monotonic()
        return True


def learn(precision: str, seed: int) -> dict[str, Any]:
    """One run."""
    noise = NormalActionNoise(np.zeros(1), 0.1 * np.ones(1))
    env = VecNormalize(DummyVecEnv([lambda: Monitor(gym.make(TASK))]), norm_obs=False, gamma=GAMMA)
    model = TD3("MlpPolicy", env, action_noise=noise, buffer_size=N_STEPS, device="cpu", seed=seed, **SETTINGS)
    actors = ActorQ(model, partial(gym.make, TASK), n_actors=1, precision=precision, pull_every=200)
    curve = Curve(actors)
    actors.learn(N_STEPS, callback=curve, log_interval=10**9)
    report = actors.report()
    print(report)
    return {"precision": precision, "seed": seed, "curve": curve.points, **report.to_dict()}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("part", choices=["actors", "learning"])
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2])
    parser.add_argument("--output", type=Path, default=RESULTS)
    arguments = parser.parse_args()
    th.set_num_threads(1)
    result = json.loads(arguments.output.read_text()) if arguments.output.exists() else {"actors": [], "learning": []}

    def write() -> None:
        result["versions"] = versions()
        arguments.output.write_text(json.dumps(result, indent=1) + "\n")

    if arguments.part == "actors":
        for width in WIDTHS:
            if not any(bench["net_arch"][0] == width for bench in result["actors"]):
                result["actors"].append(measure_actors(width, arguments.rounds))
                write()
        return
    for seed in arguments.seeds:
        for precision in ("int8", "fp32"):
            if not any((run["seed"], run["precision"]) == (seed, precision) for run in result["learning"]):
                result["learning"].append(learn(precision, seed))
                write()


if __name__ == "__main__":
    main()
