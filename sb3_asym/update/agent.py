"""What an update needs of the agent that it trains."""

from typing import Any, Protocol

import torch as th

from sb3_asym.policies import AsymSACPolicy


class Agent(Protocol):
    """
    An agent in training. Its attributes may change between two gradient steps.

    :param policy: networks and their optimizers
    :param device: where they are
    :param gamma: discount factor of one env step
    :param tau: step size of Polyak averaging, in (0, 1]
    :param use_sde: whether the actors explore with gSDE
    :param target_entropy: entropy that the coefficients α regulate towards
    :param log_ent_coef: ``(n_options,)`` log α, or None where α is fixed
    :param ent_coef_optimizer: its optimizer, or None
    :param ent_coef_tensor: the fixed α, scalar
    :param master: the master, of the kind that the critic needs
    :param fast_update: whether the compiled update is wanted; None for the default
    :param verbose: 1 to print a line where compiling starts, or falls back
    """

    policy: AsymSACPolicy
    device: th.device
    gamma: float
    tau: float
    use_sde: bool
    target_entropy: Any
    log_ent_coef: th.Tensor | None
    ent_coef_optimizer: th.optim.Adam | None
    ent_coef_tensor: Any
    master: Any
    fast_update: bool | None
    verbose: int
