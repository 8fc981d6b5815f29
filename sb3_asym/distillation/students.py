r"""Students: networks of several sizes that learn from a teacher together.

Losses, for the distance d of the student's action to the teacher's:

- ``robust``: log(1 + d² / c²), the negative log-likelihood of a Cauchy distribution of scale c: states in which a small
  student cannot follow the teacher do not spoil those in which it can;
- ``mse``: d²;
- ``critic``: the teacher's Q at its own action, less that at the student's, in units of the former's spread over random
  actions; ``both`` adds it to ``robust``.

Students of a discrete teacher minimize the cross-entropy of its choices.
"""

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from itertools import pairwise
from typing import Any

import numpy as np
import torch as th
from torch import nn

from sb3_asym.deployment.agent import Dense, DeployableAgent, Network
from sb3_asym.distillation.teacher import Teacher, network_flops
from sb3_asym.update.choice import UPDATES_WORTH_COMPILING
from sb3_asym.update.flat import FlatNetworks, Layer, Stack, adam, assign, concatenate, forward
from sb3_asym.update.graph import CompiledUpdateUnavailable, GraphCache

LOSSES = ("robust", "mse", "critic", "both")
ROBUST_SCALE = 0.2
"""Scale c of the robust loss, in units of half the range of an action."""
SMALLEST_SPREAD = 1e-3


@dataclass(frozen=True)
class Schedule:
    """
    How long and how fast students learn.

    :param n_updates: gradient steps in all
    :param learning_rate: Adam's step size at the start
    :param decay: step size at the end ÷ that at the start, between which it falls exponentially
    :param batch_size: states in a batch
    """

    n_updates: int = 80_000
    learning_rate: float = 3e-3
    decay: float = 0.01
    batch_size: int = 256

    def at(self, update: int) -> float:
        """
        The step size of one gradient step.

        :param update: its number, from 0
        :return: Adam's step size
        """
        return self.learning_rate * self.decay ** (update / self.n_updates)


class Students:
    """
    A ladder of students, several copies of each size, that differ by their first weights. All learn from the same batches,
    in one graph, where a compiler is at hand.

    :param teacher: the agent to learn from
    :param sizes: hidden layers of each size
    :param n_copies: number of copies of each size
    :param loss: one of ``LOSSES``
    :param schedule: length and speed of learning
    :raises ValueError: if there is no such loss, or the teacher lacks the critic that it needs
    """

    def __init__(
        self, teacher: Teacher, sizes: Sequence[Sequence[int]], n_copies: Sequence[int], loss: str, schedule: Schedule
    ):
        if loss not in LOSSES:
            raise ValueError(f"loss must be one of {', '.join(LOSSES)}, got {loss!r}.")
        self.teacher, self.sizes, self.schedule, self.loss = teacher, [list(size) for size in sizes], schedule, loss
        self.activation = teacher.activation()
        self.critic = teacher.critic() if loss in ("critic", "both") else None
        stacks, parameters = [], []
        for size, copies in zip(self.sizes, n_copies, strict=True):
            widths = [teacher.agent.obs_dim, *size, teacher.n_outputs]
            linears = [[nn.Linear(n_in, n_out) for n_in, n_out in pairwise(widths)] for _ in range(copies)]
            stacks.append(Stack([[[layer] for layer in network] for network in linears]))
            parameters += [p for network in linears for layer in network for p in layer.parameters()]
        self._n_copies = list(n_copies)
        self.members = [(i, copy) for i, copies in enumerate(n_copies) for copy in range(copies)]
        """Index of the size, and copy, of each student."""
        self.networks = FlatNetworks(stacks, [th.optim.Adam(parameters, lr=schedule.learning_rate)])
        self.networks.bind()
        self.n_updates = 0
        self.losses = th.zeros(len(self.members))
        worth_compiling = schedule.n_updates >= UPDATES_WORTH_COMPILING
        self._graph: Callable[..., th.Tensor] = GraphCache(self._update) if worth_compiling else self._step_by_step
        self._observations, self._targets = [], []  # type: ignore[var-annotated]
        self._mean = self._spread = np.zeros(0)
        self._q_scale = 1.0

    @property
    def flops(self) -> list[int]:
        """FLOPs of one inference of each student."""
        widths = [[self.teacher.agent.obs_dim, *self.sizes[i], self.teacher.n_outputs] for i, _ in self.members]
        return [network_flops(sizes) for sizes in widths]

    def observe(self, observations: np.ndarray, targets: np.ndarray) -> None:
        """
        Remember states to learn from.

        :param observations: ``(n, obs_dim)`` float32, as the env gives them; the first ones standardize the inputs
        :param targets: the teacher's targets there
        """
        if not self._observations:
            self._mean, self._spread = observations.mean(0), observations.std(0)
            self._spread[self._spread < SMALLEST_SPREAD] = 1.0
        self._observations.append(th.as_tensor(self._standardized(observations)))
        self._targets.append(th.as_tensor(targets))
        if self.critic is not None and len(self._observations) == 1:
            self._q_scale = self._spread_of_q(self._observations[0], self._targets[0])

    def learn(self, n_updates: int, on_update: Callable[[], Any] = lambda: None) -> None:
        """
        Learn from all states so far.

        :param n_updates: gradient steps
        :param on_update: called after each
        """
        states, wanted = th.cat(self._observations), th.cat(self._targets)
        for _ in range(n_updates):
            rows = th.randint(len(states), (self.schedule.batch_size,))
            learning_rate = th.tensor(self.schedule.at(self.n_updates))
            weights = [] if self.critic is None else [self.critic.weights]
            inputs, state = (states[rows], wanted[rows], learning_rate, *weights), (self.networks.state,)
            try:
                losses = self._graph(inputs, state)
            except CompiledUpdateUnavailable:  # there is no compiler
                self._graph = self._step_by_step
                losses = self._graph(inputs, state)
            self.losses = losses.clone()
            self.n_updates += 1
            on_update()

    def _step_by_step(self, inputs: tuple[Any, ...], state: tuple[Any, ...]) -> th.Tensor:
        """The update without a graph."""
        with th.no_grad():
            return self._update(*inputs, *state)

    def draw(self, n: int, rng: np.random.Generator) -> list[DeployableAgent]:
        """
        Students to act while states are collected. Larger ones, which get into states that are worth learning from, act more
        often: in proportion to the square of their place in the ladder.

        :param n: number of students
        :param rng: source of chance
        :return: the students, as they are now
        """
        weights = np.array([(size + 1) ** 2 / self._n_copies[size] for size, _ in self.members], dtype=np.float64)
        drawn = rng.choice(len(self.members), size=n, p=weights / weights.sum())
        return [self.agent(int(member)) for member in drawn]

    def agent(self, member: int) -> DeployableAgent:
        """
        A student as it is now.

        :param member: index of the student
        :return: its deployable form, of observations as the env gives them
        """
        index, copy = self.members[member]
        layers: list[Dense] = []
        with th.no_grad():
            for weights, biases in self.networks.layers(self.networks.flat)[index]:
                layers.append(Dense(weights[copy].numpy().copy(), biases[copy].numpy().copy(), (self.activation,)))
        # The standardization goes into the first layer.
        first = layers[0]
        weight = first.weight / self._spread
        bias = first.bias - weight @ self._mean
        layers[0] = replace(first, weight=weight.astype(np.float32), bias=bias.astype(np.float32))
        layers[-1] = replace(layers[-1], activations=() if self.teacher.is_discrete else (nn.Tanh(),))
        return replace(
            self.teacher.agent,
            algorithm="DQN" if self.teacher.is_discrete else "SAC",
            sub_policies=(Network("policy", tuple(layers)),),
            normalization=None,
            output="argmax" if self.teacher.is_discrete else "unscale",
        )

    def start_from(self, member: int, agent: DeployableAgent) -> None:
        """
        Let a student go on from given weights, the inverse of :meth:`agent`.

        :param member: index of the student, which has seen states but has not learned yet
        :param agent: deployable form of the same size
        """
        index, copy = self.members[member]
        with th.no_grad():
            layers = self.networks.layers(self.networks.flat)[index]
            for place, (layer, (weight, bias)) in enumerate(zip(agent.sub_policies[0].layers, layers, strict=True)):
                first = place == 0
                bias[copy] = th.as_tensor(layer.bias + layer.weight @ self._mean if first else layer.bias)
                weight[copy] = th.as_tensor(layer.weight * self._spread if first else layer.weight)

    def _standardized(self, observations: np.ndarray) -> np.ndarray:
        return ((observations - self._mean) / self._spread).astype(np.float32)

    def _update(self, states: th.Tensor, wanted: th.Tensor, learning_rate: th.Tensor, *rest: Any) -> th.Tensor:
        """One step of Adam for all students, in place."""
        *critic, flat = rest

        def objective(stacks: list[list[Layer]]) -> tuple[th.Tensor, th.Tensor]:
            losses = [self._losses(forward(layers, [states], self.activation), states, wanted, critic) for layers in stacks]
            return th.cat(losses).sum(), th.cat(losses)

        gradient, losses = th.func.grad(objective, has_aux=True)(self.networks.layers(flat[0]))
        valid = th.isfinite(losses).all()
        assign(flat, adam(valid, flat, concatenate(gradient), learning_rate, (0.9, 0.999), 1e-8))
        return losses

    def _losses(self, outputs: th.Tensor, states: th.Tensor, wanted: th.Tensor, critic: list[th.Tensor]) -> th.Tensor:
        """Loss of each copy of one size, ``(copies,)``, from its outputs ``(copies, batch, n_outputs)``."""
        if self.teacher.is_discrete:
            return -(wanted * th.log_softmax(outputs, dim=-1)).sum(-1).mean(1)
        actions = th.tanh(outputs)
        distance = (actions - wanted).square()
        if self.loss == "mse":
            return distance.mean((1, 2))
        robust = th.log1p(distance / ROBUST_SCALE**2).mean((1, 2))
        if self.loss == "robust":
            return robust
        lost = [(self._q(states, wanted, critic[0]) - self._q(states, a, critic[0])).mean() for a in actions.unbind(0)]
        return th.stack(lost) / self._q_scale + (robust if self.loss == "both" else 0.0)

    def _q(self, states: th.Tensor, actions: th.Tensor, weights: th.Tensor) -> th.Tensor:
        """The teacher's Q, ``(batch,)``: minimum over its critics, mean over its quantiles."""
        assert self.critic is not None
        observations = self._as_the_teacher_sees(states)
        q_values = forward(self.critic.stack.views(weights), [observations, actions], nn.functional.relu)
        return q_values.mean(-1).min(0).values

    def _as_the_teacher_sees(self, states: th.Tensor) -> th.Tensor:
        """Observations in the teacher's normalization, from standardized ones."""
        observations = states * th.as_tensor(self._spread).float() + th.as_tensor(self._mean).float()
        normalization = self.teacher.agent.normalization
        if normalization is None:
            return observations
        mean, gain, clip = (th.as_tensor(values) for values in vars(normalization).values())
        return th.minimum(th.maximum((observations - mean) * gain, -clip), clip)

    def _spread_of_q(self, states: th.Tensor, wanted: th.Tensor) -> float:
        """Mean of the Q that random actions lose."""
        assert self.critic is not None
        with th.no_grad():
            rows = th.randint(len(states), (4096,))
            random = th.rand_like(wanted[rows]) * 2 - 1
            weights = self.critic.weights
            lost = self._q(states[rows], wanted[rows], weights) - self._q(states[rows], random, weights)
        return max(float(lost.abs().mean()), 1e-6) if math.isfinite(float(lost.mean())) else 1.0
