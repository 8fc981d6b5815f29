"""Matrix products in C++, for processors on which those of torch (MKL) leave half of the arithmetic unused."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch as th
from torch._inductor.custom_graph_pass import CustomGraphPass, get_hash_for_files
from torch._inductor.ir import ExternKernelOut, FixedLayout, TensorBox
from torch._inductor.lowering import register_lowering
from torch.fx import Graph

HEADER = Path(__file__).parent / "matmul.h"
SOURCE = HEADER.read_text()
PRODUCTS = (th.ops.aten.mm.default, th.ops.aten.bmm.default)


@th.library.custom_op("sb3_asym::matmul", mutates_args=())
def matmul(a: th.Tensor, b: th.Tensor) -> th.Tensor:
    """
    Multiply two matrices: the operator of a graph that compilation replaces by the function in ``matmul.h``.

    :param a: left factor, ``(m, k)`` or ``(batch, m, k)``
    :param b: right factor, ``(k, n)`` or ``(batch, k, n)``
    :return: product, ``(m, n)`` or ``(batch, m, n)``
    """
    return a @ b


@matmul.register_fake
def _(a: th.Tensor, b: th.Tensor) -> th.Tensor:
    return a.new_empty(*a.shape[:-1], b.shape[-1])


class _Product(ExternKernelOut):
    """A call of the function in ``matmul.h``, within the C++ code that Inductor writes."""

    def codegen(self, wrapper: Any) -> None:
        """Write the call and, once, the function itself."""
        if SOURCE not in wrapper.header.getvalue():
            wrapper.header.splice(SOURCE)
        super().codegen(wrapper)


@register_lowering(th.ops.sb3_asym.matmul.default, type_promotion_kind=None)
def _lower(a: TensorBox, b: TensorBox) -> TensorBox:
    """Inductor's form of :func:`matmul`."""
    inputs: Sequence[Any] = [_Product.realize_input(a), _Product.realize_input(b)]
    layout = FixedLayout(th.device("cpu"), a.get_dtype(), [*a.get_size()[:-1], b.get_size()[-1]])
    return TensorBox.create(_Product(layout, inputs, cpp_kernel_name="aoti_torch_sb3_asym_matmul_out"))


class OwnProducts(CustomGraphPass):
    """Pass of Inductor that replaces all float32 products of torch by :func:`matmul`."""

    def __call__(self, graph: Graph) -> None:
        """Replace the products in a graph."""
        for node in graph.nodes:
            if node.target in PRODUCTS and node.meta["val"].dtype is th.float32:
                node.target = th.ops.sb3_asym.matmul.default

    def uuid(self) -> bytes:
        """Key of this pass in Inductor's cache, which changes with the source code."""
        return get_hash_for_files((__file__, str(HEADER)))
