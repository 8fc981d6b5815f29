"""A robot arm with goals: hindsight experience replay, relabelled for the sub-policies and the master alike."""

import argparse

import gymnasium as gym
import gymnasium_robotics
from stable_baselines3 import HerReplayBuffer

from sb3_asym import AsymSAC, evaluate

parser = argparse.ArgumentParser(description=__doc__)
parser.add_argument("--timesteps", type=int, default=6_000)
arguments = parser.parse_args()

gym.register_envs(gymnasium_robotics)
model = AsymSAC(
    "MultiInputPolicy",
    "FetchReach-v4",
    cost_coef=0.02,
    gamma=0.95,
    learning_rate=1e-3,
    learning_starts=500,
    replay_buffer_class=HerReplayBuffer,
    replay_buffer_kwargs={"n_sampled_goal": 4, "goal_selection_strategy": "future"},
    policy_kwargs={"sub_net_archs": {"small": [8, 8], "large": [64, 64]}},
    seed=0,
    device="cpu",
)
model.learn(arguments.timesteps, progress_bar=True)
print(evaluate(model, n_eval_episodes=20))
