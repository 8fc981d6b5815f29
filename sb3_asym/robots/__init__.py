"""Simulated robots whose dynamics can be set.

Importing this module registers ``CartPoleSwingUp-v0`` (which needs the extra ``mujoco``) and ``ChangedPendulum-v0``.
"""

import gymnasium as gym

gym.register("CartPoleSwingUp-v0", "sb3_asym.robots.cart_pole:CartPoleSwingUp", max_episode_steps=250)
gym.register("ChangedPendulum-v0", "sb3_asym.robots.pendulum:ChangedPendulum", max_episode_steps=200)
