"""Activations that can be exported, in C99 and as ONNX operators."""

import math
from collections.abc import Callable
from typing import Any, NamedTuple

from torch import nn


class Activation(NamedTuple):
    """
    An activation in the export formats.

    :param c: function from the torch module to a C expression of ``x``
    :param onnx: name of the ONNX operator
    :param attributes: function from the torch module to the attributes of the ONNX operator
    :param supports: function from the torch module to True if its settings can be exported
    """

    c: Callable[[Any], str]
    onnx: str
    attributes: Callable[[Any], dict[str, float]] = lambda _: {}
    supports: Callable[[Any], bool] = lambda _: True


def c_float(value: float) -> str:
    """
    Write a float as a C literal.

    :param value: float32 number, which may be infinite
    :return: C literal of the same float32 number
    """
    if math.isinf(value):
        return "INFINITY" if value > 0 else "-INFINITY"
    text = format(float(value), ".9g")
    return f"{text}f" if "." in text or "e" in text else f"{text}.0f"


ACTIVATIONS: dict[type[nn.Module], Activation] = {
    nn.ReLU: Activation(lambda _: "x < 0.0f ? 0.0f : x", "Relu"),
    nn.Tanh: Activation(lambda _: "tanhf(x)", "Tanh"),
    nn.Sigmoid: Activation(lambda _: "1.0f / (1.0f + expf(-x))", "Sigmoid"),
    nn.ELU: Activation(
        lambda m: f"x > 0.0f ? x : {c_float(m.alpha)} * (expf(x) - 1.0f)", "Elu", lambda m: {"alpha": float(m.alpha)}
    ),
    nn.LeakyReLU: Activation(
        lambda m: f"x > 0.0f ? x : {c_float(m.negative_slope)} * x",
        "LeakyRelu",
        lambda m: {"alpha": float(m.negative_slope)},
    ),
    nn.Softplus: Activation(
        lambda _: "x > 20.0f ? x : log1pf(expf(x))", "Softplus", supports=lambda m: (m.beta, m.threshold) == (1, 20)
    ),
    nn.Hardtanh: Activation(
        lambda m: f"x < {c_float(m.min_val)} ? {c_float(m.min_val)} : x > {c_float(m.max_val)} ? {c_float(m.max_val)} : x",
        "Clip",
        lambda m: {"min": float(m.min_val), "max": float(m.max_val)},
    ),
}
