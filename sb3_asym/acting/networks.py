"""The networks that actors run, and how their numbers lie in a block of memory."""

from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import torch as th
from stable_baselines3.common.base_class import BaseAlgorithm
from torch import nn

from sb3_asym.deployment.agent import Dense, DeployableAgent, Network, Normalization
from sb3_asym.deployment.from_sb3 import deployable_view
from sb3_asym.export.c import layer_arrays
from sb3_asym.quantization.layers import Int8Dense, quantize_layer
from sb3_asym.quantization.ptq import centred, quantize
from sb3_asym.quantization.schemes import Scheme
from sb3_asym.shared_memory import aligned

INT8 = Scheme.parse("int8")
N_RANGE_OBSERVATIONS = 1000
N_FORWARD_OBSERVATIONS = 16
"""As many run through the networks with each version, where there are many versions."""
FORGETTING = 0.05
"""Share of the way by which a range of the past shrinks to the present one with each look."""
LOOK_EVERY = 4
"""Versions after which a learner looks at the inner ranges again, where it packs many times a second."""


def acting_form(model: BaseAlgorithm) -> tuple[DeployableAgent, bool]:
    """
    The networks that explore: those of the deployable form, with the heads for mean and log standard deviation as one layer.

    :param model: a SAC, TQC, AsymSAC, TD3, DDPG, DQN or QRDQN model
    :return: the agent in fp32, with arrays that may be the model's own memory, and whether its sub-policies put out means and
        log standard deviations, before the squashing
    :raises ValueError: if the model has parts without a deployable form
    """
    agent = deployable_view(model)
    policy: Any = model.policy
    actors = list(getattr(policy, "actors", [])) or [getattr(policy, "actor", None)]
    if not all(isinstance(getattr(actor, "log_std", None), nn.Linear) for actor in actors):
        return agent, False
    sub_policies = []
    for network, actor in zip(agent.sub_policies, actors, strict=True):
        *layers, mean = network.layers
        weight, bias = (
            np.concatenate([part, getattr(actor.log_std, name).detach().cpu().numpy()])
            for part, name in ((mean.weight, "weight"), (mean.bias, "bias"))
        )
        sub_policies.append(replace(network, layers=(*layers, Dense(weight, bias, ()))))
    return replace(agent, sub_policies=tuple(sub_policies)), True


class Packer:
    """
    Converts the networks of a model to the precision of the actors, again and again while it learns.

    In int8, each input of the first layer has the range of the newest observations in the replay memory. The other layers'
    ranges are those of some of them, run in fp32, and shrink slowly: a running minimum and maximum that forgets.

    :param precision: "fp32", "fp16" or "int8"
    :param look_every: versions after which the other layers' ranges are looked at again, which takes a third of the time
    :param n_forward: number of observations that are run for these ranges
    """

    def __init__(self, precision: str, look_every: int = 1, n_forward: int = N_FORWARD_OBSERVATIONS):
        self.precision, self._look_every, self._n_forward, self._n_packed = precision, look_every, n_forward, 0
        self._ranges: dict[tuple[str, int], np.ndarray] = {}

    def pack(self, agent: DeployableAgent, observations: np.ndarray) -> DeployableAgent:
        """
        Convert the networks.

        :param agent: agent in fp32
        :param observations: the newest observations, not normalized, ``(n_observations, obs_dim)``; unused but in int8
        :return: the agent in the precision of the actors
        """
        if self.precision != "int8":
            return quantize(agent.copy() if self.precision == "fp32" else agent, self.precision)
        agent, x = centred(agent), agent.normalize(observations)

        def convert(network: Network) -> Network:
            return self._int8_network(network, x)

        master = None if agent.master is None else convert(agent.master)
        packed = replace(agent, sub_policies=tuple(map(convert, agent.sub_policies)), master=master)
        self._n_packed += 1
        return packed

    def _int8_network(self, network: Network, x: th.Tensor) -> Network:
        layers: list[Dense] = []
        found = np.stack([x.amin(0).numpy(), x.amax(0).numpy()])
        x = x[:: -(-len(x) // self._n_forward)]
        looks = self._n_packed % self._look_every == 0
        for index, layer in enumerate(network.layers):
            if index:
                key = network.name, index
                found = self._remember(key, _ends(x)) if looks else self._ranges[key]
            own_bias = replace(layer, bias=layer.bias.copy())  # the model's may change before it is read
            layers.append(quantize_layer(own_bias, INT8, found[0], found[1], first=index == 0))
            if looks and index < len(network.layers) - 1:
                x = layer.forward(x)
        return replace(network, layers=tuple(layers))

    def _remember(self, key: tuple[str, int], found: np.ndarray) -> np.ndarray:
        """The range now, widened by that of the past."""
        past = self._ranges.get(key, found)
        past = past + FORGETTING * (found - past)
        self._ranges[key] = np.stack([np.minimum(found[0], past[0]), np.maximum(found[1], past[1])])
        return self._ranges[key]


def _ends(x: th.Tensor) -> np.ndarray:
    """Least and greatest number."""
    return np.array([[x.min()], [x.max()]], dtype=np.float32)


@dataclass(frozen=True)
class _Place:
    """Where an array lies in a block."""

    dtype: np.dtype
    shape: tuple[int, ...]
    offset: int

    def view(self, block: np.ndarray) -> np.ndarray:
        n_bytes = self.dtype.itemsize * int(np.prod(self.shape))
        return block[self.offset : self.offset + n_bytes].view(self.dtype).reshape(self.shape)


class Layout:
    """
    The layout of a block: the exploration rate, the normalization of observations, then the arrays of each network as the C
    code has them.

    :param agent: agent in the precision of the actors, for its shapes
    """

    def __init__(self, agent: DeployableAgent):
        self._places: list[_Place] = []
        self.n_bytes = 0
        for values in self._arrays(agent, 0.0):
            self._places.append(_Place(values.dtype, values.shape, self.n_bytes))
            self.n_bytes += aligned(values.nbytes)
        self._forms = [[(type(layer), layer.activations, len(_in_block(layer))) for layer in n.layers] for n in agent.networks]
        self._names = [network.name for network in agent.networks]
        self.n_outputs = [len(network.layers[-1].bias) for network in agent.networks]
        self.is_normalized = agent.normalization is not None
        self.agent = replace(agent, sub_policies=(), master=None, normalization=None)
        """What acts, less its numbers: the spaces and the clock of the options."""
        self.has_master = agent.master is not None

    def offsets(self) -> list[list[int]]:
        """
        Where the arrays of the layers lie.

        :return: offsets of the arrays of each layer, in bytes, all networks' layers in order
        """
        places = iter(self._places[1 + 3 * self.is_normalized :])
        return [[next(places).offset for _ in range(count)] for layers in self._forms for _, _, count in layers]

    def write(self, agent: DeployableAgent, exploration_rate: float, block: np.ndarray) -> None:
        """
        Write an agent into a block.

        :param agent: agent of this layout
        :param exploration_rate: share of choices that are random
        :param block: memory, uint8
        """
        for place, values in zip(self._places, self._arrays(agent, exploration_rate), strict=True):
            np.copyto(place.view(block), values)

    def read(self, block: np.ndarray) -> tuple[tuple[Network, ...], Normalization | None, float]:
        """
        The agent in a block, whose arrays are views of it.

        :param block: memory, uint8
        :return: networks, normalization of the observations, and share of choices that are random
        """
        views = iter(place.view(block) for place in self._places)
        exploration_rate = float(next(views)[0])
        normalization = Normalization(*(next(views) for _ in range(3))) if self.is_normalized else None
        networks = []
        for name, forms in zip(self._names, self._forms, strict=True):
            layers = tuple(_from_block(kind, activations, [next(views) for _ in range(n)]) for kind, activations, n in forms)
            networks.append(Network(name, layers))
        return tuple(networks), normalization, exploration_rate

    @staticmethod
    def _arrays(agent: DeployableAgent, exploration_rate: float) -> list[np.ndarray]:
        normalization = [] if agent.normalization is None else list(vars(agent.normalization).values())
        layers = [layer for network in agent.networks for layer in network.layers]
        return [np.array([exploration_rate]), *normalization, *(values for layer in layers for values in _in_block(layer))]


def _in_block(layer: Dense) -> list[np.ndarray]:
    """Arrays of a layer as C has them; the bias of int8, which C has in its offsets, is kept for ONNX."""
    arrays = [array.values for array in layer_arrays(layer, "")]
    return [*arrays, layer.bias] if isinstance(layer, Int8Dense) else arrays


def _from_block(kind: type[Dense], activations: tuple[nn.Module, ...], values: list[np.ndarray]) -> Dense:
    if kind is not Int8Dense:
        return kind(values[0].T, values[1], activations)
    weight, unit, ratio, _, gain, zero, bias = values
    return Int8Dense(weight, bias, activations, unit=unit, ratio=ratio, gain=gain, zero=zero)
