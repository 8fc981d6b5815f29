"""Updates as graphs: traced and compiled for each kind of batch, and on a GPU recorded as CUDA graphs."""

from collections.abc import Callable, Iterable, Sequence
from typing import Any

import torch as th
import torch._inductor
from torch.fx.experimental.proxy_tensor import make_fx
from torch.utils._pytree import tree_structure, tree_unflatten

Function = Callable[..., th.Tensor]


class CompiledUpdate:
    """
    An update as one graph, for each kind of batch that it is called with.

    It is traced here and not by ``torch.compile``, whose checks before each call take as long as a small network.

    :param function: takes inputs, then state, as ``__call__`` does, and changes some of the state in place. All else that it
        uses is constant.
    """

    def __init__(self, function: Function):
        self.function = function
        self._graphs: dict[Any, Function] = {}

    def __call__(self, inputs: tuple[Any, ...], state: tuple[Any, ...]) -> th.Tensor:
        """
        :param inputs: what is new in every call: tensors, or tuples, lists and dicts of them
        :param state: what lasts, likewise
        :return: what the function returns; the next call may overwrite it
        """
        graph, tensors = self.compile(inputs, state)
        with th.no_grad():
            return graph(*tensors)

    def compile(self, inputs: tuple[Any, ...], state: tuple[Any, ...]) -> tuple[Function, list[th.Tensor]]:
        """
        :param inputs: as in ``__call__``
        :param state: likewise; it does not change
        :return: the graph for this kind of batch, and what it takes
        :raises Exception: what torch or the compiler raises where it cannot be done
        """
        fresh, lasting = _tensors(inputs), _tensors(state)
        on_gpu = lasting[0].is_cuda
        kind: Any = tuple((tensor.shape, tensor.dtype) for tensor in fresh)
        if on_gpu:  # a CUDA graph is bound to the memory that it was recorded on
            kind = (kind, tuple(tensor.data_ptr() for tensor in lasting))
        if kind not in self._graphs:
            structure = tree_structure((*inputs, *state))
            graph = compile_function(lambda *tensors: self.function(*tree_unflatten(tensors, structure)), [*fresh, *lasting])
            self._graphs[kind] = CudaGraph(graph, fresh, lasting) if on_gpu else graph
        return self._graphs[kind], [*fresh, *lasting]


class CudaGraph:
    """
    A function on a GPU, recorded once and replayed without the time that it takes to launch its kernels.

    :param function: takes inputs, then state; compiled
    :param inputs: values of the kind that it will take
    :param state: the tensors that it reads and changes in every call
    """

    @th.no_grad()
    def __init__(self, function: Function, inputs: Sequence[th.Tensor], state: Sequence[th.Tensor]):
        self.inputs = [tensor.clone() for tensor in inputs]
        self.state = state
        # On copies and a stream of its own: all that happens in first calls, such as choosing kernels, cannot be recorded.
        stream = th.cuda.Stream()
        stream.wait_stream(th.cuda.current_stream())
        with th.cuda.stream(stream):
            for _ in range(3):
                function(*self.inputs, *(tensor.clone() for tensor in state))
        th.cuda.current_stream().wait_stream(stream)
        self.graph = th.cuda.CUDAGraph()
        with th.cuda.graph(self.graph):
            self.output = function(*self.inputs, *state)

    def __call__(self, *tensors: th.Tensor) -> th.Tensor:
        """
        :param tensors: inputs and state, the latter the recorded one
        :return: what the function returns, overwritten by the next call
        """
        for recorded, given in zip(self.inputs, tensors[: len(self.inputs)], strict=True):
            recorded.copy_(given)
        self.graph.replay()
        return self.output


@th.no_grad()
def compile_function(function: Function, tensors: Sequence[th.Tensor]) -> Function:
    """
    :param function: takes tensors, and may change them in place
    :param tensors: of the shapes and types that it will take
    :return: the same, compiled
    :raises Exception: what torch or the compiler raises where it cannot be done
    """
    graph = make_fx(function, tracing_mode="fake")(*tensors)
    # The pattern matcher would put the bias back into the matrix product.
    options: dict[str, Any] = {"pattern_matcher": False}
    if not tensors[0].is_cuda:
        from sb3_asym import matmul  # it takes a second to import, which only those who compile have to wait

        options["cpp_wrapper"] = True
        if matmul.is_faster():
            options["post_grad_custom_pre_pass"] = matmul.OwnProducts()
    return torch._inductor.compile(graph, [*tensors], options=options)


def _tensors(values: Iterable[Any]) -> list[th.Tensor]:
    """All tensors in tuples, lists and dicts, in order: ``tree_leaves`` of torch, in less time."""
    found: list[th.Tensor] = []
    for value in values:
        if isinstance(value, th.Tensor):
            found.append(value)
        else:
            found += _tensors(value.values() if isinstance(value, dict) else value)
    return found
