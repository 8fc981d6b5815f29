"""Writes what this version saves, for tests of later ones: ``python tests/data/make.py`` makes ``tests/data/<version>/``."""

from pathlib import Path

import gymnasium as gym
import gymnasium_robotics
import numpy as np
from stable_baselines3 import HerReplayBuffer

from sb3_asym import AsymSAC, __version__
from sb3_asym.export import export_c, export_onnx

folder = Path(__file__).parent / __version__
tiny = dict(
    policy_kwargs=dict(sub_net_archs=dict(small=[4], large=[8]), critic_net_arch=[8], master_net_arch=[4]),
    learning_starts=20,
    batch_size=8,
    buffer_size=200,
    option_length=3,
    fast_update=False,
    seed=0,
    device="cpu",
)
agent = AsymSAC("MlpPolicy", "Pendulum-v1", **tiny).learn(61)
agent.save(folder / "agent")
agent.save_replay_buffer(folder / "memory")
observations = np.random.default_rng(0).normal(size=(20, 3)).astype(np.float32)
actions, state = [], None
for observation in observations:
    action, state = agent.predict(observation, state, deterministic=True)
    actions.append(action)
np.savez(folder / "predictions.npz", observations=observations, actions=actions)
export_c(agent, folder / "export_c", env="Pendulum-v1", n_eval_episodes=1)
export_onnx(agent, folder / "export_onnx", env="Pendulum-v1", n_eval_episodes=1)
gym.register_envs(gymnasium_robotics)
hindsight = dict(policy="MultiInputPolicy", replay_buffer_class=HerReplayBuffer)
her = AsymSAC(env="FetchReach-v4", **{**tiny, "batch_size": 4, "learning_starts": 55, **hindsight}).learn(101)
her.save(folder / "her_agent")
her.save_replay_buffer(folder / "her_memory")
