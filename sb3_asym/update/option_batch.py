"""What the critic of options learns from.

Q(s, a, ω) is the return of the action a while option ω is in force, which ends after each step with probability 1/n, n being
the option's length; then the master chooses anew, at λ. An option is paid for where it is chosen, for its mean discounted
duration D = 1/(1 − γ (1 − 1/n)); so Q holds no charge that is known beforehand, and λ is a threshold of the choice::

    Q(s, a, ω; λ) ← r + γ [(1 − 1/n) V(s', ω; λ) + 1/n (V(s', μ; λ) − λ c_μ D)],   V(s, ω; λ) = Q(s, a ~ π_ω, ω; λ) − α log π_ω

which is the critic of the rewards r − λ c_ω less −λ c_ω D; what was paid for steps after the end of an episode is given back.
This is intra-option learning (Sutton, Precup & Singh 1999, section 6): as the env knows neither options nor λ, each transition
teaches the value of every option at every λ, whichever was in force, and hindsight goals change nothing. The master μ is
fitted to the differences of Q(s, a ~ π_ω, ω; λ) between the options.
"""

from typing import Any, NamedTuple

import numpy as np
import torch as th

from sb3_asym.advantage_network import AdvantageNetwork
from sb3_asym.buffers import Batch
from sb3_asym.options import mean_duration
from sb3_asym.update.losses import one_hot


class OptionBatch(NamedTuple):
    """
    Primitive transitions, each with an option and a λ.

    :param observations: ``(batch, …)``
    :param actions: actions with the option behind them, one-hot, and the positions, ``(batch, action_dim + n_options + …)``
    :param next_observations: ``(batch, …)``
    :param dones: 1 where the episode terminated, else 0, ``(batch, 1)``
    :param rewards: rewards, and what is given back at the end of an episode, ``(batch, 1)``
    :param discounts: None, as every transition is one step
    :param held: the option where it goes on, or -1 where the master chooses, ``(batch,)``
    :param cost_coefs: λ, ``(batch, 1)``
    :param positions: what the networks see of λ, ``(batch, 1)`` with a dial, ``(batch, 0)`` without
    """

    observations: Any
    actions: th.Tensor
    next_observations: Any
    dones: th.Tensor
    rewards: th.Tensor
    discounts: th.Tensor | None
    held: th.Tensor
    cost_coefs: th.Tensor
    positions: th.Tensor

    def behind(self, actions: th.Tensor, options: th.Tensor) -> th.Tensor:
        """
        Inputs of the critic.

        :param actions: ``(batch, action_dim)``
        :param options: options in force, one-hot, ``(batch, n_options)``
        :return: as the field ``actions``
        """
        return th.cat([actions, options, self.positions], dim=1)

    def paid(self, options: th.Tensor, prices: th.Tensor) -> th.Tensor:
        """
        What is paid at s'.

        :param options: options in force there, one-hot, ``(batch, n_options)``
        :param prices: c_ω D, ``(n_options,)``
        :return: λ c_ω D where the master chooses, 0 where the option goes on, ``(batch, 1)``
        """
        return (self.held < 0).unsqueeze(1) * self.cost_coefs * (options @ prices).unsqueeze(1)


def draw_options(
    batch: Batch, cost_coefs: np.ndarray, network: AdvantageNetwork, option_length: int, gamma: float
) -> OptionBatch:
    """
    Draw an option for each transition, and where it ends.

    :param batch: primitive transitions
    :param cost_coefs: λ of each, ``(batch,)``
    :param network: the master's network, with the prices
    :param option_length: mean length of an option, env steps
    :param gamma: discount factor of one env step
    :return: the transitions with their options
    """
    n, n_options = len(batch.rewards), len(network.prices)
    options = np.random.randint(n_options, size=n)
    held = np.where(np.random.rand(n) * option_length < 1, -1, options)
    device = batch.rewards.device
    in_force = one_hot(th.as_tensor(options, device=device), n_options)
    column = th.as_tensor(cost_coefs.astype(np.float32), device=device).unsqueeze(1)
    unused = 1 - 1 / mean_duration(option_length, gamma)
    given_back = batch.dones * column * (in_force @ network.prices).unsqueeze(1) * unused
    positions = network.positions(column)
    return OptionBatch(
        observations=batch.observations,
        actions=th.cat([batch.actions, in_force, positions], dim=1),
        next_observations=batch.next_observations,
        dones=batch.dones,
        rewards=batch.rewards + given_back,
        discounts=None,
        held=th.as_tensor(held, device=device),
        cost_coefs=column,
        positions=positions,
    )
