"""Large matrix products by oneDNN where torch's own, by MKL, leave half of the processor idle: on AMD's with AVX-512."""

import platform
from pathlib import Path

import torch as th
from torch.fx import GraphModule

LEAST_FLOPS = 1e7
"""Of a product for which the call from the graph to Python pays."""
PRODUCTS = (th.ops.aten.mm.default, th.ops.aten.bmm.default)


@th.library.custom_op("sb3_asym::matmul", mutates_args=())
def matmul(a: th.Tensor, b: th.Tensor) -> th.Tensor:
    """
    :param a: ``(m, k)``, or ``(batch, m, k)``
    :param b: ``(k, n)``, or ``(batch, k, n)``
    :return: their product, by oneDNN
    """
    if a.dim() == 3:
        return th.stack([matmul(*pair) for pair in zip(a, b, strict=True)])
    return th.ops.mkldnn._linear_pointwise(a, b.t(), None, "none", [], "")


@matmul.register_fake
def _(a: th.Tensor, b: th.Tensor) -> th.Tensor:
    return a.new_empty(*a.shape[:-1], b.shape[-1])


def is_faster() -> bool:
    """
    :return: whether this processor is one on which oneDNN is faster. It is not measured, as a seed must fix the run.
    """
    description = Path("/proc/cpuinfo")
    vendor = description.read_text() if description.exists() else platform.processor()
    return th.backends.mkldnn.is_available() and "AMD" in vendor and th.backends.cpu.get_cpu_capability() == "AVX512"


def replace_products(graph: GraphModule) -> None:
    """
    Hand the large products of a graph to oneDNN.

    :param graph: of ATen operators, traced with shapes; it is changed
    """
    for node in graph.graph.nodes:
        if node.target in PRODUCTS:
            a, b = (argument.meta["val"] for argument in node.args)
            if 2 * a.numel() * b.shape[-1] >= LEAST_FLOPS:
                node.target = th.ops.sb3_asym.matmul.default
    graph.recompile()
