"""A task in which it matters that an option is held, for ``critic_target.py`` and the tests."""

from typing import Any

import gymnasium as gym
import numpy as np
from gymnasium import spaces

TROUBLES = np.array([[-1, -1], [-1, 1], [1, -1], [1, 1]], dtype=np.float32)


class Risky(gym.Env):
    """
    In the calm state (0, 0), actions above 0.5 earn 3 and lead into one of four troubled states, each of which costs 10 a step
    until an action beyond ±0.5 has the sign of the product of its coordinates. Episodes of 40 steps begin in any state.

    A linear actor finds the way out of three troubled states at best, whether it takes the risk in the calm one or not.
    """

    observation_space = spaces.Box(-1.0, 1.0, (2,))
    action_space = spaces.Box(-1.0, 1.0, (1,))

    def reset(self, *, seed: int | None = None, options: dict[str, Any] | None = None) -> tuple[np.ndarray, dict[str, Any]]:
        """Begin in any state."""
        super().reset(seed=seed)
        self.steps = 0
        self.state = self.np_random.choice([*TROUBLES, np.zeros(2, dtype=np.float32)])
        return self.state, {}

    def step(self, action: np.ndarray) -> tuple[np.ndarray, float, bool, bool, dict[str, Any]]:
        """Take or leave the risk, or try to get out of trouble."""
        self.steps += 1
        reward = 0.0
        if not self.state.any():
            if action[0] > 0.5:
                self.state, reward = self.np_random.choice(TROUBLES), 3.0
        elif action[0] * self.state.prod() > 0.5:
            self.state = np.zeros_like(self.state)
        else:
            reward = -10.0
        return self.state, reward, False, self.steps == 40, {}


gym.register("Risky-v0", Risky)
