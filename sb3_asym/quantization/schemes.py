"""Fewer bits per weight: float16 storage, and int8 weights and activations with int32 sums.

int8 is post-training quantization (Jacob et al. 2018, arXiv 1712.05877): unsigned activations with a zero point, signed
weights with a scale for each output, ranges taken from observations of rollouts. Every input of the first layer has a
range of its own, which goes into its weights.
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

    :param weight: ``(n_out, n_in)`` int8
    :param unit: ``(1,)`` what s is counted in
    :param ratio: ``(n_out,)`` uint16, s ÷ unit
    :param gain: g, ``(n_in,)`` in the first layer, ``(1,)`` after it
    :param zero: z, likewise; whole numbers after the first layer
    """

    unit: np.ndarray
    ratio: np.ndarray
    gain: np.ndarray
    zero: np.ndarray

    @property
    def scale(self) -> np.ndarray:
        """``(n_out,)`` s."""
        return self.unit * self.ratio

    def linear(self, x: th.Tensor) -> th.Tensor:
        quantized = th.floor((x * th.as_tensor(self.gain) + th.as_tensor(self.zero)).clamp(0, LEVELS) + 0.5)
        sums = quantized.double() @ th.as_tensor(self.weight).double().T  # exact, as the int32 sums are
        return sums.float() * th.as_tensor(self.scale) + th.as_tensor(self.offset)

    @property
    def offset(self) -> np.ndarray:
        """``(n_out,)`` what is added to the scaled sums: the bias, less what the zero points bring in."""
        return self.offset_for(0.0)

    def offset_for(self, subtracted: float) -> np.ndarray:
        """
        :param subtracted: what was subtracted from each q before it was summed up
        :return: ``(n_out,)`` what is then to be added to the scaled sums
        """
        shift = (self.weight.astype(np.float64) * (self.zero - subtracted)).sum(1)
        return (self.bias - self.scale * shift).astype(np.float32)


def parse_precision(text: str, names: tuple[str, ...]) -> dict[str, str]:
    """
    :param text: one precision for all, or such as ``large=int8,small=fp32``, where the rest stay fp32
    :param names: of the networks
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
    :param agent: in fp32
    :param precision: by network
    :param observations: ``(n, obs_dim)`` from rollouts, which int8 needs to know the ranges
    :return: the agent in these precisions
    :raises ValueError: if int8 is asked for without observations
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
    if np.abs(values).max(initial=0) > np.finfo(np.float16).max:
        raise ValueError(f"A weight of {name} is too large for fp16: choose fp32.")
    return values.astype(np.float16)


def _int8_network(network: Network, x: th.Tensor) -> Network:
    layers = []
    for index, layer in enumerate(network.layers):
        layers.append(_int8_layer(layer, x.numpy(), first=index == 0))
        x = layer.forward(x)
    return replace(network, layers=tuple(layers))


def _int8_layer(layer: Dense, inputs: np.ndarray, first: bool) -> Int8Dense:
    """
    :param layer: in fp32
    :param inputs: ``(n, n_in)`` what it gets
    :param first: whether each input has a range of its own
    """
    low, high = inputs.min(0), inputs.max(0)
    if not first:
        low, high = np.minimum(low.min(keepdims=True), 0), np.maximum(high.max(keepdims=True), 0)
    step = np.maximum(high - low, 1e-6) / LEVELS
    zero = -low / step if first else np.rint(-low / step)
    weight = layer.weight * step
    # Where all weights are tiny, the scale is such that the bias, in units of it, remains an int32.
    scale = np.maximum(np.abs(weight).max(1) / 127, np.maximum(np.abs(layer.bias), 1e-6) / 2**30)
    # Two bytes for each output instead of four; the weights are rounded in what is then their scale, so nothing is lost.
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
