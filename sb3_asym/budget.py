"""λ learned for a budget: the least under which an agent that acts as deployed keeps to it."""

import math
from collections import deque

import numpy as np
import torch as th
from stable_baselines3.common.type_aliases import PyTorchObs
from torch.utils._pytree import tree_map

from sb3_asym.advantage_network import AdvantageNetwork

DEPLOYED_SHARE = 0.25
"""Share of the episodes that are run as deployed."""
LONGEST_EPISODE = 1000
"""Mean number of env steps after which it is drawn anew whether an env runs as deployed, where no episode ends."""
N_CHOICES = 300
"""Number of the latest choices by which the cost is measured."""
FEWEST_CHOICES = 30
N_HALVINGS = 16


class Budget:
    """
    A budget, and what it is measured by: choices in episodes that are run as deployed, with mean actions and greedy choices.

    Noise in the actions leads into states where another option is worth its price, so the cost of an agent that explores is
    not that of the deployed one.

    :param share: greatest mean cost per env step, as a share of the most expensive sub-policy's
    :param costs: costs c_ω of the options, and of the choice itself, as such shares, ``(n_options,)``
    :param n_envs: number of envs
    """

    def __init__(self, share: float, costs: np.ndarray, n_envs: int):
        self.share, self.costs = share, costs
        self.as_deployed = self._drawn(n_envs)
        self._observations: deque[PyTorchObs] = deque(maxlen=N_CHOICES)

    @staticmethod
    def _drawn(n_envs: int) -> np.ndarray:
        return np.random.rand(n_envs) < DEPLOYED_SHARE

    def count(self, dones: np.ndarray) -> None:
        """
        After a step, draw which of the episodes that start now are run as deployed.

        :param dones: ``(n_envs,)`` True where an episode ended
        """
        ended = dones | (np.random.rand(len(dones)) * LONGEST_EPISODE < 1)
        self.as_deployed = np.where(ended, self._drawn(len(dones)), self.as_deployed)

    def observe(self, obs: PyTorchObs, envs: np.ndarray) -> None:
        """
        Remember where the deployed agent had to choose.

        :param obs: preprocessed observations, ``(n_obs, …)``
        :param envs: indices of their envs, ``(n_obs,)``
        """
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
            low, high = (middle, high) if self.costs[options].mean() > self.share else (low, middle)
        return network.dial.clip(math.exp(high))
