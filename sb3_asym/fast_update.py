"""The same update as :class:`sb3_asym.update.PlainUpdate`, as one compiled graph instead of hundreds of Python calls.

All weights of one kind live in one flat tensor, of which the modules' parameters and the optimizers' states are views:
Adam and Polyak averaging become one loop each, twin critics one batched matmul, and nothing has to be copied back, so a
checkpoint is the same whichever update wrote it.
"""

from __future__ import annotations

import math
import shutil
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import torch as th
from stable_baselines3.common.torch_layers import CombinedExtractor, FlattenExtractor
from stable_baselines3.common.type_aliases import PyTorchObs
from stable_baselines3.sac.policies import LOG_STD_MAX, LOG_STD_MIN
from torch import nn

from sb3_asym.buffers import Batch
from sb3_asym.compiled import CompiledUpdate
from sb3_asym.fast_master import FastMasterUpdate
from sb3_asym.flat import Activation, Layer, Role, Stack, adam, assign, concatenate, forward
from sb3_asym.update import critic_loss, soft_value

if TYPE_CHECKING:
    from sb3_asym.asym_sac import AsymSAC


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


class FastUpdate:
    """
    One gradient step of every sub-policy, compiled, and in ``master_update`` that of the master.

    :param model: the agent, set up; see :func:`why_not_fast`
    """

    def __init__(self, model: AsymSAC):
        self.model = model
        policy = model.policy
        self.activation: Activation = policy.activation_fn()
        self.actors = Role([_actor_stack(actor) for actor in policy.actors], [actor.optimizer for actor in policy.actors])
        self.critics = Role(
            [_critic_stack(critic) for critic in policy.critics],
            [critic.optimizer for critic in policy.critics],
            [_critic_stack(critic) for critic in policy.critic_targets],
        )
        self.master = Role(
            [Stack([_linears(policy.master.q_net.q_net)])],
            [policy.master.optimizer],
            [Stack([_linears(policy.master.q_net_target.q_net)])],
        )
        self.master_update = FastMasterUpdate(model.master, self.master, self.activation)
        group = policy.actor.optimizer.param_groups[0]
        self.betas, self.eps = group["betas"], group["eps"]
        self._fixed_ent_coefs = None if model.ent_coef_optimizer else model.ent_coef_tensor.repeat(policy.n_options)
        self._compiled = CompiledUpdate(self._update)

    def compile(self, batch: Batch) -> None:
        """
        Compile for batches like this one. Nothing is learned yet.

        :param batch: primitive transitions
        :raises NotCovered: if it cannot be done
        """
        self._bind()
        self._compiled.compile(*self._arguments(batch, True, th.zeros(self._noise_shape(batch), device=self.model.device)))
        self.master_update.compile(batch)

    def step(self, batch: Batch, update_targets: bool) -> dict[str, list[float]]:
        """
        As :meth:`sb3_asym.update.PlainUpdate.step`.

        :raises NotCovered: if it cannot be done
        """
        self._bind()
        noise = th.randn(self._noise_shape(batch), device=self.model.device)
        losses = self._compiled(*self._arguments(batch, update_targets, noise)).tolist()
        n_options, learned = self.model.policy.n_options, self.model.ent_coef_optimizer is not None
        names = {"critic_loss": len(self.critics.stacks), "actor_loss": n_options, "ent_coef": n_options}
        names["ent_coef_loss"] = n_options if learned else 0
        logged, start = {}, 0
        for name, length in names.items():
            logged[name] = losses[start : start + length]
            start += length
        if not math.isfinite(sum(losses)):
            what = next(name for name, values in logged.items() if not math.isfinite(sum(values)))
            raise FloatingPointError(f"The {what.replace('_', ' ')} is {logged[what]}")
        return logged

    def _bind(self) -> None:
        for role in (self.actors, self.critics):
            role.bind()
        self.master.bind_parameters()

    def release(self) -> None:
        """Give the agent's weights memory of their own again, until the next step."""
        for role in (self.actors, self.critics, self.master):
            role.release()

    def _noise_shape(self, batch: Batch) -> tuple[int, ...]:
        """For each actor, noise of its actions at s and at s'."""
        return (self.model.policy.n_options, 2, *batch.actions.shape)

    def _arguments(self, batch: Batch, update_targets: bool, noise: th.Tensor) -> tuple[tuple[Any, ...], tuple[Any, ...]]:
        """Inputs and state that ``_update`` takes."""
        model = self.model
        learning_rate = model.policy.actor.optimizer.param_groups[0]["lr"]
        target_entropy = 0.0 if model.ent_coef_optimizer is None else model.target_entropy
        settings = th.tensor(
            [learning_rate, model.tau if update_targets else 0.0, target_entropy], dtype=th.float64, device=model.device
        )
        discounts = th.tensor(model.gamma, device=model.device) if batch.discounts is None else batch.discounts
        inputs = (batch._replace(discounts=discounts), settings, noise)
        state = (self.actors.state, self.critics.state, self.critics.target, self._ent_coef_state(), self.master.flat)
        return inputs, state

    def _ent_coef_state(self) -> list[th.Tensor]:
        """log α and its optimizer's state, or α alone where it is fixed."""
        model = self.model
        if self._fixed_ent_coefs is not None:
            return [self._fixed_ent_coefs]
        log_ent_coef = model.log_ent_coef
        assert log_ent_coef is not None
        assert model.ent_coef_optimizer is not None
        state = model.ent_coef_optimizer.state[log_ent_coef]
        if not state:
            moments = {name: th.zeros_like(log_ent_coef) for name in ("exp_avg", "exp_avg_sq")}
            state.update(step=th.tensor(0.0, device=model.device), **moments)
        return [log_ent_coef.detach(), state["exp_avg"], state["exp_avg_sq"], state["step"]]

    def _features(self, obs: PyTorchObs) -> th.Tensor:
        actor = self.model.policy.actor
        return actor.extract_features(obs, actor.features_extractor)

    def _update(
        self,
        batch: Batch,
        settings: th.Tensor,
        noise: th.Tensor,
        actors: list[th.Tensor],
        critics: list[th.Tensor],
        target: th.Tensor,
        ent_coef_state: list[th.Tensor],
        master: th.Tensor,
    ) -> th.Tensor:
        """The whole step, in the order of SB3's ``SAC.train``, in place. A loss that is not finite ends it."""
        lr, tau, target_entropy = settings.unbind()
        obs = self._features(batch.observations)
        learned = len(ent_coef_state) > 1
        ent_coefs = ent_coef_state[0].exp() if learned else ent_coef_state[0]

        targets = self._targets(actors[0], target, master, batch, noise[:, 1], ent_coefs)

        def critic_objective(stacks: list[list[Layer]]) -> tuple[th.Tensor, th.Tensor]:
            q_values = [forward(layers, [obs, batch.actions], self.activation).unbind(0) for layers in stacks]
            losses = th.stack([critic_loss(q, y) for q, y in zip(q_values, targets, strict=True)])
            return losses.sum(), losses

        gradient, critic_losses = th.func.grad(critic_objective, has_aux=True)(self.critics.layers(critics[0]))
        valid = th.isfinite(critic_losses).all()
        new_critics = adam(valid, critics, concatenate(gradient), lr, self.betas, self.eps)
        new_target = th.where(valid, target.lerp(new_critics[0], tau.float()), target)
        critic_stacks = self.critics.layers(new_critics[0])

        def actor_objective(stacks: list[list[Layer]]) -> tuple[th.Tensor, tuple[th.Tensor, th.Tensor]]:
            samples = self._samples(stacks, obs, noise[:, 0])
            q_values = self._q_values(critic_stacks, obs, [actions for actions, _ in samples])
            values = [soft_value(q, sample[1], a) for q, sample, a in zip(q_values, samples, ent_coefs.unbind(), strict=True)]
            losses = -th.stack(values).mean(dim=(1, 2))
            return losses.sum(), (losses, th.stack([log_prob for _, log_prob in samples]))

        gradient, (actor_losses, log_probs) = th.func.grad(actor_objective, has_aux=True)(self.actors.layers(actors[0]))
        valid = valid & th.isfinite(actor_losses).all()
        new_actors = adam(valid, actors, concatenate(gradient), lr, self.betas, self.eps)

        losses = [critic_losses, actor_losses, ent_coefs]
        if learned:
            # The gradient of `entropy_loss`.
            gradient = -(log_probs + target_entropy.float()).mean(dim=1)
            losses.append(ent_coef_state[0] * gradient)
            assign(ent_coef_state, adam(valid, ent_coef_state, gradient, lr, (0.9, 0.999), 1e-8))
        assign([*actors, *critics, target], [*new_actors, *new_critics, new_target])
        return th.cat(losses)

    def _samples(self, stacks: list[list[Layer]], obs: th.Tensor, noise: th.Tensor) -> list[tuple[th.Tensor, th.Tensor]]:
        """Actions and log-probabilities of each actor."""
        outputs = [forward(layers, [obs], self.activation)[0] for layers in stacks]
        return [squashed_gaussian(output, noise[k]) for k, output in enumerate(outputs)]

    def _q_values(
        self, stacks: list[list[Layer]], obs: th.Tensor, actions: Sequence[th.Tensor]
    ) -> list[tuple[th.Tensor, ...]]:
        """Q-values of each actor's actions by its critic; a shared critic takes all actors' in one batch."""
        if len(stacks) == 1:
            together = [obs.repeat(len(actions), 1), th.cat(tuple(actions))]
            chunks = forward(stacks[0], together, self.activation).chunk(len(actions), dim=1)
        else:
            chunks = tuple(forward(layers, [obs, a], self.activation) for layers, a in zip(stacks, actions, strict=True))
        return [chunk.unbind(0) for chunk in chunks]

    def _targets(
        self,
        actors: th.Tensor,
        target: th.Tensor,
        master: th.Tensor,
        batch: Batch,
        noise: th.Tensor,
        ent_coefs: th.Tensor,
    ) -> list[th.Tensor]:
        """Soft Bellman targets of each critic, ``(batch, 1)``."""
        next_obs = self._features(batch.next_observations)
        samples = self._samples(self.actors.layers(actors), next_obs, noise)
        coefs = list(ent_coefs.unbind())
        stacks = self.critics.layers(target)
        if len(stacks) == 1:
            q_values = forward(self.master.layers(master)[0], [next_obs], self.activation)[0]
            options = q_values.argmax(dim=1, keepdim=True)
            chosen = (options == th.arange(len(samples), device=options.device)).to(next_obs.dtype)
            actions = th.stack([a for a, _ in samples], dim=2)
            log_probs = th.stack([log_prob for _, log_prob in samples], dim=1)
            samples = [((actions * chosen.unsqueeze(1)).sum(dim=2), (log_probs * chosen).sum(dim=1))]
            coefs = [(chosen * ent_coefs).sum(dim=1)]
        targets = []
        for layers, (next_actions, log_prob), coef in zip(stacks, samples, coefs, strict=True):
            q_values = forward(layers, [next_obs, next_actions], self.activation)
            next_value = soft_value(q_values.unbind(0), log_prob, coef)
            targets.append(batch.rewards + (1 - batch.dones) * batch.discounts * next_value)  # type: ignore[operator]
        return targets


def why_not_fast(model: AsymSAC) -> str | None:
    """
    :param model: the agent, set up
    :return: what stands in the way of :class:`FastUpdate`, or None if nothing does
    """
    policy = model.policy
    compilers = [name for name in ("c++", "g++", "clang++", "cl") if shutil.which(name)]
    extractors = [network.features_extractor for network in (*policy.actors, *policy.critics, policy.master.q_net)]
    q_networks = [q_network for critic in policy.critics for q_network in critic.q_networks]
    networks = [*(actor.latent_pi for actor in policy.actors), *q_networks, policy.master.q_net.q_net]
    optimizers = [network.optimizer for network in (*policy.actors, *policy.critics, policy.master)]
    reasons = {
        "no C++ compiler was found": model.device.type == "cpu" and not compilers,
        "gSDE is in use": model.use_sde,
        "a features extractor does more than flatten": any(
            type(e) not in (FlattenExtractor, CombinedExtractor) or any(True for _ in e.parameters()) for e in extractors
        ),
        "the optimizer is not a plain Adam": any(type(o) is not th.optim.Adam for o in optimizers)
        or any(o.param_groups[0][key] for o in optimizers for key in ("weight_decay", "amsgrad", "maximize")),
        "a network has other layers than linear ones": any(
            type(layer) not in (nn.Linear, policy.activation_fn) for network in networks for layer in network
        ),
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
