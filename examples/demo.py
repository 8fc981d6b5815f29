"""`make demo`: swing a pendulum up and balance it, with a network that is hardly used: which sub-policy acts when?

Trains for a few minutes, then prints return and cost of the agent beside each sub-policy alone, and draws one episode and
the learning curve.
"""

import json
import time
from pathlib import Path

import gymnasium as gym
import numpy as np
import torch as th
from stable_baselines3.common.callbacks import EvalCallback
from stable_baselines3.common.env_util import make_vec_env

from sb3_asym import AsymSAC, evaluate
from sb3_asym.evaluation import record_episode
from sb3_asym.evaluation.plotting import learning_curves, timeline

TASK = "Pendulum-v1"
OUTPUT = Path("outputs/demo")

th.set_num_threads(1)  # networks this small gain nothing from more
model = AsymSAC(
    "MlpPolicy",
    TASK,
    option_length=5,
    cost_coef=1.0,
    learning_rate=1e-3,
    policy_kwargs={"sub_net_archs": {"small": [4], "large": [64, 64]}},
    seed=0,
    device="cpu",
)
costs = ", ".join(f"{name} {cost.flops:,}" for name, cost in zip(model.option_names, model.policy.option_costs, strict=True))
print(f"Training on {TASK}. FLOPs per inference: {costs}, master {model.policy.master_cost.flops:,} every 5 steps.")
print("First the update is compiled, which can take up to a minute.")
evaluation = EvalCallback(make_vec_env(TASK, seed=1), eval_freq=1_000, log_path=str(OUTPUT), verbose=0)
start = time.monotonic()
model.learn(20_000, callback=evaluation, progress_bar=True)
print(f"Trained in {time.monotonic() - start:.0f} s.\n")
model.save(OUTPUT / "agent")

report = evaluate(model, n_eval_episodes=20)
print(report)
(OUTPUT / "report.json").write_text(json.dumps(report.to_dict(), indent=2) + "\n")

record = record_episode(model, gym.make(TASK, render_mode="rgb_array"), seed=4)
angle = ["cos(angle): 1 is upright", "sin(angle)"]
timeline(record, OUTPUT / "timeline.png", dimensions=[0, 1], labels=angle, title=f"{TASK}: return {record.rewards.sum():.0f}")
evaluations = np.load(OUTPUT / "evaluations.npz")
curve = {"agent (5 episodes each, lowest to highest)": (evaluations["timesteps"], evaluations["results"].T)}
learning_curves(curve, OUTPUT / "learning_curve.png", title=TASK)

print("\nLook at")
for name, what in {
    "timeline.png": "which sub-policy was in force at which step of an episode",
    "learning_curve.png": "return over training",
    "report.json": "the table above as data",
    "agent.zip": f"the agent: sb3-asym evaluate {OUTPUT}/agent.zip --env {TASK}",
}.items():
    print(f"  {OUTPUT / name}: {what}")
