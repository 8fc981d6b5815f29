"""Quantization schemes: float16 storage, and int8 weights and activations with int32 sums.

int8 is post-training quantization (Jacob et al. 2018, arXiv 1712.05877): unsigned activations with a zero point, signed
weights with a scale for each output, ranges from the observations of rollouts. Each input of the first layer has a range
of its own, which is folded into the weights.
"""

from dataclasses import dataclass, replace

import numpy as np
import torch as th

from sb3_asym.deployment.agent import Dense, DeployableAgent, Network

PRECISIONS = ("fp32", "fp16", "int8")
LEVELS, RATIOS = 255, 65535


@dataclass(frozen=True)
class Int8Dense(Dense):
    r"""
    A dense layer in integers: :math:`q = \mathrm{round}(\mathrm{clip}(x g + z))`, then
    :math:`y_j = s_j \sum_i w_{ji} (q_i - z_i) + b_j`.

    :param weight: weights w, ``(n_out, n_in)`` int8
    :param bias: biases b, ``(n_out,)`` float32
    :param activations: torch modules that follow the layer
    :param unit: common unit of the scales s, ``(1,)`` float32
    :param ratio: scales in that unit, s ÷ unit, ``(n_out,)`` uint16
    :param gain: gains g, ``(n_in,)`` float32 in the first layer, ``(1,)`` in the others
    :param zero: zero points z, ``(n_in,)`` float32 in the first layer, ``(1,)`` whole numbers in the others
    """

    unit: np.ndarray
    ratio: np.ndarray
    gain: np.ndarray
    zero: np.ndarray

    @property
    def scale(self) -> np.ndarray:
        """Scales s of the outputs, ``(n_out,)``."""
        return self.unit * self.ratio

    def linear(self, x: th.Tensor) -> th.Tensor:
        """Run the layer without its activations, in integers as the exported code does."""
        quantized = th.floor((x * th.as_tensor(self.gain) + th.as_tensor(self.zero)).clamp(0, LEVELS) + 0.5)
        sums = quantized.double() @ th.as_tensor(self.weight).double().T  # exact, as the int32 sums are
        return sums.float() * th.as_tensor(self.scale) + th.as_tensor(self.offset)

    @property
    def offset(self) -> np.ndarray:
        """Numbers to add to the scaled sums of weight times q, ``(n_out,)``: bias less the part of the zero points."""
        return self.offset_for(0.0)

    def offset_for(self, subtracted: float) -> np.ndarray:
        """
        Numbers to add to the scaled sums of weight times (q - subtracted).

        :param subtracted: number that is subtracted from each q before the sum
        :return: ``(n_out,)`` float32 numbers: bias less the remaining part of the zero points
        """
        shift = (self.weight.astype(np.float64) * (self.zero - subtracted)).sum(1)
        return (self.bias - self.scale * shift).astype(np.float32)


def parse_precision(text: str, names: tuple[str, ...]) -> dict[str, str]:
    """
    Parse the precision of each network.

    :param text: one precision for all networks, or precision by network, such as ``large=int8,small=fp32``, with fp32 for
        the others
    :param names: names of the networks
    :return: precision by network
    :raises ValueError: if a network or a precision is unknown
    """
    if "=" not in text:
        text = ",".join(f"{name}={text}" for name in names)
    given = dict(item.strip().partition("=")[::2] for item in text.split(","))
    for name, precision in given.items():
        if name not in names:
            raise ValueError(f"There is no network {name!r} to quantize: the agent has {', '.join(names)}.")
        if precision not in PRECISIONS:
            raise ValueError(f"The precision of {name} must be one of {', '.join(PRECISIONS)}, got {precision!r}.")
    return {name: given.get(name, "fp32") for name in names}


def quantize(agent: DeployableAgent, precision: dict[str, str], observations: np.ndarray | None = None) -> DeployableAgent:
    """
    Convert the networks of an agent to other precisions.

    :param agent: agent in fp32
    :param precision: precision by network
    :param observations: ``(n_steps, obs_dim)`` observations of rollouts, from which int8 takes the ranges; None without int8
    :return: agent in these precisions
    :raises ValueError: if int8 has no observations, or a weight is too large for fp16
    """
    if "int8" in precision.values() and (observations is None or len(observations) == 0):
        raise ValueError("int8 needs observations of rollouts to calibrate: name the env.")

    def convert(network: Network) -> Network:
        kind = precision[network.name]
        if kind == "fp16":
            layers = [
                replace(layer, weight=_half(layer.weight, network.name), bias=_half(layer.bias, network.name))
                for layer in network.layers
            ]
            return replace(network, layers=tuple(layers))
        return _int8_network(network, agent.normalize(observations)) if kind == "int8" else network  # type: ignore[arg-type]

    master = None if agent.master is None else convert(agent.master)
    return replace(agent, sub_policies=tuple(map(convert, agent.sub_policies)), master=master)


def _half(values: np.ndarray, name: str) -> np.ndarray:
    """Numbers in float16; ``name`` is that of their network."""
    if np.abs(values).max(initial=0) > np.finfo(np.float16).max:
        raise ValueError(f"A weight of {name} is too large for fp16: choose fp32.")
    return values.astype(np.float16)


def _int8_network(network: Network, x: th.Tensor) -> Network:
    """Network in int8, with ranges from the normalized observations ``x``, ``(n_steps, obs_dim)``."""
    layers = []
    for index, layer in enumerate(network.layers):
        layers.append(_int8_layer(layer, x.numpy(), first=index == 0))
        x = layer.forward(x)
    return replace(network, layers=tuple(layers))


def _int8_layer(layer: Dense, inputs: np.ndarray, first: bool) -> Int8Dense:
    """
    Layer in int8.

    :param layer: layer in fp32
    :param inputs: ``(n_steps, n_in)`` inputs of the layer
    :param first: True for the first layer, where each input has a range of its own
    :return: the layer
    """
    low, high = inputs.min(0), inputs.max(0)
    if not first:
        low, high = np.minimum(low.min(keepdims=True), 0), np.maximum(high.max(keepdims=True), 0)
    step = np.maximum(high - low, 1e-6) / LEVELS
    zero = -low / step if first else np.rint(-low / step)
    weight = layer.weight * step
    # Where all weights are tiny, the scale is large enough for the bias, in its units, to remain an int32.
    scale = np.maximum(np.abs(weight).max(1) / 127, np.maximum(np.abs(layer.bias), 1e-6) / 2**30)
    # A scale in two bytes instead of four: the weights are rounded in units of that scale, so no precision is lost.
    unit = np.float32(scale.max() / RATIOS)
    ratio = np.clip(np.ceil(scale / unit), 1, RATIOS).astype(np.uint16)
    scale = unit * ratio
    return Int8Dense(
        weight=np.rint(weight / scale[:, None]).clip(-127, 127).astype(np.int8),
        bias=layer.bias,
        activations=layer.activations,
        unit=np.array([unit]),
        ratio=ratio,
        gain=(1 / step).astype(np.float32),
        zero=zero.astype(np.float32),
    )
