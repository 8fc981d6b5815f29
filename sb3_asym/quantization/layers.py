"""Quantized dense layers: the exported int8 in integers, and the other schemes simulated in float32."""

from dataclasses import dataclass, replace

import numpy as np
import torch as th

from sb3_asym.deployment.agent import Dense
from sb3_asym.quantization.gptq import round_in_turn
from sb3_asym.quantization.schemes import Grid, Scheme, activation_grid, fake_quantize, int8_weight_grid, weight_grid

ROWS = 128
"""Rows of weights that are rounded at a time, so that the processor's cache holds them."""


@dataclass(frozen=True)
class Int8Dense(Dense):
    r"""
    A dense layer in integers: :math:`q = \mathrm{round}(\mathrm{clip}(x g + z, 0, q_\mathrm{max}))`, then
    :math:`y_j = s_j \sum_i w_{ji} (q_i - z_i) + b_j`.

    :param weight: weights w, ``(n_out, n_in)`` int8
    :param bias: biases b, ``(n_out,)`` float32
    :param activations: torch modules that follow the layer
    :param unit: common unit of the scales s, ``(1,)`` float32
    :param ratio: scales in that unit, s ÷ unit, ``(n_out,)`` uint16
    :param gain: gains g, ``(n_in,)`` float32 in the first layer, ``(1,)`` in the others
    :param zero: zero points z, ``(n_in,)`` float32 in the first layer, ``(1,)`` whole numbers in the others
    :param greatest: greatest q; less than 255 where the layer was trained with fewer bits
    """

    unit: np.ndarray
    ratio: np.ndarray
    gain: np.ndarray
    zero: np.ndarray
    greatest: int = 255

    @property
    def scale(self) -> np.ndarray:
        """Scales s of the outputs, ``(n_out,)``."""
        return self.unit * self.ratio

    def linear(self, x: th.Tensor) -> th.Tensor:
        """Run the layer without its activations, in integers as the exported code does."""
        quantized = th.floor((x * th.as_tensor(self.gain) + th.as_tensor(self.zero)).clamp(0, self.greatest) + 0.5)
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
        if len(self.zero) == 1:
            shift = self.weight.sum(1, dtype=np.int32) * (float(self.zero[0]) - subtracted)
        else:
            shift = (self.weight.astype(np.float64) * (self.zero - subtracted)).sum(1)
        return (self.bias - self.scale * shift).astype(np.float32)


@dataclass(frozen=True)
class SimulatedDense(Dense):
    """
    A dense layer whose numbers lie on grids, calculated in float32.

    :param weight: weights on their grid, ``(n_out, n_in)`` float32
    :param bias: biases, ``(n_out,)`` float32
    :param activations: torch modules that follow the layer
    :param scheme: scheme with grids
    :param inputs: grid of the inputs, or None
    """

    scheme: Scheme
    inputs: Grid | None

    @property
    def precision(self) -> str:
        """Name of the scheme."""
        return self.scheme.name

    @property
    def n_bytes(self) -> int:
        """Bytes of the layer's numbers with packed weights: see :func:`packed_bytes`."""
        grids = 0 if self.inputs is None else 2 * 4 * len(self.inputs.scale)  # gains and zero points, as int8 has them
        return packed_bytes(self.weight.size, len(self.bias), self.scheme) + self.bias.nbytes + grids

    def linear(self, x: th.Tensor) -> th.Tensor:
        """Run the layer without its activations."""
        return super().linear(x if self.inputs is None else fake_quantize(x, self.inputs))


def real_weight(layer: Dense) -> np.ndarray:
    """
    The weights of a layer in any precision as numbers that multiply its inputs.

    :param layer: the layer
    :return: ``(n_out, n_in)`` float32
    """
    if isinstance(layer, Int8Dense):
        return layer.weight * layer.scale[:, None] * layer.gain
    return layer.weight.astype(np.float32)


def packed_bytes(n_weights: int, n_outputs: int, scheme: Scheme) -> int:
    """
    Bytes of a layer's weights with their grids: packed bits, four bytes for each scale, one for each zero point.

    :param n_weights: number of weights
    :param n_outputs: number of outputs
    :param scheme: scheme
    :return: bytes, without biases
    """
    weights = -(-n_weights * scheme.weight_bits // 8)
    if scheme.is_float:
        return weights
    return weights + (n_outputs if scheme.per_output else 1) * (4 if scheme.symmetric else 5)


def quantize_layer(
    layer: Dense,
    scheme: Scheme,
    low: np.ndarray,
    high: np.ndarray,
    first: bool,
    seen: tuple[np.ndarray, np.ndarray] | None = None,
) -> Dense:
    """
    A layer in a scheme with grids.

    :param layer: layer in fp32
    :param scheme: scheme with grids
    :param low: least value of each input in fp32, ``(n_in,)``; of no effect where activations stay in float32
    :param high: greatest value of each input in fp32, ``(n_in,)``
    :param first: True for the first layer
    :param seen: inputs in rollouts, ``(n_steps, n_in)``, of the layer in fp32 and after quantized layers, for a scheme that
        rounds in turn
    :return: the layer: :class:`Int8Dense` in int8, else :class:`SimulatedDense`
    """
    if scheme.activation_bits is None:
        grid = weight_grid(layer.weight, scheme)
        whole, bias = _rounded(layer.weight, layer.bias, grid, seen and seen[::-1])
        weight = grid.dequantize(whole).astype(np.float32)
        return SimulatedDense(weight, bias, layer.activations, scheme, None)
    bits = _bits_in_integers(layer, scheme)
    inputs = activation_grid(low, high, bits.activation_bits, first)  # type: ignore[arg-type]
    # Observations that are far from 0 beside their range multiply the errors of their weights, by nearly constant numbers.
    middle = (inputs.low + inputs.high) / 2 - inputs.zero if first else None
    if scheme.is_integer and seen is None:
        return _int8_layer(layer, bits, inputs, middle)
    weight = layer.weight * inputs.scale  # in units of the inputs' steps, so that the sums are of integers
    # The outputs in fp32 for the inputs as they are: a fit of those for inputs that are rounded would shrink the weights.
    steps = None if seen is None else (inputs.quantize(seen[1]) - inputs.zero, None)
    if not scheme.is_integer:
        grid = weight_grid(weight, scheme)
        whole, bias = _rounded(weight, layer.bias, grid, steps, middle)
        weight = (grid.dequantize(whole) / inputs.scale).astype(np.float32)
        inputs = replace(inputs, scale=th.as_tensor(inputs.scale), zero=th.as_tensor(inputs.zero))
        return SimulatedDense(weight, bias, layer.activations, scheme, inputs)
    grid, unit, ratio = int8_weight_grid(weight, layer.bias, bits)
    whole, bias = _rounded(weight, layer.bias, grid, steps, middle)
    return _int8_dense(layer, inputs, whole.astype(np.int8), bias, unit, ratio)


def _int8_layer(layer: Dense, scheme: Scheme, inputs: Grid, middle: np.ndarray | None) -> Int8Dense:
    """A layer in int8 whose weights are rounded to the nearest, some rows at a time: actors wait for it again and again."""
    extremes = layer.weight
    if len(inputs.scale) == 1:
        extremes = np.stack([extremes.min(1), extremes.max(1)], axis=1)  # all that the grid depends on
    grid, unit, ratio = int8_weight_grid(extremes * inputs.scale, layer.bias, scheme)
    whole, bias = np.empty(layer.weight.shape, dtype=np.int8), np.empty_like(layer.bias)
    for start in range(0, len(whole), ROWS):
        rows = slice(start, start + ROWS)
        weight, grid_of_rows = layer.weight[rows] * inputs.scale, replace(grid, scale=grid.scale[rows])
        whole[rows], bias[rows] = _rounded(weight, layer.bias[rows], grid_of_rows, None, middle)
    return _int8_dense(layer, inputs, whole, bias, unit, ratio)


def _int8_dense(
    layer: Dense, inputs: Grid, whole: np.ndarray, bias: np.ndarray, unit: np.ndarray, ratio: np.ndarray
) -> Int8Dense:
    return Int8Dense(
        weight=whole,
        bias=bias,
        activations=layer.activations,
        unit=np.array([unit], dtype=np.float32),
        ratio=ratio.astype(np.uint16),
        gain=(1 / inputs.scale).astype(np.float32),
        zero=inputs.zero.astype(np.float32),
        greatest=inputs.high,
    )


def _bits_in_integers(layer: Dense, scheme: Scheme) -> Scheme:
    """The scheme whose grid int8 takes: a layer that was trained with fewer bits keeps its grid, which int8 holds exactly."""
    trained = None if layer.trained is None else Scheme.parse(layer.trained.scheme)
    kept = trained is not None and trained.per_output and trained.symmetric and trained.activation_bits is not None
    return trained if scheme.is_integer and kept else scheme  # type: ignore[return-value]


def _rounded(
    weight: np.ndarray,
    bias: np.ndarray,
    grid: Grid,
    seen: tuple[np.ndarray, np.ndarray | None] | None,
    middle: np.ndarray | None = None,
) -> tuple[np.ndarray, np.ndarray]:
    """
    Whole numbers for weights, and biases that go with them; ``seen`` are inputs, and those for which outputs are wanted. Where
    inputs were not seen, biases make up for the errors in the ``middle`` of their ranges.
    """
    if seen is not None:
        return round_in_turn(weight, bias, grid, *seen)
    whole = grid.quantize(weight)
    if middle is not None:
        bias = (bias + (weight - grid.dequantize(whole).astype(np.float64)) @ middle.astype(np.float64)).astype(np.float32)
    return whole, bias


def half(values: np.ndarray, name: str) -> np.ndarray:
    """
    Numbers in float16.

    :param values: numbers
    :param name: name of their network
    :return: the nearest float16 numbers
    :raises ValueError: if one is too large
    """
    if np.abs(values).max(initial=0) > np.finfo(np.float16).max:
        raise ValueError(f"A weight of {name} is too large for fp16: choose fp32.")
    return values.astype(np.float16)
