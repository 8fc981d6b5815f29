"""A deployable agent: plain layers, input normalization and the way from outputs to actions."""

from dataclasses import dataclass, replace
from typing import NamedTuple

import numpy as np
import torch as th
from torch import nn


class ObservationPart(NamedTuple):
    """
    A part of the observation and its place in the flat vector.

    :param name: its key; "observation" where the observation is no Dict
    :param shape: as in the observation space
    :param offset: index of its first number
    :param size: number of its numbers
    """

    name: str
    shape: tuple[int, ...]
    offset: int
    size: int


@dataclass(frozen=True)
class Dense:
    """
    A dense layer with the activations that follow it.

    :param weight: ``(n_out, n_in)``, float32; or float16, which is storage only, as calculation is in float32
    :param bias: ``(n_out,)``, of the same type
    :param activations: torch modules of :data:`sb3_asym.deployment.activations.ACTIVATIONS`
    """

    weight: np.ndarray
    bias: np.ndarray
    activations: tuple[nn.Module, ...]

    @property
    def precision(self) -> str:
        """ "fp32", "fp16" or "int8"."""
        return {"float32": "fp32", "float16": "fp16", "int8": "int8"}[str(self.weight.dtype)]

    @property
    def n_bytes(self) -> int:
        """Bytes of its numbers."""
        return sum(value.nbytes for value in vars(self).values() if isinstance(value, np.ndarray))

    def linear(self, x: th.Tensor) -> th.Tensor:
        """
        The layer without its activations.

        :param x: ``(batch, n_in)`` float32
        :return: ``(batch, n_out)`` before the activations
        """
        return nn.functional.linear(x, th.as_tensor(self.weight).float(), th.as_tensor(self.bias).float())

    def forward(self, x: th.Tensor) -> th.Tensor:
        """
        The outputs.

        :param x: ``(batch, n_in)`` float32
        :return: ``(batch, n_out)``
        """
        y = self.linear(x)
        for activation in self.activations:
            y = activation(y)
        return y


@dataclass(frozen=True)
class Network:
    """
    A chain of dense layers.

    :param name: of the sub-policy, or "master"
    :param layers: in order
    """

    name: str
    layers: tuple[Dense, ...]

    @property
    def n_bytes(self) -> int:
        """Bytes of its numbers."""
        return sum(layer.n_bytes for layer in self.layers)

    @property
    def precision(self) -> str:
        """ "fp32", "fp16" or "int8"."""
        return self.layers[0].precision

    def forward(self, x: th.Tensor) -> th.Tensor:
        """
        The outputs.

        :param x: ``(batch, obs_dim)`` normalized observations
        :return: ``(batch, n_out)``
        """
        for layer in self.layers:
            x = layer.forward(x)
        return x


@dataclass(frozen=True)
class Normalization:
    """
    ``clip((observation − mean) · gain)``, as VecNormalize does.

    :param mean: ``(obs_dim,)``
    :param gain: ``(obs_dim,)``
    :param clip: ``(obs_dim,)`` greatest size of the result
    """

    mean: np.ndarray
    gain: np.ndarray
    clip: np.ndarray


@dataclass(frozen=True)
class DeployableAgent:
    """
    An agent reduced to what acts on the robot.

    :param algorithm: name of the class that it was trained with
    :param sub_policies: cheapest first; a single one where the agent does not switch
    :param master: the network that picks among them, or None
    :param option_length: env steps for which a choice is held
    :param observations: the parts of an observation, in the order of the flat vector
    :param is_dict: whether an observation is a Dict
    :param normalization: of the flat vector, or None
    :param output: the way from a network's outputs to actions: "unscale" from [-1, 1] to the bounds, "clip" to the bounds,
        or "argmax"
    :param low: ``(action_dim,)`` least actions
    :param high: ``(action_dim,)`` greatest actions
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

    @property
    def networks(self) -> tuple[Network, ...]:
        """Sub-policies, then the master."""
        return (*self.sub_policies, *([] if self.master is None else [self.master]))

    @property
    def n_bytes(self) -> dict[str, int]:
        """Bytes of the numbers of each network, by its name."""
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
        """``(action_dim,)`` the middle of the bounds, or the bounded number nearest to zero where they have none."""
        if self.output == "argmax":
            return self.low
        with np.errstate(invalid="ignore"):
            middle = (self.low + self.high) / 2
        return np.where(np.isfinite(middle), middle, np.clip(0, self.low, self.high)).astype(np.float32)

    def flatten(self, observation: np.ndarray | dict[str, np.ndarray]) -> np.ndarray:
        """
        An observation as one vector, in the order of the parts.

        :param observation: one observation of the env
        :return: ``(obs_dim,)`` float32
        """
        parts = [observation[part.name] if isinstance(observation, dict) else observation for part in self.observations]
        return np.concatenate([np.ravel(part) for part in parts]).astype(np.float32)

    def unflatten(self, flat: np.ndarray) -> np.ndarray | dict[str, np.ndarray]:
        """
        The inverse of :meth:`flatten`.

        :param flat: ``(obs_dim,)``
        :return: the observation, as the env gave it
        """
        parts = {p.name: flat[p.offset : p.offset + p.size].reshape(p.shape) for p in self.observations}
        return parts if self.is_dict else parts["observation"]

    def normalize(self, observations: np.ndarray) -> th.Tensor:
        """
        Observations in the form that the networks take.

        :param observations: ``(batch, obs_dim)`` float32
        :return: inputs of the networks, ``(batch, obs_dim)`` float32
        """
        if self.normalization is not None:
            mean, gain, clip = vars(self.normalization).values()
            observations = np.clip((observations - mean) * gain, -clip, clip)
        return th.as_tensor(observations)

    def choices(self, observations: np.ndarray) -> np.ndarray:
        """
        The master's choices; 0 where there is no master.

        :param observations: ``(batch, obs_dim)`` float32
        :return: ``(batch,)`` options
        """
        if self.master is None:
            return np.zeros(len(observations), dtype=np.int64)
        return self.master.forward(self.normalize(observations)).argmax(1).numpy()

    def actions(self, observations: np.ndarray, options: np.ndarray) -> np.ndarray:
        """
        Actions of the given options.

        :param observations: ``(batch, obs_dim)`` float32
        :param options: ``(batch,)`` options in force
        :return: ``(batch, action_dim)`` float32
        """
        x = self.normalize(observations)
        outputs = np.stack([sub_policy.forward(x).numpy() for sub_policy in self.sub_policies])
        return self.as_actions(outputs[options, np.arange(len(options))])

    def as_actions(self, outputs: np.ndarray) -> np.ndarray:
        """
        Outputs of sub-policies as actions of the env.

        :param outputs: ``(batch, n_out)`` outputs of sub-policies
        :return: ``(batch, action_dim)`` float32
        """
        if self.output == "argmax":
            return outputs.argmax(1, keepdims=True).astype(np.float32)
        if self.output == "unscale":
            outputs = self.low + np.float32(0.5) * (outputs + 1) * (self.high - self.low)
        return np.clip(outputs, self.low, self.high)

    def alone(self, option: int) -> "DeployableAgent":
        """
        One sub-policy as an agent that does not switch.

        :param option: index of a sub-policy
        :return: the agent
        """
        return replace(self, sub_policies=self.sub_policies[option : option + 1], master=None, option_length=1)
