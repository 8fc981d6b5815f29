"""λ learned for a budget: the least under which an agent that acts as deployed keeps to it."""

import math
import warnings
from collections import deque

import numpy as np
import torch as th
from stable_baselines3.common.type_aliases import PyTorchObs
from torch.utils._pytree import tree_map

from sb3_asym.advantage_network import AdvantageNetwork

DEPLOYED_SHARE = 0.25
"""Share of the episodes that are run as deployed."""
N_CHOICES = 300
"""Number of the latest choices by which the cost is measured."""
FEWEST_CHOICES = 30
N_HALVINGS = 16
TOO_DEAR, TOO_CHEAP = 0.2, 0.1
"""How much of what an episode cost too much or too little counts for the next ones."""


class Budget:
    """
    A budget, and what it is measured by: choices in episodes that are run as deployed, with mean actions and greedy choices.

    Noise in the actions leads into states where another option is worth its price, so the cost of an agent that explores is
    not that of the deployed one. λ is the least under which the choices in the latest such episodes cost ``target``: first the
    budget, then less where these episodes cost too much, as under another λ they would have led into other states, and more
    again where they cost too little, up to the budget.

    :param share: greatest mean cost per env step, as a share of the most expensive sub-policy's
    :param costs: costs c_ω of the options, and of the choice itself, as such shares, ``(n_options,)``
    :param n_envs: number of envs
    """

    def __init__(self, share: float, costs: np.ndarray, n_envs: int):
        if share < costs.min():
            warnings.warn(
                f"A budget of {share:.1%} cannot be kept: the cheapest sub-policy costs {costs.min():.1%} of the largest "
                "with the master.",
                stacklevel=2,
            )
        self.share, self.costs = share, costs
        self.as_deployed = self._drawn(n_envs)
        self.target = share
        self._observations: deque[PyTorchObs] = deque(maxlen=N_CHOICES)
        self._spent, self._n_choices = np.zeros(n_envs), np.zeros(n_envs)

    @staticmethod
    def _drawn(n_envs: int) -> np.ndarray:
        return np.random.rand(n_envs) < DEPLOYED_SHARE

    def count(self, ended: np.ndarray) -> None:
        """
        After a step, draw which of the episodes that start now are run as deployed.

        :param ended: ``(n_envs,)`` True where an episode ended
        """
        for env in np.flatnonzero(ended & self.as_deployed & (self._n_choices > 0)):
            excess = self._spent[env] / self._n_choices[env] - self.share
            correction = excess * (TOO_DEAR if excess > 0 else TOO_CHEAP)
            self.target = float(np.clip(self.target - correction, min(self.costs.min(), self.share), self.share))
        self._spent[ended] = self._n_choices[ended] = 0
        self.as_deployed = np.where(ended, self._drawn(len(ended)), self.as_deployed)

    def observe(self, obs: PyTorchObs, envs: np.ndarray, options: np.ndarray) -> None:
        """
        Remember where the deployed agent had to choose, and what it spent.

        :param obs: preprocessed observations, ``(n_obs, …)``
        :param envs: indices of their envs, ``(n_obs,)``
        :param options: the options that were chosen, ``(n_obs,)``
        """
        self._spent[envs] += self.costs[options]
        self._n_choices[envs] += 1
        for row in np.flatnonzero(self.as_deployed[envs]):
            self._observations.append(tree_map(lambda part, row=row: part[row], obs))

    @th.no_grad()
    def cost_coef(self, network: AdvantageNetwork) -> float | None:
        """
        The least λ of the dial that keeps to the budget, by the latest choices.

        :param network: the master's network
        :return: λ, or None where there are too few choices yet
        """
        if len(self._observations) < FEWEST_CHOICES:
            return None
        obs = tree_map(lambda *parts: th.stack(parts), *self._observations)
        assert network.dial is not None
        low, high = math.log(network.dial.low), math.log(network.dial.high)
        for _ in range(N_HALVINGS):
            middle = (low + high) / 2
            cost_coef = th.full((1, 1), math.exp(middle), device=network.device)
            options = network.net_advantages(obs, cost_coef).argmax(dim=1).cpu().numpy()
            low, high = (middle, high) if self.costs[options].mean() > self.target else (low, middle)
        return network.dial.clip(math.exp(high))
