"""λ over the episodes of training: drawn for a dial, steered for a budget."""

import warnings

import numpy as np

from sb3_asym.cost_coef import Dial

DEPLOYED_SHARE = 0.25
"""Share of the episodes that are run as deployed, with a budget."""
AVERAGING = 0.2
"""How far an episode moves the λ with which an agent begins, on the logarithmic scale, to the one with which it ended."""


class ActingCostCoefs:
    """
    λ of each env over the episodes of training.

    :param dial: range of λ
    :param cost_coefs: λ to begin with, ``(n_envs,)``
    """

    def __init__(self, dial: Dial, cost_coefs: np.ndarray):
        self.dial, self.cost_coefs = dial, cost_coefs
        self.as_deployed = np.zeros(len(cost_coefs), dtype=bool)
        """True for envs whose episode is run as deployed, with mean actions and greedy choices, ``(n_envs,)``."""

    def spend(self, options: np.ndarray) -> None:
        """
        After an env step.

        :param options: options that were in force, ``(n_envs,)``, negative where there was none
        """

    def end_episodes(self, ended: np.ndarray) -> None:
        """
        Where episodes ended, others begin.

        :param ended: ``(n_envs,)`` True where an episode ended
        """


class DrawnCostCoefs(ActingCostCoefs):
    """
    Where a dial is learned, each episode is under another λ.

    :param dial: range of λ
    :param n_envs: number of envs
    """

    def __init__(self, dial: Dial, n_envs: int):
        super().__init__(dial, dial.draw(n_envs))

    def end_episodes(self, ended: np.ndarray) -> None:
        """
        Draw λ of the episodes that begin.

        :param ended: ``(n_envs,)`` True where an episode ended
        """
        self.cost_coefs = np.where(ended, self.dial.draw(len(ended)), self.cost_coefs)


class Budget(ActingCostCoefs):
    """
    Where a budget is learned, λ is steered by what is spent (:meth:`sb3_asym.cost_coef.Dial.steer`).

    A part of the episodes are run as deployed, as noise in the actions leads into states where another option is worth its
    price. Each of them begins with the λ with which the last one ended. The moving average of these is ``start``, with which
    the others and the deployed agent begin.

    :param dial: range of λ
    :param n_envs: number of envs
    :param share: mean cost per env step, as a share of the largest sub-policy's
    :param costs: costs of the options, their choice included, as such shares, ``(n_options,)``
    :param option_length: env steps for which an option is held
    :param start: λ with which the first episodes begin
    """

    def __init__(self, dial: Dial, n_envs: int, share: float, costs: np.ndarray, option_length: int, start: float):
        if share < costs.min():
            warnings.warn(
                f"A budget of {share:.1%} cannot be kept: the cheapest sub-policy costs {costs.min():.1%} of the largest "
                "with the master.",
                stacklevel=2,
            )
        super().__init__(dial, np.full(n_envs, start))
        self.share, self.costs, self.option_length = share, costs, option_length
        self.start = self._last = start
        self.as_deployed = np.random.rand(n_envs) < DEPLOYED_SHARE
        self._has_acted = np.zeros(n_envs, dtype=bool)

    def spend(self, options: np.ndarray) -> None:
        """
        After an env step, steer λ.

        :param options: options that were in force, ``(n_envs,)``, negative where there was none
        """
        steered = self.dial.steer(self.cost_coefs, self.costs[options] - self.share, self.option_length)
        self.cost_coefs = np.where(options < 0, self.cost_coefs, steered)
        self._has_acted |= options >= 0

    def end_episodes(self, ended: np.ndarray) -> None:
        """
        Learn from episodes that ended, where a sub-policy acted, and draw which of those that begin are run as deployed.

        :param ended: ``(n_envs,)`` True where an episode ended
        """
        for end in self.cost_coefs[ended & self.as_deployed & self._has_acted]:
            self.start *= (end / self.start) ** AVERAGING
            self._last = end
        self._has_acted &= ~ended
        self.as_deployed = np.where(ended, np.random.rand(len(ended)) < DEPLOYED_SHARE, self.as_deployed)
        begun = np.where(self.as_deployed, self._last, self.start)
        self.cost_coefs = np.where(ended, begun, self.cost_coefs)
