"""Two SAC agents that exist already, and SB3's own DQN as the master over them: no AsymSAC involved."""

import argparse

import gymnasium as gym
from stable_baselines3 import DQN, SAC
from stable_baselines3.common.evaluation import evaluate_policy

from sb3_asym import OptionWrapper

parser = argparse.ArgumentParser(description=__doc__)
parser.add_argument("--timesteps", type=int, default=4_000, help="env steps for each SAC agent, options for DQN")
arguments = parser.parse_args()

for name, net_arch in {"small": [8, 8], "large": [64, 64]}.items():
    sac = SAC("MlpPolicy", "Pendulum-v1", learning_rate=1e-3, policy_kwargs={"net_arch": net_arch}, seed=0, device="cpu")
    sac.learn(arguments.timesteps, progress_bar=True)
    sac.save(f"outputs/wrapper/{name}")

sub_policies = [SAC.load(f"outputs/wrapper/{name}", device="cpu") for name in ("small", "large")]
env = OptionWrapper(gym.make("Pendulum-v1"), sub_policies, option_length=5, cost_coef=0.5, gamma=0.99)
# DQN sees each option as one step, so its discount factor is that of a whole option.
master = DQN("MlpPolicy", env, gamma=0.99**5, learning_starts=200, exploration_fraction=0.3, seed=0, device="cpu")
master.learn(arguments.timesteps, progress_bar=True)
mean, std = evaluate_policy(master, env, n_eval_episodes=10, warn=False)
print(f"Discounted return of the options, costs paid: {mean:.1f} ± {std:.1f}")
