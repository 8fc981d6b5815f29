"""A task in which it matters that an option is held, for ``critic_target.py`` and the tests."""

from typing import Any

import gymnasium as gym
import numpy as np
from gymnasium import spaces


class Risky(gym.Env):
    """
    In a calm state, actions above 0.5 earn 1 and lead into one of two troubled ones, each of which costs 10 a step until an
    action below -0.5. A linear actor that is risky in the calm state between both can leave one of them only.
    """

    observation_space = spaces.Box(-1.0, 1.0, (1,))
    action_space = spaces.Box(-1.0, 1.0, (1,))

    def reset(self, *, seed: int | None = None, options: dict[str, Any] | None = None) -> tuple[np.ndarray, dict[str, Any]]:
        """Begin in the calm state."""
        super().reset(seed=seed)
        self.steps, self.trouble = 0, 0
        return self._observation(), {}

    def step(self, action: np.ndarray) -> tuple[np.ndarray, float, bool, bool, dict[str, Any]]:
        """A step of 40."""
        self.steps += 1
        reward = 0.0
        if self.trouble == 0 and action[0] > 0.5:
            self.trouble, reward = int(self.np_random.choice([-1, 1])), 1.0
        elif self.trouble != 0:
            reward = 0.0 if action[0] < -0.5 else -10.0
            self.trouble = self.trouble if reward < 0 else 0
        return self._observation(), reward, False, self.steps == 40, {}

    def _observation(self) -> np.ndarray:
        return np.array([self.trouble], dtype=np.float32)


gym.register("Risky-v0", Risky)
