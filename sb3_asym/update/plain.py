"""The plain update: losses and optimizer steps of every sub-policy, in plain torch."""

from collections.abc import Callable, Sequence

import torch as th
from stable_baselines3.common.type_aliases import PyTorchObs
from stable_baselines3.common.utils import get_parameters_by_name, polyak_update

from sb3_asym.buffers import Batch
from sb3_asym.update.agent import Agent
from sb3_asym.update.losses import advantage_loss, critic_loss, entropy_loss, least, one_hot, soft_value
from sb3_asym.update.option_batch import OptionBatch


class PlainUpdate:
    """
    Gradient steps of every sub-policy, in plain torch. Works with any network, optimizer and gSDE.

    With separate critics it is SB3's ``SAC.train`` for each sub-policy in turn. With a shared critic, the target at s'
    takes the action of the sub-policy that the master would choose there, so that the critic values the agent that is
    deployed, and every actor improves against it. A critic of options knows the option in force: see
    :mod:`sb3_asym.update.option_batch`.

    :param agent: the agent that learns
    """

    def __init__(self, agent: Agent):
        self.agent = agent
        policy = agent.policy
        self.batch_norm_stats = get_parameters_by_name(policy.critics, ["running_"])
        self.batch_norm_stats_target = get_parameters_by_name(policy.critic_targets, ["running_"])

    def steps(self, batches: Sequence[Batch | OptionBatch], update_targets: Sequence[bool]) -> list[dict[str, list[float]]]:
        """
        One gradient step on each batch.

        :param batches: primitive transitions
        :param update_targets: for each step, whether to move the target critics too
        :return: for each step, losses and entropy coefficients by name, one for each sub-policy (``critic_loss``: for each
            critic)
        :raises FloatingPointError: if a loss is not finite; it changes nothing, unlike those minimized before it
        """
        return [self._step(*arguments) for arguments in zip(batches, update_targets, strict=True)]

    def _step(self, batch: Batch | OptionBatch, update_targets: bool) -> dict[str, list[float]]:
        agent, policy = self.agent, self.agent.policy
        policy.set_training_mode(True)
        if agent.use_sde:
            policy.reset_noise()
        samples, next_samples = [], []
        for actor in policy.actors:
            samples.append(actor.action_log_prob(batch.observations))
            with th.no_grad():
                next_samples.append(actor.action_log_prob(batch.next_observations))
        ent_coefs = self._ent_coefs()
        critic_losses = self._critic_losses(batch, next_samples, ent_coefs)
        ent_coef_losses = []
        if agent.ent_coef_optimizer is not None:
            assert agent.log_ent_coef is not None
            ent_coef_losses = [
                entropy_loss(log_coef, log_prob, float(agent.target_entropy))
                for log_coef, (_, log_prob) in zip(agent.log_ent_coef, samples, strict=True)
            ]
            self._minimize(ent_coef_losses, [agent.ent_coef_optimizer], "entropy coefficient")
        self._minimize(critic_losses, [critic.optimizer for critic in policy.critics], "critic")
        # After the critics' own step, as in SAC.
        actor_losses, q_values = [], []
        for index, (actions, log_prob) in enumerate(samples):
            q_values.append(self._critic(index, batch)(batch.observations, actions))
            actor_losses.append(-soft_value(q_values[index], log_prob, ent_coefs[index]).mean())
        self._minimize(actor_losses, [actor.optimizer for actor in policy.actors], "actor")
        master_losses = []
        if isinstance(batch, OptionBatch):
            network = policy.advantage_network
            policy.master.set_training_mode(True)
            values = th.cat([least(of_option) for of_option in q_values], dim=1).detach()
            advantages = network.advantages(batch.observations, batch.positions)
            loss, scale = advantage_loss(advantages, values, network.scale)
            master_losses.append(loss)
            self._minimize(master_losses, [policy.master.optimizer], "master")
            network.scale.copy_(scale)
            policy.master.set_training_mode(False)
        if update_targets:
            polyak_update(policy.critics.parameters(), policy.critic_targets.parameters(), agent.tau)
            polyak_update(self.batch_norm_stats, self.batch_norm_stats_target, 1.0)
        logged: dict[str, Sequence[th.Tensor]] = {
            "actor_loss": actor_losses,
            "critic_loss": critic_losses,
            "ent_coef_loss": ent_coef_losses,
            "ent_coef": list(ent_coefs),
            "master_loss": master_losses,
        }
        return {name: [value.item() for value in values] for name, values in logged.items()}

    def _critic(self, index: int, batch: Batch | OptionBatch) -> Callable[..., Sequence[th.Tensor]]:
        """The critic of a sub-policy's own actions."""
        policy = self.agent.policy
        critic = policy.critics[index if len(policy.critics) > 1 else 0]
        if not isinstance(batch, OptionBatch):
            return critic

        def with_own_option(obs: PyTorchObs, actions: th.Tensor) -> Sequence[th.Tensor]:
            options = th.full((len(actions),), index, device=actions.device)
            return critic(obs, batch.behind(actions, one_hot(options, policy.n_options)))

        return with_own_option

    def _ent_coefs(self) -> th.Tensor:
        """α of each sub-policy, ``(n_options,)``."""
        agent = self.agent
        if agent.ent_coef_optimizer is not None:
            return th.exp(agent.log_ent_coef.detach())  # type: ignore[union-attr]
        return agent.ent_coef_tensor.expand(agent.policy.n_options)

    def _critic_losses(
        self, batch: Batch | OptionBatch, next_samples: Sequence[tuple[th.Tensor, th.Tensor]], ent_coefs: th.Tensor
    ) -> list[th.Tensor]:
        policy = self.agent.policy
        discounts = self.agent.gamma if batch.discounts is None else batch.discounts
        paid: th.Tensor | float = 0.0
        if len(policy.critics) == 1:
            options = self._next_options(batch)
            next_samples, ent_coefs = self._samples_of(options, next_samples, ent_coefs)
            if isinstance(batch, OptionBatch):
                in_force = one_hot(options, policy.n_options)
                next_samples = [(batch.behind(actions, in_force), log_prob) for actions, log_prob in next_samples]
                paid = batch.paid(in_force, policy.advantage_network.prices)
        losses = []
        for index, (critic, target_critic) in enumerate(zip(policy.critics, policy.critic_targets, strict=True)):
            next_actions, next_log_prob = next_samples[index]
            with th.no_grad():
                next_value = soft_value(target_critic(batch.next_observations, next_actions), next_log_prob, ent_coefs[index])
                target = batch.rewards + (1 - batch.dones) * discounts * (next_value - paid)
            losses.append(critic_loss(critic(batch.observations, batch.actions), target))
        return losses

    @staticmethod
    def _samples_of(
        options: th.Tensor, next_samples: Sequence[tuple[th.Tensor, th.Tensor]], ent_coefs: th.Tensor
    ) -> tuple[list[tuple[th.Tensor, th.Tensor]], th.Tensor]:
        """Action, log-probability and entropy coefficient at s' of the sub-policy of each row's option."""
        rows = th.arange(len(options), device=options.device)
        actions = th.stack([sample[0] for sample in next_samples])[options, rows]
        log_prob = th.stack([sample[1] for sample in next_samples])[options, rows]
        return [(actions, log_prob)], ent_coefs[options].unsqueeze(0)

    @th.no_grad()
    def _next_options(self, batch: Batch | OptionBatch) -> th.Tensor:
        """Options at s', ``(batch,)``: those that go on, and the master's choices elsewhere."""
        policy = self.agent.policy
        if not isinstance(batch, OptionBatch):
            return policy.master.q_net(batch.next_observations).argmax(dim=1)
        chosen = policy.advantage_network.net_advantages(batch.next_observations, batch.cost_coefs).argmax(dim=1)
        return th.where(batch.held < 0, chosen, batch.held)

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
