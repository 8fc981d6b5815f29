"""What the critic of options learns from.

Q(s, a, ω) is the value of the action a while option ω is in force, which ends after each step with probability 1/n, n being
the option's length; then the master chooses anew. Rewards are net of the cost::

    Q(s, a, ω) ← r − λ c_ω + γ [(1 − 1/n) V(s', ω) + 1/n V(s', μ(s'))],  V(s, ω) = Q(s, a', ω) − α log π_ω(a'|s), a' ~ π_ω

This is intra-option learning (Sutton, Precup & Singh 1999, section 6): as the env does not know of options, each transition
teaches the value of every option, whichever was in force, and hindsight goals change nothing. The master μ is fitted to the
differences of Q(s, a ~ π_ω, ω) between the options.
"""

from typing import Any, NamedTuple

import numpy as np
import torch as th

from sb3_asym.buffers import Batch
from sb3_asym.update.losses import with_options


class OptionBatch(NamedTuple):
    """
    Primitive transitions, each with an option.

    :param observations: ``(batch, …)``
    :param actions: actions with the option behind them, one-hot, ``(batch, action_dim + n_options)``
    :param next_observations: ``(batch, …)``
    :param dones: 1 where the episode terminated, else 0, ``(batch, 1)``
    :param rewards: rewards less the option's charge, ``(batch, 1)``
    :param discounts: None, as every transition is one step
    :param held: the option where it goes on, or -1 where the master chooses, ``(batch,)``
    """

    observations: Any
    actions: th.Tensor
    next_observations: Any
    dones: th.Tensor
    rewards: th.Tensor
    discounts: th.Tensor | None
    held: th.Tensor


def draw_options(batch: Batch, charges: np.ndarray, option_length: int) -> OptionBatch:
    """
    Draw an option for each transition, and where it ends.

    :param batch: primitive transitions
    :param charges: λ c_ω, in the units of the rewards, ``(n_options,)``
    :param option_length: mean length of an option, env steps
    :return: the transitions with their options
    """
    n, n_options = len(batch.rewards), len(charges)
    options = np.random.randint(n_options, size=n)
    held = np.where(np.random.rand(n) * option_length < 1, -1, options)
    device = batch.rewards.device
    return OptionBatch(
        observations=batch.observations,
        actions=with_options(batch.actions, th.as_tensor(options, device=device), n_options),
        next_observations=batch.next_observations,
        dones=batch.dones,
        rewards=batch.rewards - th.as_tensor(charges[options].astype(np.float32), device=device).unsqueeze(1),
        discounts=None,
        held=th.as_tensor(held, device=device),
    )
