"""Observations that carry the last actions."""

import gymnasium as gym
import numpy as np
from gymnasium import spaces
from gymnasium.utils import RecordConstructorArgs


class ActionHistory(gym.Wrapper, RecordConstructorArgs):
    """
    Appends the last actions to the observation, newest last.

    A robot acts on what it saw a period ago, and its commands take effect later still; with as many actions as the delay has
    steps, the observation tells all there is to know. Cao et al. 2022 (arXiv 2203.02230) append five.

    Example::

        env = ActionHistory(gym.make("Pendulum-v1"), 5)

    :param env: env whose observations and actions are vectors
    :param k: number of actions
    :raises ValueError: if k is below 1, or a space is no vector
    """

    def __init__(self, env: gym.Env, k: int = 5):
        RecordConstructorArgs.__init__(self, k=k)
        gym.Wrapper.__init__(self, env)
        if not isinstance(k, int | np.integer) or k < 1:
            raise ValueError(f"k must be an integer of at least 1 action, got {k!r}.")
        observed, acted = env.observation_space, env.action_space
        for space in (observed, acted):
            if not isinstance(space, spaces.Box) or len(space.shape) != 1:
                raise ValueError(f"ActionHistory needs vectors as observations and actions, got the space {space}.")
        assert isinstance(observed, spaces.Box)
        assert isinstance(acted, spaces.Box)
        low, high = (
            np.concatenate([own, *[bound] * k]) for own, bound in ((observed.low, acted.low), (observed.high, acted.high))
        )
        self.observation_space = spaces.Box(low, high, dtype=np.float32)
        rest = np.clip(np.zeros_like(acted.low), acted.low, acted.high)
        self._at_rest = np.tile(rest, (k, 1)).astype(np.float32)
        self._actions = self._at_rest.copy()

    def reset(self, *, seed: int | None = None, options: dict | None = None) -> tuple[np.ndarray, dict]:
        """Reset the env and forget all actions; the nearest to 0 stands in for them."""
        self._actions = self._at_rest.copy()
        observation, info = self.env.reset(seed=seed, options=options)
        return self._observation(observation), info

    def step(self, action: np.ndarray) -> tuple:
        """Step the env, and append the action to what it returns."""
        self._actions = np.concatenate([self._actions[1:], np.asarray(action, dtype=np.float32)[None]])
        observation, *rest = self.env.step(action)
        return self._observation(observation), *rest

    def _observation(self, observation: np.ndarray) -> np.ndarray:
        return np.concatenate([observation, self._actions.ravel()]).astype(np.float32)
