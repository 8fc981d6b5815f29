"""A MuJoCo task in which a large network is seldom needed, by construction, for ``switching.py``."""

from typing import Any

import gymnasium as gym
import numpy as np

from sb3_asym.robots.cart_pole import CartPoleSwingUp


class KnockedCartPole(CartPoleSwingUp):
    """
    A pole that stands, for which a handful of units is enough, and now and then is knocked over, whereupon it has to be swung
    up again, for which they are not. A step is as good as the pole stands, so both parts count.

    :param period: mean time between two knocks, s
    :param spin: angular velocity that a knock gives, rad/s
    :param kwargs: arguments of :class:`sb3_asym.robots.cart_pole.CartPoleSwingUp`
    """

    def __init__(self, period: float = 6.0, spin: float = 6.0, **kwargs: Any):
        super().__init__(**{"rail": 1.5, **kwargs})
        self._rate, self._spin = 1 / (period * self.metadata["render_fps"]), spin

    def step(self, action: np.ndarray) -> tuple[np.ndarray, Any, bool, bool, dict[str, Any]]:
        """A step of the robot, and perhaps a knock after it."""
        if self.np_random.random() < self._rate:
            velocity = self.data.qvel.copy()
            velocity[1] += self._spin * self.np_random.choice([-1.0, 1.0])
            self.set_state(self.data.qpos.copy(), velocity)
        return super().step(action)

    def reset_model(self) -> np.ndarray:
        """Let the pole stand in the middle of the rail, nearly at rest."""
        super().reset_model()
        self.set_state(self.np_random.uniform(-0.05, 0.05, size=2), self.np_random.uniform(-0.05, 0.05, size=2))
        return self._observation()


gym.register("KnockedCartPole-v0", KnockedCartPole, max_episode_steps=600)
