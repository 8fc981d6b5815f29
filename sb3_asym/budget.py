"""λ steered so that an agent spends its budget, and the λ with which it begins."""

import warnings

import numpy as np

from sb3_asym.cost_coef import Dial

DEPLOYED_SHARE = 0.25
"""Share of the episodes that are run as deployed."""
AVERAGING = 0.2
"""How far an episode moves the λ with which an agent begins, on the logarithmic scale, to the one with which it ended."""


class Account:
    """
    What several envs spend of their budgets: λ of each is steered by it (:meth:`sb3_asym.cost_coef.Dial.steer`).

    :param share: the budget, mean cost per env step, as a share of the largest sub-policy's
    :param costs: costs of the options, their choice included, as such shares, ``(n_options,)``
    :param dial: range of λ
    :param option_length: env steps for which an option is held
    :param cost_coefs: λ for the coming choices, ``(n_envs,)``
    """

    def __init__(self, share: float, costs: np.ndarray, dial: Dial, option_length: int, cost_coefs: np.ndarray):
        self.share, self.costs, self.dial, self.option_length, self.cost_coefs = share, costs, dial, option_length, cost_coefs

    def spend(self, envs: np.ndarray, options: np.ndarray) -> None:
        """
        Steer λ by what was chosen.

        :param envs: indices of envs, ``(n_chosen,)``
        :param options: the options that were chosen in them, ``(n_chosen,)``
        """
        excess = self.costs[options] - self.share
        self.cost_coefs[envs] = self.dial.steer(self.cost_coefs[envs], excess, self.option_length)


class Budget(Account):
    """
    The accounts of envs in training.

    A part of the episodes are run as deployed, with mean actions and greedy choices, as noise in the actions leads into
    states where another option is worth its price. Each of them begins with the λ with which the last one ended. The moving
    average of these is ``start``, with which the others and the deployed agent begin.

    :param share: as for ``Account``
    :param costs: as for ``Account``
    :param dial: as for ``Account``
    :param option_length: as for ``Account``
    :param start: λ with which the first episodes begin
    :param n_envs: number of envs
    """

    def __init__(self, share: float, costs: np.ndarray, dial: Dial, option_length: int, start: float, n_envs: int):
        if share < costs.min():
            warnings.warn(
                f"A budget of {share:.1%} cannot be kept: the cheapest sub-policy costs {costs.min():.1%} of the largest "
                "with the master.",
                stacklevel=2,
            )
        super().__init__(share, costs, dial, option_length, np.full(n_envs, start))
        self.start = self._last = start
        self.as_deployed = self._drawn(n_envs)

    @staticmethod
    def _drawn(n_envs: int) -> np.ndarray:
        return np.random.rand(n_envs) < DEPLOYED_SHARE

    def end_episodes(self, ended: np.ndarray) -> None:
        """
        Learn from episodes that ended, and draw which of those that start now are run as deployed.

        :param ended: ``(n_envs,)`` True where an episode ended
        """
        for end in self.cost_coefs[ended & self.as_deployed]:
            self.start *= (end / self.start) ** AVERAGING
            self._last = end
        self.as_deployed = np.where(ended, self._drawn(len(ended)), self.as_deployed)
        self.cost_coefs[ended] = np.where(self.as_deployed, self._last, self.start)[ended]
