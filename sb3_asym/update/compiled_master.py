"""The master's update, SB3's ``DQN.train``, as one compiled graph."""

from collections.abc import Sequence
from typing import Any

import torch as th
from stable_baselines3.common.type_aliases import ReplayBufferSamples
from stable_baselines3.dqn.policies import DQNPolicy
from torch.nn import functional as F
from torch.utils._pytree import tree_map

from sb3_asym.buffers import Batch
from sb3_asym.update.flat import Activation, FlatNetworks, Layer, adam, assign, concatenate, forward
from sb3_asym.update.graph import GraphCache


class CompiledMasterUpdate:
    """
    One gradient step of the master on one batch of option transitions.

    :param policy: the master's q-networks and their optimizer
    :param networks: the same, flat
    :param activation: activation function of the q-network
    """

    def __init__(self, policy: DQNPolicy, networks: FlatNetworks, activation: Activation):
        self.policy = policy
        self.networks = networks
        self.activation = activation
        group = policy.optimizer.param_groups[0]
        self.betas, self.eps = group["betas"], group["eps"]
        self._graphs = GraphCache(self._update)

    def steps(self, batches: Sequence[ReplayBufferSamples], max_grad_norm: float) -> list[float]:
        """
        One gradient step on each batch.

        :param batches: option transitions, with net rewards and discounts
        :param max_grad_norm: greatest norm of the gradient, beyond which it is clipped
        :return: the losses; a step whose loss is not finite changed nothing
        :raises CompiledUpdateUnavailable: if only the plain update can go on
        """
        self.networks.bind()
        return self._graphs.each(self._inputs(batches, max_grad_norm), self._state).tolist()

    def compile(self, batch: Batch, batch_size: int) -> None:
        """
        Compile. Nothing is learned yet.

        :param batch: any primitive transitions, from which batches of option transitions are made up
        :param batch_size: number of option transitions in a batch
        :raises CompiledUpdateUnavailable: if it cannot be compiled
        """
        rows = th.arange(batch_size, device=batch.rewards.device) % len(batch.rewards)
        rewards = batch.rewards[rows]
        options = ReplayBufferSamples(
            observations=tree_map(lambda part: part[rows], batch.observations),
            actions=th.zeros_like(rewards, dtype=th.int64),
            next_observations=tree_map(lambda part: part[rows], batch.next_observations),
            dones=batch.dones[rows],
            rewards=rewards,
            discounts=th.ones_like(rewards),
        )
        self._graphs.compile(self._inputs([options], 1.0)[0], self._state)

    def _inputs(self, batches: Sequence[ReplayBufferSamples], max_grad_norm: float) -> list[tuple[Any, ...]]:
        """Inputs of ``_update`` for each batch."""
        settings = [self.policy.optimizer.param_groups[0]["lr"], max_grad_norm]
        together = th.tensor(settings, device=self.networks.flat.device)
        return [(batch, together) for batch in batches]

    @property
    def _state(self) -> tuple[Any, ...]:
        """State of ``_update``."""
        return (self.networks.state, self.networks.target)

    def update_target(self, tau: float) -> None:
        """
        Move the target network.

        :param tau: step size of Polyak averaging, in (0, 1]
        """
        self.networks.bind_parameters()
        self.networks.target.lerp_(self.networks.flat, tau)

    def _update(self, batch: ReplayBufferSamples, settings: th.Tensor, state: list[th.Tensor], target: th.Tensor) -> th.Tensor:
        """Temporal-difference error of DQN (Mnih et al. 2015) with the options' discounts; Huber loss, clipped gradient."""
        lr, max_grad_norm = settings.unbind()
        q_net = self.policy.q_net
        obs = q_net.extract_features(batch.observations, q_net.features_extractor)
        next_obs = q_net.extract_features(batch.next_observations, q_net.features_extractor)
        next_q_values = forward(self.networks.layers(target)[0], [next_obs], self.activation)[0]
        next_value = next_q_values.max(dim=1, keepdim=True).values
        targets = batch.rewards + (1 - batch.dones) * batch.discounts * next_value  # type: ignore[operator]

        def objective(stacks: list[list[Layer]]) -> th.Tensor:
            q_values = forward(stacks[0], [obs], self.activation)[0]
            return F.smooth_l1_loss(q_values.gather(1, batch.actions), targets)

        gradients, loss = th.func.grad_and_value(objective)(self.networks.layers(state[0]))
        gradient = concatenate(gradients)
        # As torch.nn.utils.clip_grad_norm_ does it.
        gradient = gradient * (max_grad_norm / (gradient.norm() + 1e-6)).clamp(max=1.0)
        assign(state, adam(th.isfinite(loss), state, gradient, lr, self.betas, self.eps))
        return loss
