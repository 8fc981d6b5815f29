"""How an actor explores with a block of weights, in the way of SB3's off-policy algorithms."""

from typing import Any

import numpy as np

from sb3_asym.acting.kernels import Kernel
from sb3_asym.acting.networks import Layout
from sb3_asym.options import NO_OPTION, OptionState, advance_options

LOG_STD_MIN, LOG_STD_MAX = -20, 2
"""Bounds of SAC's log standard deviations, as in SB3."""


class ActingPolicy:
    """
    A policy in the precision of the actors.

    :param layout: layout of its blocks
    :param kernel: what runs its networks
    :param is_gaussian: whether sub-policies put out means and log standard deviations, before the squashing
    """

    def __init__(self, layout: Layout, kernel: Kernel, is_gaussian: bool):
        self.agent, self._kernel, self._layout, self._is_gaussian = layout.agent, kernel, layout, is_gaussian
        self._master = len(layout.n_outputs) - 1 if layout.has_master else None
        self._normalization: Any = None
        self.exploration_rate = 0.0

    def load(self, block: np.ndarray) -> None:
        """
        Take new weights.

        :param block: block of weights, which stays as it is until the next one is loaded
        """
        self._kernel.load(block)
        _, self._normalization, self.exploration_rate = self._layout.read(block)

    def inputs(self, observation: np.ndarray | dict[str, np.ndarray], normalize: bool = True) -> np.ndarray:
        """
        Inputs of the networks.

        :param observation: a single observation
        :param normalize: whether it is still to be normalized
        :return: ``(obs_dim,)`` float32
        """
        x = self.agent.flatten(observation)
        if normalize and self._normalization is not None:
            mean, gain, clip = self._normalization.mean, self._normalization.gain, self._normalization.clip
            x = np.minimum(np.maximum((x - mean) * gain, -clip), clip)
        return x

    def explore(self, x: np.ndarray, state: OptionState | None) -> tuple[np.ndarray, OptionState | None]:
        """
        An action as the algorithm explores: a sample of the squashed Gaussian, or the action of a deterministic policy, to
        which action noise is added elsewhere; ε-greedy for q-values, and for the master's choice of an option.

        :param x: inputs of the networks
        :param state: state of the option clock, with one row, or None where an episode starts
        :return: action in [-1, 1] or index, ``(action_dim,)``, and the state of the option clock
        """
        return self._act(x, state, deterministic=False)

    def exploit(self, x: np.ndarray, state: OptionState | None) -> tuple[np.ndarray, OptionState | None]:
        """
        The action without exploration.

        :param x: inputs of the networks
        :param state: state of the option clock, with one row, or None where an episode starts
        :return: action in [-1, 1] or index, ``(action_dim,)``, and the state of the option clock
        """
        return self._act(x, state, deterministic=True)

    def _act(self, x: np.ndarray, state: OptionState | None, deterministic: bool) -> tuple[np.ndarray, OptionState | None]:
        option = 0
        if self._master is not None:
            if state is None or state.steps_left[0] <= 0:
                chosen = self._choose(self._master, x, deterministic)
                state = advance_options(None, None, 1, self.agent.option_length, lambda _: chosen)
            else:
                state = OptionState(state.option, state.steps_left - 1)
            option = int(state.option[0])
        if self.agent.output == "argmax":
            return np.array([self._choose(option, x, deterministic)]), state
        y = self._kernel.run(option, x)
        if not self._is_gaussian:
            return y.copy(), state
        mean, log_std = y[: self.agent.action_dim], y[self.agent.action_dim :]
        if deterministic:
            return np.tanh(mean), state
        noise = np.random.standard_normal(len(mean)).astype(np.float32)
        return np.tanh(mean + np.exp(np.minimum(np.maximum(log_std, LOG_STD_MIN), LOG_STD_MAX)) * noise), state

    def _choose(self, network: int, x: np.ndarray, deterministic: bool) -> int:
        """The index of the greatest output; ε-greedy where it explores."""
        if not deterministic and np.random.random() < self.exploration_rate:
            return int(np.random.randint(self._layout.n_outputs[network]))
        return int(self._kernel.run(network, x).argmax())


def clock_of(state: OptionState | None) -> tuple[int, int]:
    """
    The option clock as it is stored with a transition.

    :param state: state of the option clock, with one row, or None
    :return: option in force, or ``NO_OPTION``, and its steps left
    """
    return (NO_OPTION, 0) if state is None else (int(state.option[0]), int(state.steps_left[0]))
