"""How the sub-policies learn: the losses of SAC for K actors, and the plain update that applies them.

Sources: SAC with learned entropy coefficient, Haarnoja et al. 2018b (arXiv 1812.05905), equations 5 to 18, as SB3 writes
them; separate critics, Chang et al. 2021 (arXiv 2105.14471).
"""

from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING

import torch as th
from stable_baselines3.common.utils import get_parameters_by_name, polyak_update
from torch.nn import functional as F

from sb3_asym.buffers import Batch

if TYPE_CHECKING:
    from sb3_asym.asym_sac import AsymSAC


def entropy_loss(log_ent_coef: th.Tensor, log_prob: th.Tensor, target_entropy: float) -> th.Tensor:
    """
    Temperature loss (Haarnoja et al. 2018b, equation 18), which SB3 takes in log α.

    :param log_ent_coef: log α of one sub-policy, scalar
    :param log_prob: log π(a|s), ``(batch,)``
    :param target_entropy: entropy that α regulates towards
    :return: scalar loss
    """
    return -(log_ent_coef * (log_prob.detach() + target_entropy)).mean()


def soft_value(q_values: Sequence[th.Tensor], log_prob: th.Tensor, ent_coef: th.Tensor) -> th.Tensor:
    """
    Soft state value (equation 3) with the minimum over the critics: min_i Q_i(s, a) − α log π(a|s).

    :param q_values: one ``(batch, 1)`` tensor for each q-network
    :param log_prob: ``(batch,)``
    :param ent_coef: α, scalar or ``(batch,)``
    :return: ``(batch, 1)``
    """
    minimum = th.cat(tuple(q_values), dim=1).min(dim=1, keepdim=True).values
    return minimum - (ent_coef * log_prob).reshape(-1, 1)


def critic_loss(q_values: Sequence[th.Tensor], target: th.Tensor) -> th.Tensor:
    """
    Soft Bellman residual (equation 5), summed over the q-networks.

    :param q_values: one ``(batch, 1)`` tensor for each q-network
    :param target: ``(batch, 1)``
    :return: scalar loss
    """
    return 0.5 * th.stack([F.mse_loss(q, target) for q in q_values]).sum()


class PlainUpdate:
    """
    One gradient step of every sub-policy on one batch, in plain torch. Works with any network, optimizer and gSDE.

    With separate critics it is SB3's ``SAC.train`` for each sub-policy in turn. With a shared critic, the target at s'
    takes the action of the sub-policy that the master would choose there, so that the critic values the agent that is
    deployed, and every actor improves against it.

    :param model: the agent, set up
    """

    def __init__(self, model: "AsymSAC"):
        self.model = model
        policy = model.policy
        self.batch_norm_stats = get_parameters_by_name(policy.critics, ["running_"])
        self.batch_norm_stats_target = get_parameters_by_name(policy.critic_targets, ["running_"])

    def step(self, batch: Batch, update_targets: bool) -> dict[str, list[float]]:
        """
        :param batch: primitive transitions
        :param update_targets: whether to move the target critics too
        :return: losses and entropy coefficients by name, one for each sub-policy (``critic_loss``: for each critic)
        :raises FloatingPointError: if a loss is not finite; it changes nothing, unlike those minimized before it in the step
        """
        model, policy = self.model, self.model.policy
        policy.set_training_mode(True)
        if model.use_sde:
            policy.reset_noise()
        samples, next_samples = [], []
        for actor in policy.actors:
            samples.append(actor.action_log_prob(batch.observations))
            with th.no_grad():
                next_samples.append(actor.action_log_prob(batch.next_observations))
        ent_coefs = self._ent_coefs()
        critic_losses = self._critic_losses(batch, next_samples, ent_coefs)
        ent_coef_losses = []
        if model.ent_coef_optimizer is not None:
            assert model.log_ent_coef is not None
            ent_coef_losses = [
                entropy_loss(log_coef, log_prob, float(model.target_entropy))
                for log_coef, (_, log_prob) in zip(model.log_ent_coef, samples, strict=True)
            ]
            self._minimize(ent_coef_losses, [model.ent_coef_optimizer], "entropy coefficient")
        self._minimize(critic_losses, [critic.optimizer for critic in policy.critics], "critic")
        # After the critics' own step, as in SAC.
        actor_losses = []
        for index, (actions, log_prob) in enumerate(samples):
            q_values = self._critic(index)(batch.observations, actions)
            actor_losses.append(-soft_value(q_values, log_prob, ent_coefs[index]).mean())
        self._minimize(actor_losses, [actor.optimizer for actor in policy.actors], "actor")
        if update_targets:
            polyak_update(policy.critics.parameters(), policy.critic_targets.parameters(), model.tau)
            polyak_update(self.batch_norm_stats, self.batch_norm_stats_target, 1.0)
        logged: dict[str, Sequence[th.Tensor]] = {
            "actor_loss": actor_losses,
            "critic_loss": critic_losses,
            "ent_coef_loss": ent_coef_losses,
            "ent_coef": list(ent_coefs),
        }
        return {name: [value.item() for value in values] for name, values in logged.items()}

    def _critic(self, index: int) -> Callable[..., Sequence[th.Tensor]]:
        """The critic of a sub-policy."""
        critics = self.model.policy.critics
        return critics[index if len(critics) > 1 else 0]

    def _ent_coefs(self) -> th.Tensor:
        """α of each sub-policy, ``(n_options,)``."""
        model = self.model
        if model.ent_coef_optimizer is not None:
            return th.exp(model.log_ent_coef.detach())  # type: ignore[union-attr]
        return model.ent_coef_tensor.expand(model.policy.n_options)

    def _critic_losses(
        self, batch: Batch, next_samples: Sequence[tuple[th.Tensor, th.Tensor]], ent_coefs: th.Tensor
    ) -> list[th.Tensor]:
        policy = self.model.policy
        discounts = self.model.gamma if batch.discounts is None else batch.discounts
        if len(policy.critics) == 1:
            next_samples, ent_coefs = self._deployed(batch, next_samples, ent_coefs)
        losses = []
        for index, (critic, target_critic) in enumerate(zip(policy.critics, policy.critic_targets, strict=True)):
            next_actions, next_log_prob = next_samples[index]
            with th.no_grad():
                next_value = soft_value(target_critic(batch.next_observations, next_actions), next_log_prob, ent_coefs[index])
                target = batch.rewards + (1 - batch.dones) * discounts * next_value
            losses.append(critic_loss(critic(batch.observations, batch.actions), target))
        return losses

    def _deployed(
        self, batch: Batch, next_samples: Sequence[tuple[th.Tensor, th.Tensor]], ent_coefs: th.Tensor
    ) -> tuple[list[tuple[th.Tensor, th.Tensor]], th.Tensor]:
        """Actions, log-probabilities and entropy coefficients at s' of the sub-policies that the master chooses there."""
        options = self.next_options(batch)
        rows = th.arange(len(options), device=options.device)
        actions = th.stack([sample[0] for sample in next_samples])[options, rows]
        log_prob = th.stack([sample[1] for sample in next_samples])[options, rows]
        return [(actions, log_prob)], ent_coefs[options].unsqueeze(0)

    @th.no_grad()
    def next_options(self, batch: Batch) -> th.Tensor:
        """
        :param batch: primitive transitions
        :return: ``(batch,)`` the option that drives at s' for the shared critic's target: the master's choice there
        """
        return self.model.policy.master.q_net(batch.next_observations).argmax(dim=1)

    def _minimize(self, losses: Sequence[th.Tensor], optimizers: Sequence[th.optim.Optimizer], what: str) -> None:
        """One optimizer step on the sum; the losses have no parameters in common but those that are meant to."""
        total = th.stack(tuple(losses)).sum()
        if not th.isfinite(total):
            raise FloatingPointError(f"The {what} loss is {total.item()}")
        for optimizer in optimizers:
            optimizer.zero_grad()
        total.backward()
        for optimizer in optimizers:
            optimizer.step()
