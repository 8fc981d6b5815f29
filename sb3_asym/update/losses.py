"""The losses of SAC for one actor and its critics.

Sources: SAC with learned entropy coefficient, Haarnoja et al. 2018b (arXiv 1812.05905), equations 5 to 18, as SB3 writes
them.
"""

from collections.abc import Sequence

import torch as th
from stable_baselines3.sac.policies import LOG_STD_MAX, LOG_STD_MIN
from torch.nn import functional as F

SCALE_RATE = 0.005
"""Weight of one batch in the moving average of the advantages' mean square."""


def entropy_loss(log_ent_coef: th.Tensor, log_prob: th.Tensor, target_entropy: float) -> th.Tensor:
    """
    Temperature loss (Haarnoja et al. 2018b, equation 18), which SB3 takes in log α.

    :param log_ent_coef: log α of one sub-policy, scalar
    :param log_prob: log π(a|s), ``(batch,)``
    :param target_entropy: entropy that α regulates towards
    :return: scalar loss
    """
    return -(log_ent_coef * (log_prob.detach() + target_entropy)).mean()


def least(q_values: Sequence[th.Tensor]) -> th.Tensor:
    """
    The least of the q-networks' values, min_i Q_i(s, a).

    :param q_values: one ``(batch, 1)`` tensor for each q-network
    :return: ``(batch, 1)``
    """
    return th.cat(tuple(q_values), dim=1).min(dim=1, keepdim=True).values


def soft_value(q_values: Sequence[th.Tensor], log_prob: th.Tensor, ent_coef: th.Tensor) -> th.Tensor:
    """
    Soft state value (equation 3) with the minimum over the critics: min_i Q_i(s, a) − α log π(a|s).

    :param q_values: one ``(batch, 1)`` tensor for each q-network
    :param log_prob: ``(batch,)``
    :param ent_coef: α, scalar or ``(batch,)``
    :return: ``(batch, 1)``
    """
    return least(q_values) - (ent_coef * log_prob).reshape(-1, 1)


def critic_loss(q_values: Sequence[th.Tensor], target: th.Tensor) -> th.Tensor:
    """
    Soft Bellman residual (equation 5), summed over the q-networks.

    :param q_values: one ``(batch, 1)`` tensor for each q-network
    :param target: ``(batch, 1)``
    :return: scalar loss
    """
    return 0.5 * th.stack([F.mse_loss(q, target) for q in q_values]).sum()


def one_hot(options: th.Tensor, n_options: int) -> th.Tensor:
    """
    Options as a critic sees them.

    :param options: ``(batch,)``
    :param n_options: number of options
    :return: ``(batch, n_options)`` float32
    """
    return (options.unsqueeze(1) == th.arange(n_options, device=options.device)).float()


def advantage_loss(advantages: th.Tensor, values: th.Tensor, scale: th.Tensor) -> tuple[th.Tensor, th.Tensor]:
    """
    Squared error of the advantages A(s, ω) = Q(s, ω) − mean_ω Q(s, ω), in units of their spread: what a choice hangs on is
    small beside the values, and of any size.

    :param advantages: outputs of the network, ``(batch, n_options)``; only their differences count
    :param values: values Q(s, ω) of the options, ``(batch, n_options)``
    :param scale: root of the mean square of A until now, scalar
    :return: scalar loss, and the new ``scale``, a moving average
    """
    gaps = values - values.mean(dim=1, keepdim=True)
    new_scale = scale.square().lerp(gaps.square().mean(), SCALE_RATE).sqrt().clamp(min=1e-6)
    return F.mse_loss(advantages - advantages.mean(dim=1, keepdim=True), gaps / new_scale), new_scale


def squashed_gaussian(outputs: th.Tensor, noise: th.Tensor) -> tuple[th.Tensor, th.Tensor]:
    """
    Action and log-probability of SAC's actor (Haarnoja et al. 2018b, appendix C), as SB3 computes them.

    :param outputs: mean and log-std side by side, ``(batch, 2 · action_dim)``
    :param noise: standard normal, ``(batch, action_dim)``
    :return: actions ``(batch, action_dim)`` and log-probabilities ``(batch,)``
    """
    mean, log_std = outputs.chunk(2, dim=-1)
    log_std = log_std.clamp(LOG_STD_MIN, LOG_STD_MAX)
    actions = th.tanh(mean + log_std.exp() * noise)
    log_normal = -0.5 * noise.square() - log_std - 0.9189385332046727
    return actions, (log_normal - th.log(1 - actions.square() + 1e-6)).sum(dim=-1)
