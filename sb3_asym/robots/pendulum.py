"""Gymnasium's pendulum with the dynamics to set: a task that is learned in minutes."""

from typing import Any

import numpy as np
from gymnasium.envs.classic_control.pendulum import PendulumEnv

from sb3_asym.robots.delay import CommandDelay


class ChangedPendulum(PendulumEnv):
    """
    ``Pendulum-v1`` with another mass, length, friction and delay.

    :param mass: mass, kg (Pendulum-v1: 1)
    :param length: length, m (Pendulum-v1: 1)
    :param friction: viscous friction of the joint, N·m·s (Pendulum-v1: 0)
    :param delay: control steps of 50 ms from a command to its torque (Pendulum-v1: 0)
    :param render_mode: as in Gymnasium
    :raises ValueError: if a number is out of range
    """

    def __init__(
        self, mass: float = 1.0, length: float = 1.0, friction: float = 0.0, delay: int = 0, render_mode: str | None = None
    ):
        if min(mass, length) <= 0 or friction < 0:
            raise ValueError("mass and length must be above 0, and friction at least 0.")
        super().__init__(render_mode=render_mode)
        self.m, self.l, self.friction = mass, length, friction
        self._delay = CommandDelay(delay, np.zeros(1, dtype=np.float32))

    def step(self, u: np.ndarray) -> tuple[np.ndarray, Any, bool, bool, dict[str, Any]]:
        """Apply a torque for one control step of 50 ms."""
        inertia = self.m * self.l**2 / 3
        _, reward, *rest = super().step(self._delay(np.clip(u, -self.max_torque, self.max_torque)))
        angle, new_spin = self.state
        # Implicit, so that any friction is stable.
        self.state = np.array([angle, new_spin / (1 + self.friction * self.dt / inertia)])
        return self._get_obs(), reward, *rest

    def reset(self, *, seed: int | None = None, options: dict | None = None) -> tuple[np.ndarray, dict]:
        """Start at a random angle."""
        self._delay.reset()
        return super().reset(seed=seed, options=options)

    def safe_stop(self) -> None:
        """Take the torque off."""
        self._delay.reset()
        self.last_u = 0.0
