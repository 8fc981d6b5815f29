"""The same update as :class:`sb3_asym.update.plain.PlainUpdate`, as one compiled graph instead of hundreds of Python calls.

All weights of one kind live in one flat tensor, of which the modules' parameters and the optimizers' states are views:
Adam and Polyak averaging become one loop each, twin critics one batched matmul, and nothing has to be copied back, so a
checkpoint is the same whichever update wrote it.
"""

import math
import shutil
from collections.abc import Sequence
from typing import Any

import torch as th
from stable_baselines3.common.preprocessing import get_action_dim
from stable_baselines3.common.torch_layers import CombinedExtractor, FlattenExtractor
from stable_baselines3.common.type_aliases import PyTorchObs
from torch import nn

from sb3_asym.buffers import Batch
from sb3_asym.update.agent import Agent
from sb3_asym.update.compiled_master import CompiledMasterUpdate
from sb3_asym.update.flat import Activation, FlatNetworks, Layer, Stack, adam, are_plain, assign, concatenate, forward
from sb3_asym.update.graph import GraphCache
from sb3_asym.update.losses import advantage_loss, critic_loss, least, one_hot, soft_value, squashed_gaussian
from sb3_asym.update.option_batch import OptionBatch


class CompiledUpdate:
    """
    Gradient steps of every sub-policy, compiled, and in ``master_update`` that of the master.

    :param agent: the agent that learns; see :func:`obstacle_to_compiling`
    """

    def __init__(self, agent: Agent):
        self.agent = agent
        policy = agent.policy
        self.activation: Activation = policy.activation_fn()
        self.actors = FlatNetworks(
            [_actor_stack(actor) for actor in policy.actors], [actor.optimizer for actor in policy.actors]
        )
        self.critics = FlatNetworks(
            [_critic_stack(critic) for critic in policy.critics],
            [critic.optimizer for critic in policy.critics],
            [_critic_stack(critic) for critic in policy.critic_targets],
        )
        self.master = FlatNetworks(
            [Stack([_linears(policy.master.q_net.q_net)])],
            [policy.master.optimizer],
            [Stack([_linears(policy.master.q_net_target.q_net)])],
        )
        self.master_update = CompiledMasterUpdate(policy.master, self.master, self.activation)
        group = policy.actor.optimizer.param_groups[0]
        self.betas, self.eps = group["betas"], group["eps"]
        self._fixed_ent_coefs = None if agent.ent_coef_optimizer else agent.ent_coef_tensor.repeat(policy.n_options)
        self._graphs = GraphCache(self._update)

    def compile(self, batch: Batch | OptionBatch, master_batch_size: int) -> None:
        """
        Compile for batches like this one. Nothing is learned yet.

        :param batch: primitive transitions
        :param master_batch_size: number of option transitions in a batch of the master
        :raises CompiledUpdateUnavailable: if it cannot be compiled
        """
        self._bind()
        noise = th.zeros((1, *self._noise_shape(batch)), device=self.agent.device)
        self._graphs.compile(self._inputs([batch], [True], noise)[0], self._state(batch))
        if not isinstance(batch, OptionBatch):
            self.master_update.compile(batch, master_batch_size)

    def steps(self, batches: Sequence[Batch | OptionBatch], update_targets: Sequence[bool]) -> list[dict[str, list[float]]]:
        """
        One gradient step on each batch, as :meth:`sb3_asym.update.plain.PlainUpdate.steps`.

        :param batches: primitive transitions, of the same number
        :param update_targets: for each step, whether to move the target critics too
        :return: for each step, losses and entropy coefficients by name
        :raises FloatingPointError: if a loss is not finite; that step changes nothing
        :raises CompiledUpdateUnavailable: if only the plain update can go on
        """
        self._bind()
        noise = th.randn((len(batches), *self._noise_shape(batches[0])), device=self.agent.device)
        results = self._graphs.each(self._inputs(batches, update_targets, noise), self._state(batches[0])).tolist()
        is_fitted = isinstance(batches[0], OptionBatch)
        return [self._named(losses, is_fitted) for losses in results]

    def _named(self, losses: list[float], is_fitted: bool) -> dict[str, list[float]]:
        """The values that ``_update`` returns, by name."""
        n_options, learned = self.agent.policy.n_options, self.agent.ent_coef_optimizer is not None
        names = {"critic_loss": len(self.critics.stacks), "actor_loss": n_options, "ent_coef": n_options}
        names["ent_coef_loss"] = n_options if learned else 0
        names["master_loss"] = int(is_fitted)
        logged, start = {}, 0
        for name, length in names.items():
            logged[name] = losses[start : start + length]
            start += length
        if not math.isfinite(sum(losses)):
            what = next(name for name, values in logged.items() if not math.isfinite(sum(values)))
            raise FloatingPointError(f"The {what.replace('_', ' ')} is {logged[what]}")
        return logged

    def _bind(self) -> None:
        for networks in (self.actors, self.critics):
            networks.bind()
        if self.agent.policy.critic_kind == "option":
            self.master.bind()
        else:
            self.master.bind_parameters()

    def release(self) -> None:
        """Give the agent's weights memory of their own again, until the next step."""
        for networks in (self.actors, self.critics, self.master):
            networks.release()

    def _noise_shape(self, batch: Batch | OptionBatch) -> tuple[int, ...]:
        """For each actor, noise of its actions at s and at s'."""
        policy = self.agent.policy
        return (policy.n_options, 2, len(batch.actions), get_action_dim(policy.action_space))

    def _inputs(
        self, batches: Sequence[Batch | OptionBatch], update_targets: Sequence[bool], noise: th.Tensor
    ) -> list[tuple[Any, ...]]:
        """Inputs of ``_update`` for each batch."""
        agent = self.agent
        learning_rate = agent.policy.actor.optimizer.param_groups[0]["lr"]
        target_entropy = 0.0 if agent.ent_coef_optimizer is None else agent.target_entropy
        master_lr = agent.policy.master.optimizer.param_groups[0]["lr"]
        settings = th.tensor(
            [[learning_rate, agent.tau if moves else 0.0, target_entropy, master_lr] for moves in update_targets],
            dtype=th.float64,
            device=agent.device,
        )
        if batches[0].discounts is None:
            discounts = th.tensor(agent.gamma, device=agent.device)
            batches = [batch._replace(discounts=discounts) for batch in batches]
        return list(zip(batches, settings.unbind(), noise.unbind(), strict=True))

    def _state(self, batch: Batch | OptionBatch) -> tuple[Any, ...]:
        """State of ``_update``."""
        choice = []
        if isinstance(batch, OptionBatch):
            choice = [self.agent.policy.advantage_network.scale, self.agent.policy.advantage_network.prices]
        networks = (self.actors.state, self.critics.state, self.critics.target)
        return (*networks, self._ent_coef_state(), self.master.state, choice)

    def _ent_coef_state(self) -> list[th.Tensor]:
        """log α and its optimizer's state, or α alone where it is fixed."""
        agent = self.agent
        if self._fixed_ent_coefs is not None:
            return [self._fixed_ent_coefs]
        log_ent_coef = agent.log_ent_coef
        assert log_ent_coef is not None
        assert agent.ent_coef_optimizer is not None
        state = agent.ent_coef_optimizer.state[log_ent_coef]
        if not state:
            moments = {name: th.zeros_like(log_ent_coef) for name in ("exp_avg", "exp_avg_sq")}
            state.update(step=th.tensor(0.0, device=agent.device), **moments)
        return [log_ent_coef.detach(), state["exp_avg"], state["exp_avg_sq"], state["step"]]

    def _features(self, obs: PyTorchObs) -> th.Tensor:
        actor = self.agent.policy.actor
        return actor.extract_features(obs, actor.features_extractor)

    def _update(
        self,
        batch: Batch | OptionBatch,
        settings: th.Tensor,
        noise: th.Tensor,
        actors: list[th.Tensor],
        critics: list[th.Tensor],
        target: th.Tensor,
        ent_coef_state: list[th.Tensor],
        master: list[th.Tensor],
        choice: list[th.Tensor],
    ) -> th.Tensor:
        """The whole step, in the order of SB3's ``SAC.train``, in place. A loss that is not finite ends it."""
        lr, tau, target_entropy, master_lr = settings.unbind()
        obs = self._features(batch.observations)
        learned = len(ent_coef_state) > 1
        ent_coefs = ent_coef_state[0].exp() if learned else ent_coef_state[0]

        targets = self._targets(actors[0], target, master[0], choice, batch, noise[:, 1], ent_coefs)

        def critic_objective(stacks: list[list[Layer]]) -> tuple[th.Tensor, th.Tensor]:
            losses = []
            for layers, soft_target in zip(stacks, targets, strict=True):
                q_values = forward(layers, [obs, batch.actions], self.activation).unbind(0)
                losses.append(critic_loss(q_values, soft_target))
            return th.stack(losses).sum(), th.stack(losses)

        gradient, critic_losses = th.func.grad(critic_objective, has_aux=True)(self.critics.layers(critics[0]))
        valid = th.isfinite(critic_losses).all()
        new_critics = adam(valid, critics, concatenate(gradient), lr, self.betas, self.eps)
        new_target = th.where(valid, target.lerp(new_critics[0], tau.float()), target)
        critic_stacks = self.critics.layers(new_critics[0])

        def actor_objective(stacks: list[list[Layer]]) -> tuple[th.Tensor, tuple[th.Tensor, ...]]:
            samples = self._samples(stacks, obs, noise[:, 0])
            q_values = self._q_values(critic_stacks, batch, obs, [actions for actions, _ in samples])
            losses = []
            for k, (_, log_prob) in enumerate(samples):
                losses.append(-soft_value(q_values[k], log_prob, ent_coefs[k]).mean())
            values = th.cat([least(of_option) for of_option in q_values], dim=1)
            return th.stack(losses).sum(), (th.stack(losses), th.stack([log_prob for _, log_prob in samples]), values)

        gradient, (actor_losses, log_probs, values) = th.func.grad(actor_objective, has_aux=True)(
            self.actors.layers(actors[0])
        )
        valid = valid & th.isfinite(actor_losses).all()
        new_actors = adam(valid, actors, concatenate(gradient), lr, self.betas, self.eps)

        losses = [critic_losses, actor_losses, ent_coefs]
        if learned:
            # The gradient of `entropy_loss`.
            gradient = -(log_probs + target_entropy.float()).mean(dim=1)
            losses.append(ent_coef_state[0] * gradient)
            assign(ent_coef_state, adam(valid, ent_coef_state, gradient, lr, (0.9, 0.999), 1e-8))
        if isinstance(batch, OptionBatch):

            def master_objective(stacks: list[list[Layer]]) -> tuple[th.Tensor, th.Tensor]:
                return advantage_loss(forward(stacks[0], [obs, batch.positions], self.activation)[0], values, choice[0])

            gradients, (master_loss, scale) = th.func.grad_and_value(master_objective, has_aux=True)(
                self.master.layers(master[0])
            )
            losses.append(master_loss.unsqueeze(0))
            valid = valid & th.isfinite(master_loss)
            assign(master, adam(valid, master, concatenate(gradients), master_lr, self.betas, self.eps))
            assign(choice[:1], [th.where(valid, scale, choice[0])])
        assign([*actors, *critics, target], [*new_actors, *new_critics, new_target])
        return th.cat(losses)

    def _samples(self, stacks: list[list[Layer]], obs: th.Tensor, noise: th.Tensor) -> list[tuple[th.Tensor, th.Tensor]]:
        """Actions and log-probabilities of each actor."""
        outputs = [forward(layers, [obs], self.activation)[0] for layers in stacks]
        return [squashed_gaussian(output, noise[k]) for k, output in enumerate(outputs)]

    def _q_values(
        self, stacks: list[list[Layer]], batch: Batch | OptionBatch, obs: th.Tensor, actions: Sequence[th.Tensor]
    ) -> list[tuple[th.Tensor, ...]]:
        """Q-values of each actor's actions by its critic; a shared critic takes all actors' in one batch."""
        if isinstance(batch, OptionBatch):
            options = th.arange(len(actions), device=obs.device).unsqueeze(1).expand(-1, len(obs))
            actions = [batch.behind(a, one_hot(own, len(options))) for a, own in zip(actions, options, strict=True)]
        if len(stacks) == 1:
            together = [obs.repeat(len(actions), 1), th.cat(tuple(actions))]
            return [q.unbind(0) for q in forward(stacks[0], together, self.activation).chunk(len(actions), dim=1)]
        q_values = []
        for layers, own_actions in zip(stacks, actions, strict=True):
            q_values.append(forward(layers, [obs, own_actions], self.activation).unbind(0))
        return q_values

    def _targets(
        self,
        actors: th.Tensor,
        target: th.Tensor,
        master: th.Tensor,
        choice: list[th.Tensor],
        batch: Batch | OptionBatch,
        noise: th.Tensor,
        ent_coefs: th.Tensor,
    ) -> list[th.Tensor]:
        """Soft Bellman targets of each critic, ``(batch, 1)``."""
        next_obs = self._features(batch.next_observations)
        samples = self._samples(self.actors.layers(actors), next_obs, noise)
        coefs = list(ent_coefs.unbind())
        stacks = self.critics.layers(target)
        paid: th.Tensor | float = 0.0
        if len(stacks) == 1:
            if isinstance(batch, OptionBatch):
                scale, prices = choice
                advantages = forward(self.master.layers(master)[0], [next_obs, batch.positions], self.activation)[0]
                options = (advantages - batch.cost_coefs * prices / scale).argmax(dim=1)
                options = th.where(batch.held < 0, options, batch.held)
            else:
                options = forward(self.master.layers(master)[0], [next_obs], self.activation)[0].argmax(dim=1)
            chosen = one_hot(options, len(samples))
            actions = th.stack([a for a, _ in samples], dim=2)
            log_probs = th.stack([log_prob for _, log_prob in samples], dim=1)
            samples = [((actions * chosen.unsqueeze(1)).sum(dim=2), (log_probs * chosen).sum(dim=1))]
            coefs = [(chosen * ent_coefs).sum(dim=1)]
            if isinstance(batch, OptionBatch):
                samples = [(batch.behind(samples[0][0], chosen), samples[0][1])]
                paid = batch.paid(chosen, prices)
        targets = []
        for layers, (next_actions, log_prob), coef in zip(stacks, samples, coefs, strict=True):
            q_values = forward(layers, [next_obs, next_actions], self.activation)
            next_value = soft_value(q_values.unbind(0), log_prob, coef)
            next_value = next_value - paid
            targets.append(batch.rewards + (1 - batch.dones) * batch.discounts * next_value)  # type: ignore[operator]
        return targets


def obstacle_to_compiling(agent: Agent) -> str | None:
    """
    The reason why an agent cannot learn with :class:`CompiledUpdate`.

    :param agent: the agent that learns
    :return: the reason, or None if it can
    """
    policy = agent.policy
    compilers = [name for name in ("c++", "g++", "clang++", "cl") if shutil.which(name)]
    extractors = [network.features_extractor for network in (*policy.actors, *policy.critics, policy.master.q_net)]
    q_networks = [q_network for critic in policy.critics for q_network in critic.q_networks]
    networks = [*(actor.latent_pi for actor in policy.actors), *q_networks, policy.master.q_net.q_net]
    layers = [layer for network in networks for layer in network]
    kinds = (nn.Linear, policy.activation_fn)
    optimizers = [network.optimizer for network in (*policy.actors, *policy.critics, policy.master)]
    reasons = {
        "no C++ compiler was found": agent.device.type == "cpu" and not compilers,
        "gSDE is in use": agent.use_sde,
        "a features extractor does more than flatten": any(
            type(e) not in (FlattenExtractor, CombinedExtractor) or any(True for _ in e.parameters()) for e in extractors
        ),
        "the optimizer is not a plain Adam": any(type(o) is not th.optim.Adam for o in optimizers)
        or any(o.param_groups[0][key] for o in optimizers for key in ("weight_decay", "amsgrad", "maximize")),
        "training is quantized": not are_plain(layer for layer in layers if isinstance(layer, nn.Linear)),
        "a network has other layers than linear ones": any(type(layer) not in kinds for layer in layers),
        "the activation function has weights": any(True for _ in policy.activation_fn().parameters()),
    }
    return next((reason for reason, holds in reasons.items() if holds), None)


def _linears(network: nn.Module) -> list[list[nn.Linear]]:
    """Layers of an MLP."""
    return [[layer] for layer in network.children() if isinstance(layer, nn.Linear)]


def _actor_stack(actor: Any) -> Stack:
    """An actor's hidden layers and its two heads side by side."""
    return Stack([[*_linears(actor.latent_pi), [actor.mu, actor.log_std]]])


def _critic_stack(critic: Any) -> Stack:
    """All q-networks of a critic."""
    return Stack([_linears(q_network) for q_network in critic.q_networks])
