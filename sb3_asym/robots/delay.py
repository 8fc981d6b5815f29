"""Commands that take effect later."""

from collections import deque

import numpy as np


class CommandDelay:
    """
    A queue between commands and their effect.

    :param n_steps: steps from a command to its effect
    :param rest: command in effect before the first one
    :raises ValueError: if the delay is negative
    """

    def __init__(self, n_steps: int, rest: np.ndarray):
        if n_steps < 0:
            raise ValueError(f"A delay must be at least 0, got {n_steps} steps.")
        self._n_steps, self._rest = n_steps, rest
        self.reset()

    def reset(self) -> None:
        """Forget all commands."""
        self._commands = deque([self._rest] * self._n_steps)

    def __call__(self, command: np.ndarray) -> np.ndarray:
        """
        Take a command.

        :param command: the newest one
        :return: the one that takes effect now
        """
        self._commands.append(command)
        return self._commands.popleft()
