"""A deployable agent: plain layers, input normalization and the conversion of outputs to actions."""

import math
from dataclasses import dataclass, field, replace
from typing import NamedTuple

import numpy as np
import torch as th
from torch import nn


class ObservationPart(NamedTuple):
    """
    A part of the observation and its place in the flat vector.

    :param name: key of the part in a Dict observation; "observation" where the observation is no Dict
    :param shape: shape of the part in the observation space
    :param offset: index of its first number in the flat vector
    :param size: number of its numbers
    """

    name: str
    shape: tuple[int, ...]
    offset: int
    size: int


class Trained(NamedTuple):
    """
    The grid on which a layer was trained.

    :param scheme: name of the quantization scheme
    :param low: least value of each input, ``(n_in,)`` in the first layer, ``(1,)`` in the others
    :param high: greatest value of each input
    """

    scheme: str
    low: np.ndarray
    high: np.ndarray


@dataclass(frozen=True)
class Dense:
    """
    A dense layer with the activations that follow it.

    :param weight: weights, ``(n_out, n_in)`` float32; or float16, for storage only, as calculation is in float32
    :param bias: biases, ``(n_out,)`` of the same type
    :param activations: torch modules that follow the layer, of the types in
        :data:`sb3_asym.deployment.activations.ACTIVATIONS`
    :param trained: grid on which the layer was trained, or None where it was trained in full precision
    """

    weight: np.ndarray
    bias: np.ndarray
    activations: tuple[nn.Module, ...]
    trained: Trained | None = field(default=None, kw_only=True)

    @property
    def precision(self) -> str:
        """Precision of the weights, "fp32", "fp16" or "int8"."""
        return {"float32": "fp32", "float16": "fp16", "int8": "int8"}[str(self.weight.dtype)]

    @property
    def n_bytes(self) -> int:
        """Bytes of the layer's numbers."""
        return sum(value.nbytes for value in vars(self).values() if isinstance(value, np.ndarray))

    def linear(self, x: th.Tensor) -> th.Tensor:
        """
        Run the layer without its activations.

        :param x: ``(batch, n_in)`` float32 inputs
        :return: ``(batch, n_out)`` float32 outputs before the activations
        """
        return nn.functional.linear(x, th.as_tensor(self.weight).float(), th.as_tensor(self.bias).float())

    def forward(self, x: th.Tensor) -> th.Tensor:
        """
        Run the layer and its activations.

        :param x: ``(batch, n_in)`` float32 inputs
        :return: ``(batch, n_out)`` float32 outputs
        """
        y = self.linear(x)
        for activation in self.activations:
            y = activation(y)
        return y


@dataclass(frozen=True)
class Network:
    """
    A chain of dense layers.

    :param name: name of the sub-policy, or "master"
    :param layers: layers, from the input to the output
    """

    name: str
    layers: tuple[Dense, ...]

    @property
    def n_bytes(self) -> int:
        """Bytes of the network's numbers."""
        return sum(layer.n_bytes for layer in self.layers)

    @property
    def precision(self) -> str:
        """Precision of the weights, "fp32", "fp16" or "int8"."""
        return self.layers[0].precision

    @property
    def is_trained_quantized(self) -> bool:
        """Whether the layers were trained on grids, so that the ranges of their inputs are known."""
        return len(self.layers) > 0 and all(layer.trained is not None for layer in self.layers)

    def forward(self, x: th.Tensor) -> th.Tensor:
        """
        Run the network.

        :param x: ``(batch, obs_dim)`` float32, normalized observations
        :return: ``(batch, n_out)`` float32 outputs
        """
        for layer in self.layers:
            x = layer.forward(x)
        return x


@dataclass(frozen=True)
class Normalization:
    """
    Normalization of observations as VecNormalize does it, ``clip((observation − mean) · gain)``.

    :param mean: means, ``(obs_dim,)`` float32
    :param gain: factors, 1 ÷ standard deviation, ``(obs_dim,)`` float32
    :param clip: greatest absolute values of the result, ``(obs_dim,)`` float32
    """

    mean: np.ndarray
    gain: np.ndarray
    clip: np.ndarray


@dataclass(frozen=True)
class DeployedDial:
    """
    How the master's outputs change with λ: by what it adds to the outputs of its first layer and of its last one.

    :param low: least λ, return per env step of the most expensive sub-policy
    :param high: greatest λ
    :param cost_coef: λ of the master as it is, for which both add nothing
    :param column: what is added in the first layer for each unit of ``rate`` · log λ, ``(n_out,)`` float32
    :param prices: what is subtracted in the last layer for each unit of λ, ``(n_options,)`` float32
    :param cost_shares: FLOPs per env step where each option acts, its choice included, as shares of the largest sub-policy's,
        ``(n_options,)`` float32
    :param budget: such a share for which λ is steered, or 0
    :param steering_rate: growth of log λ in an env step that costs a whole share beyond the budget
    """

    low: float
    high: float
    cost_coef: float
    column: np.ndarray
    prices: np.ndarray
    cost_shares: np.ndarray
    budget: float
    steering_rate: float

    @property
    def rate(self) -> float:
        """What the networks see of a change of λ is this times that of log λ."""
        return 2 / math.log(self.high / self.low)

    def shift(self, cost_coef: float) -> np.ndarray:
        """
        What is added to the outputs of the first layer.

        :param cost_coef: λ, return per env step of the most expensive sub-policy
        :return: ``(n_out,)`` float32
        """
        return np.float32(self.rate * math.log(cost_coef / self.cost_coef)) * self.column


@dataclass(frozen=True)
class DeployableAgent:
    """
    An agent reduced to the networks that act on the robot.

    :param algorithm: class name of the model
    :param sub_policies: sub-policies, cheapest first; a single one where the agent does not switch
    :param master: network that chooses among the sub-policies, or None
    :param option_length: env steps for which an option is held
    :param observations: parts of an observation, in the order of the flat vector
    :param is_dict: True if an observation is a Dict
    :param normalization: normalization of the flat vector, or None
    :param output: conversion of a sub-policy's outputs to actions: "unscale" from [-1, 1] to the bounds, "clip" to the
        bounds, or "argmax"
    :param low: lower bounds of the actions, ``(action_dim,)`` float32
    :param high: upper bounds of the actions, ``(action_dim,)`` float32
    :param dial: how the master changes with λ, or None where λ cannot be set
    """

    algorithm: str
    sub_policies: tuple[Network, ...]
    master: Network | None
    option_length: int
    observations: tuple[ObservationPart, ...]
    is_dict: bool
    normalization: Normalization | None
    output: str
    low: np.ndarray
    high: np.ndarray
    dial: DeployedDial | None = None

    @property
    def networks(self) -> tuple[Network, ...]:
        """The sub-policies, then the master, if any."""
        return (*self.sub_policies, *([] if self.master is None else [self.master]))

    @property
    def n_bytes(self) -> dict[str, int]:
        """Bytes of each network's numbers, by the name of the network."""
        return {network.name: network.n_bytes for network in self.networks}

    @property
    def obs_dim(self) -> int:
        """Length of the flat observation."""
        return sum(part.size for part in self.observations)

    @property
    def action_dim(self) -> int:
        """Length of the action."""
        return len(self.low)

    @property
    def rest(self) -> np.ndarray:
        """Action before the first step, ``(action_dim,)``: middle of the bounds, or nearest to 0 where these are infinite."""
        if self.output == "argmax":
            return self.low
        with np.errstate(invalid="ignore"):
            middle = (self.low + self.high) / 2
        return np.where(np.isfinite(middle), middle, np.clip(0, self.low, self.high)).astype(np.float32)

    def flatten(self, observation: np.ndarray | dict[str, np.ndarray]) -> np.ndarray:
        """
        Flatten an observation into one vector, in the order of the parts.

        :param observation: a single observation, as the env returns it
        :return: ``(obs_dim,)`` float32, flat observation
        """
        parts = [observation[part.name] if isinstance(observation, dict) else observation for part in self.observations]
        return np.concatenate([np.ravel(part) for part in parts]).astype(np.float32)

    def unflatten(self, flat: np.ndarray) -> np.ndarray | dict[str, np.ndarray]:
        """
        Restore an observation from one vector, the inverse of :meth:`flatten`.

        :param flat: ``(obs_dim,)`` flat observation
        :return: a single observation, as the env returns it
        """
        parts = {p.name: flat[p.offset : p.offset + p.size].reshape(p.shape) for p in self.observations}
        return parts if self.is_dict else parts["observation"]

    def normalize(self, observations: np.ndarray) -> th.Tensor:
        """
        Normalize observations into inputs of the networks.

        :param observations: ``(batch, obs_dim)`` float32, flat observations
        :return: ``(batch, obs_dim)`` float32, inputs of the networks
        """
        if self.normalization is not None:
            mean, gain, clip = vars(self.normalization).values()
            observations = np.clip((observations - mean) * gain, -clip, clip)
        return th.as_tensor(observations)

    def choices(self, observations: np.ndarray) -> np.ndarray:
        """
        Options that the master chooses; 0 without a master.

        :param observations: ``(batch, obs_dim)`` float32, flat observations
        :return: ``(batch,)`` options
        """
        if self.master is None:
            return np.zeros(len(observations), dtype=np.int64)
        return self.master.forward(self.normalize(observations)).argmax(1).numpy()

    def actions(self, observations: np.ndarray, options: np.ndarray) -> np.ndarray:
        """
        Actions of the given options.

        :param observations: ``(batch, obs_dim)`` float32, flat observations
        :param options: ``(batch,)`` options in force
        :return: ``(batch, action_dim)`` float32, actions of the env
        """
        x = self.normalize(observations)
        outputs = np.stack([sub_policy.forward(x).numpy() for sub_policy in self.sub_policies])
        return self.as_actions(outputs[options, np.arange(len(options))])

    def as_actions(self, outputs: np.ndarray) -> np.ndarray:
        """
        Convert outputs of sub-policies to actions of the env.

        :param outputs: ``(batch, n_out)`` float32, outputs of sub-policies
        :return: ``(batch, action_dim)`` float32, actions of the env
        """
        if self.output == "argmax":
            return outputs.argmax(1, keepdims=True).astype(np.float32)
        if self.output == "unscale":
            outputs = self.low + np.float32(0.5) * (outputs + 1) * (self.high - self.low)
        return np.clip(outputs, self.low, self.high)

    def copy(self) -> "DeployableAgent":
        """
        The agent with arrays of its own.

        :return: a copy that does not change where the layers' arrays do
        """

        def copied(network: Network) -> Network:
            layers = [replace(layer, weight=layer.weight.copy(), bias=layer.bias.copy()) for layer in network.layers]
            return replace(network, layers=tuple(layers))

        master = None if self.master is None else copied(self.master)
        return replace(self, sub_policies=tuple(map(copied, self.sub_policies)), master=master)

    def alone(self, option: int) -> "DeployableAgent":
        """
        One sub-policy as an agent that does not switch.

        :param option: index of the sub-policy
        :return: agent of this sub-policy alone
        """
        return replace(self, sub_policies=self.sub_policies[option : option + 1], master=None, option_length=1, dial=None)
