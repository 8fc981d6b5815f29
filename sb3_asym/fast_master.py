"""The master's update, SB3's ``DQN.train``, as one compiled graph."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import torch as th
from stable_baselines3.common.type_aliases import ReplayBufferSamples
from torch.nn import functional as F
from torch.utils._pytree import tree_map

from sb3_asym.buffers import Batch
from sb3_asym.compiled import CompiledUpdate
from sb3_asym.flat import Activation, Layer, Role, adam, assign, concatenate, forward

if TYPE_CHECKING:
    from stable_baselines3.common.vec_env import VecNormalize

    from sb3_asym.master import MasterDQN


class FastMasterUpdate:
    """
    One gradient step of the master on one batch of option transitions.

    :param master: whose loss is minimized
    :param role: its q-network, flat, with the target network
    :param activation: of its q-network
    """

    def __init__(self, master: MasterDQN, role: Role, activation: Activation):
        self.master = master
        self.role = role
        self.activation = activation
        group = master.policy.optimizer.param_groups[0]
        self.betas, self.eps = group["betas"], group["eps"]
        self._compiled = CompiledUpdate(self._update)

    def step(self, batch_size: int, env: VecNormalize | None) -> float:
        """
        :param batch_size: option transitions to sample
        :param env: normalizes observations and rewards
        :return: the loss; if it is not finite, nothing was changed
        :raises NotCovered: if it cannot be done
        """
        self.role.bind()
        batch = self.master.replay_buffer.sample(batch_size, env=env)  # type: ignore[union-attr]
        return self._compiled(*self._arguments(batch)).item()

    def compile(self, batch: Batch) -> None:
        """
        Compile. Nothing is learned yet.

        :param batch: any primitive transitions, of which batches of options are made up
        :raises NotCovered: if it cannot be done
        """
        rows = th.arange(self.master.batch_size, device=batch.rewards.device) % len(batch.rewards)
        rewards = batch.rewards[rows]
        options = ReplayBufferSamples(
            observations=tree_map(lambda part: part[rows], batch.observations),
            actions=th.zeros_like(rewards, dtype=th.int64),
            next_observations=tree_map(lambda part: part[rows], batch.next_observations),
            dones=batch.dones[rows],
            rewards=rewards,
            discounts=th.ones_like(rewards),
        )
        self._compiled.compile(*self._arguments(options))

    def _arguments(self, batch: ReplayBufferSamples) -> tuple[tuple[Any, ...], tuple[Any, ...]]:
        """Inputs and state that ``_update`` takes."""
        lr = th.tensor(self.master.policy.optimizer.param_groups[0]["lr"], device=self.role.flat.device)
        return (batch, lr), (self.role.state, self.role.target)

    def update_target(self, tau: float) -> None:
        """
        Move the target network.

        :param tau: how far, from 0 to 1
        """
        self.role.bind_parameters()
        self.role.target.lerp_(self.role.flat, tau)

    def _update(self, batch: ReplayBufferSamples, lr: th.Tensor, state: list[th.Tensor], target: th.Tensor) -> th.Tensor:
        """Temporal-difference error of DQN (Mnih et al. 2015) with the options' discounts; Huber loss, clipped gradient."""
        q_net = self.master.q_net
        obs = q_net.extract_features(batch.observations, q_net.features_extractor)
        next_obs = q_net.extract_features(batch.next_observations, q_net.features_extractor)
        next_q_values = forward(self.role.layers(target)[0], [next_obs], self.activation)[0]
        next_value = next_q_values.max(dim=1, keepdim=True).values
        targets = batch.rewards + (1 - batch.dones) * batch.discounts * next_value  # type: ignore[operator]

        def objective(stacks: list[list[Layer]]) -> th.Tensor:
            q_values = forward(stacks[0], [obs], self.activation)[0]
            return F.smooth_l1_loss(q_values.gather(1, batch.actions), targets)

        gradients, loss = th.func.grad_and_value(objective)(self.role.layers(state[0]))
        gradient = concatenate(gradients)
        # As torch.nn.utils.clip_grad_norm_ does it.
        gradient = gradient * (self.master.max_grad_norm / (gradient.norm() + 1e-6)).clamp(max=1.0)
        assign(state, adam(th.isfinite(loss), state, gradient, lr, self.betas, self.eps))
        return loss
