"""Quantization schemes, and the grids on which quantized numbers lie: the one way to quantize, for numpy and torch alike.

A grid is :math:`\\hat x = (q - z) s` with whole numbers q, a scale s and a zero point z (Jacob et al. 2018, arXiv 1712.05877).
A scheme says what lies on grids: weights alone, as in QuaRL (Krishnan et al. 2019, arXiv 1910.01055), or weights and
activations.
"""

import re
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import torch as th

PRECISIONS = ("fp32", "fp16", "int8")
"""Names of the schemes in which an agent can be exported."""
Array = Any
"""A numpy array or a torch tensor; what comes out is of the same kind."""
LEAST_RANGE, LEAST_WEIGHT = 1e-6, 1e-30
RATIOS = 65535
_FLOATS = {16: "fp16", 32: "fp32"}
_BITS = range(2, 9)


@dataclass(frozen=True)
class Scheme:
    """
    How the numbers of a network are stored and calculated with.

    As text: ``fp16``; ``w4``, weights of 4 bits with activations in fp32; ``w4a8``, with activations of 8 bits too; ``int8``,
    the same as ``w8a8``. Weights have a symmetric grid for each output; ``-tensor`` takes one grid for all weights of a layer,
    and ``-affine`` grids with a zero point. So ``w4-tensor-affine`` is the paper's scheme for dense layers. Weights are
    rounded to the nearest number of their grid; ``-gptq`` rounds them one after the other instead, where those to come make up
    for the error so far, which needs observations.

    :param weight_bits: bits of a weight, 2 to 8; 16 and 32 are float16 and float32
    :param activation_bits: bits of a layer's inputs, 2 to 8, always with a zero point; None leaves them in float32
    :param per_output: True for a grid for each output of a layer, False for one for all its weights
    :param symmetric: True for weights in ±(2^(bits-1) - 1) without a zero point, False for 2^bits numbers with one
    :param gptq: True to round weights in turn, see :mod:`sb3_asym.quantization.gptq`
    :raises ValueError: if a number of bits is out of range
    """

    weight_bits: int
    activation_bits: int | None = None
    per_output: bool = True
    symmetric: bool = True
    gptq: bool = False

    def __post_init__(self) -> None:
        if self.weight_bits in _FLOATS:
            if replace(self, weight_bits=8) != Scheme(8):
                raise ValueError(f"{_FLOATS[self.weight_bits]} has no grid: it takes no other settings.")
        elif self.weight_bits not in _BITS or self.activation_bits not in (None, *_BITS):
            raise ValueError(f"A scheme takes 2 to 8 bits, got {self.weight_bits} and {self.activation_bits}.")

    @classmethod
    def parse(cls, text: "str | Scheme") -> "Scheme":
        """
        The scheme that a text names.

        :param text: such as "fp16", "int8", "w4", "w4a8" or "w4-tensor-affine"; or a scheme
        :return: the scheme
        :raises ValueError: if there is no such scheme
        """
        if isinstance(text, Scheme):
            return text
        if text in _FLOATS.values():
            return cls(int(text[2:]))
        bits = r"(?:int(?P<both>\d+)|w(?P<w>\d+)(?:a(?P<a>\d+))?)"
        found = re.fullmatch(bits + "(?P<tensor>-tensor)?(?P<affine>-affine)?(?P<gptq>-gptq)?", text)
        if found is None:
            raise ValueError(
                "A scheme is fp16, or bits such as int8, w4 or w4a8, then any of -tensor, -affine and -gptq, in this order; "
                f"got {text!r}."
            )
        weight_bits, activation_bits = found["both"] or found["w"], found["both"] or found["a"]
        return cls(
            int(weight_bits),
            None if activation_bits is None else int(activation_bits),
            per_output=found["tensor"] is None,
            symmetric=found["affine"] is None,
            gptq=found["gptq"] is not None,
        )

    @property
    def name(self) -> str:
        """The scheme as text, which :meth:`parse` reads."""
        if self.is_float:
            return _FLOATS[self.weight_bits]
        bits = f"w{self.weight_bits}" if self.activation_bits is None else f"w{self.weight_bits}a{self.activation_bits}"
        if self.weight_bits == self.activation_bits:
            bits = f"int{self.weight_bits}"
        marks = {"-tensor": not self.per_output, "-affine": not self.symmetric, "-gptq": self.gptq}
        return bits + "".join(mark for mark, given in marks.items() if given)

    @property
    def is_float(self) -> bool:
        """Whether numbers stay floats."""
        return self.weight_bits in _FLOATS

    @property
    def is_integer(self) -> bool:
        """Whether layers calculate with integers as the exported int8 does; other schemes are simulated in float32."""
        return replace(self, gptq=False) == Scheme(8, 8)

    @property
    def needs_observations(self) -> bool:
        """Whether observations of rollouts are needed."""
        return self.activation_bits is not None or self.gptq

    def __str__(self) -> str:
        return self.name


@dataclass(frozen=True)
class Grid:
    r"""
    The numbers :math:`(q - z) s` for whole numbers q from ``low`` to ``high``.

    :param scale: scale s, of a shape that broadcasts to that of the numbers
    :param zero: zero point z, of the scale's shape, or 0
    :param low: least q
    :param high: greatest q
    """

    scale: Array
    zero: Array
    low: int
    high: int

    def quantize(self, values: Array) -> Array:
        """
        The nearest numbers of the grid.

        :param values: any numbers
        :return: whole numbers q as floats, of the shape of ``values``
        """
        xp = _library(values)
        return xp.clip(xp.round(values / self.scale + self.zero), self.low, self.high)

    def dequantize(self, whole: Array) -> Array:
        """
        The numbers of the grid that whole numbers stand for.

        :param whole: whole numbers q
        :return: numbers of the grid, of the same shape
        """
        return (whole - self.zero) * self.scale

    def reaches(self, values: Array) -> Array:
        """
        Which numbers lie in the range of the grid: elsewhere the nearest number is its end.

        :param values: any numbers
        :return: truth values of the shape of ``values``; a straight-through gradient passes where they are true
        """
        whole = values / self.scale + self.zero
        return (whole >= self.low - 0.5) & (whole <= self.high + 0.5)


def fake_quantize(values: Array, grid: Grid) -> Array:
    """
    Quantize and dequantize. In torch its gradient is 0: a straight-through one is put around it.

    :param values: any numbers
    :param grid: grid
    :return: the nearest numbers of the grid, of the same shape
    """
    return grid.dequantize(grid.quantize(values))


def range_grid(
    low: Array, high: Array, bits: int, symmetric: bool = False, zero_on_grid: bool = True, least: float = LEAST_RANGE
) -> Grid:
    """
    The grid over a range.

    :param low: least numbers, an array or tensor of any shape
    :param high: greatest numbers, of the same shape
    :param bits: bits of a number
    :param symmetric: True for a grid without zero point, of 2^bits - 1 numbers
    :param zero_on_grid: True to widen a range to 0, which then is a number of the grid; False for the range as it is
    :param least: least width of a range, or least greatest size of a symmetric one
    :return: the grid, with scales of the range's shape
    """
    xp = _library(low)
    if symmetric:
        top = 2 ** (bits - 1) - 1
        return Grid(xp.clip(xp.maximum(abs(low), abs(high)), least, None) / top, 0, -top, top)
    if zero_on_grid:
        low, high = xp.clip(low, None, 0), xp.clip(high, 0, None)
    top = 2**bits - 1
    scale = xp.clip(high - low, least, None) / top
    zero = -low / scale
    return Grid(scale, xp.round(zero) if zero_on_grid else zero, 0, top)


def weight_grid(weight: Array, scheme: Scheme) -> Grid:
    """
    The grid of a layer's weights, over the range from the least to the greatest.

    :param weight: weights of a dense layer, ``(n_out, n_in)``, or of a convolution, ``(n_out, n_in, height, width)``
    :param scheme: scheme with grids
    :return: the grid; its scale is ``(n_out, 1, …)``, or ``(1, 1, …)`` with one grid for all weights
    """
    xp, n_grids = _library(weight), len(weight) if scheme.per_output else 1
    rows, shape = weight.reshape(n_grids, -1), (n_grids, *[1] * (weight.ndim - 1))
    low, high = xp.amin(rows, 1).reshape(shape), xp.amax(rows, 1).reshape(shape)
    return range_grid(low, high, scheme.weight_bits, scheme.symmetric, least=LEAST_WEIGHT)


def activation_grid(low: Array, high: Array, bits: int, first: bool) -> Grid:
    """
    The grid of a layer's inputs.

    :param low: least value of each input, ``(n_in,)``
    :param high: greatest value of each input, ``(n_in,)``
    :param bits: bits of an input
    :param first: True for the first layer, where each input has a range of its own, as units of observations differ; the
        others have one range for all, with 0 on the grid
    :return: the grid, with scales ``(n_in,)`` in the first layer, ``(1,)`` in the others
    """
    if not first:
        xp = _library(low)
        low, high = xp.amin(low).reshape(1), xp.amax(high).reshape(1)
    return range_grid(low, high, bits, zero_on_grid=not first)


def int8_weight_grid(weight: Array, bias: Array, scheme: Scheme) -> tuple[Grid, Array, Array]:
    """
    The grid of weights in the exported int8: that of :func:`weight_grid`, with scales that take two bytes instead of four, as
    multiples of one unit. Weights are rounded in these scales, so no precision is lost.

    :param weight: weights in units of the inputs' steps, ``(n_out, n_in)``
    :param bias: biases, ``(n_out,)``
    :param scheme: int8
    :return: the grid, the unit, and the scales ÷ unit, whole numbers ``(n_out,)``
    """
    xp, plain = _library(weight), weight_grid(weight, scheme)
    # Where all weights are tiny, the scale is large enough for the bias, in its units, to remain an int32.
    scale = xp.maximum(plain.scale[:, 0], xp.clip(abs(bias), 1e-6, None) / 2**30)
    unit = xp.amax(scale) / RATIOS
    ratio = xp.clip(xp.ceil(scale / unit), 1, RATIOS)
    return Grid((unit * ratio)[:, None], 0, plain.low, plain.high), unit, ratio


def parse_precision(text: str, names: tuple[str, ...]) -> dict[str, str]:
    """
    Parse the precision in which each network is exported.

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


def _library(values: Array) -> Any:
    """The library of an array, whose functions have the same names."""
    return th if isinstance(values, th.Tensor) else np
