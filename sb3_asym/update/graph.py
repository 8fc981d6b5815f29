"""Functions of tensors as graphs: traced and compiled for each kind of batch, and on a GPU recorded as CUDA graphs."""

import platform
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from typing import Any

import torch as th
from torch.utils._pytree import tree_structure, tree_unflatten

Function = Callable[..., th.Tensor]


class CompiledUpdateUnavailable(Exception):
    """Raised where only the plain update can go on. Nothing was changed."""


class GraphCache:
    """
    A function as one graph for each kind of batch that it is called with.

    It is traced here and not by ``torch.compile``, whose checks before each call take as long as a small network.

    :param function: function of inputs, then state, as in ``__call__``, that changes some of the state in place; all else
        that it uses is constant
    """

    def __init__(self, function: Function):
        self.function = function
        self._graphs: dict[Any, Function] = {}

    def __call__(self, inputs: tuple[Any, ...], state: tuple[Any, ...]) -> th.Tensor:
        """
        One call of the function.

        :param inputs: values that are new in every call: tensors, or tuples, lists and dicts of them
        :param state: values that last from call to call, of the same kinds
        :return: the function's result
        :raises CompiledUpdateUnavailable: if a new kind of batch cannot be compiled
        """
        return self.each([inputs], state)[0]

    def each(self, inputs: Sequence[tuple[Any, ...]], state: tuple[Any, ...]) -> th.Tensor:
        """
        Several calls, one after the other.

        :param inputs: inputs of each, alike in shapes and types
        :param state: state as for ``__call__``
        :return: the results, stacked
        :raises CompiledUpdateUnavailable: if a new kind of batch cannot be compiled
        """
        fresh, lasting = [_tensors(values) for values in inputs], _tensors(state)
        kind = _kind(fresh[0])
        if kind not in self._graphs:
            self.compile(inputs[0], state)
        graph = self._graphs[kind]
        with th.no_grad():
            return th.stack([graph(*tensors, *lasting) for tensors in fresh])

    def compile(self, inputs: tuple[Any, ...], state: tuple[Any, ...]) -> None:
        """
        Make the graph for this kind of batch, without a step.

        :param inputs: inputs as for ``__call__``
        :param state: state as for ``__call__``
        :raises CompiledUpdateUnavailable: if it cannot be done
        """
        fresh, lasting, structure = _tensors(inputs), _tensors(state), tree_structure((*inputs, *state))
        try:
            graph = compile_function(lambda *tensors: self.function(*tree_unflatten(tensors, structure)), [*fresh, *lasting])
            if lasting[0].is_cuda:
                graph = CudaGraph(graph, len(fresh))
                graph.record(*fresh, *lasting)
        except Exception as error:  # torch and the compilers behind it have many
            message = str(error).strip() or type(error).__name__
            raise CompiledUpdateUnavailable(f"compiling failed ({message.splitlines()[0]})") from error
        self._graphs[_kind(fresh)] = graph


class CudaGraph:
    """
    A function on a GPU, recorded once and replayed without the time that it takes to launch its kernels.

    :param function: compiled function of inputs, whose values are new in every call, and then state, which it changes
    :param n_inputs: number of inputs
    """

    def __init__(self, function: Function, n_inputs: int):
        self.function = function
        self.n_inputs = n_inputs

    @th.no_grad()
    def record(self, *tensors: th.Tensor) -> None:
        """
        Record the kernels of one call.

        :param tensors: inputs of the kind that will come, and the state, which does not change now
        """
        self.inputs = [tensor.clone() for tensor in tensors[: self.n_inputs]]
        self.state = tensors[self.n_inputs :]
        with th.cuda.device(self.state[0].device):
            # Warm up, on copies and another stream: what first calls do, such as loading kernels, cannot be recorded.
            stream = th.cuda.Stream()
            stream.wait_stream(th.cuda.current_stream())
            with th.cuda.stream(stream):
                for _ in range(3):
                    self.function(*self.inputs, *(tensor.clone() for tensor in self.state))
            th.cuda.current_stream().wait_stream(stream)
            self.graph = th.cuda.CUDAGraph()
            with th.cuda.graph(self.graph, stream=stream):
                self.output = self.function(*self.inputs, *self.state)

    def __call__(self, *tensors: th.Tensor) -> th.Tensor:
        """
        Replay the kernels of one call.

        :param tensors: inputs and state
        :return: the function's result
        """
        state = tensors[self.n_inputs :]
        if any(new.data_ptr() != old.data_ptr() for new, old in zip(state, self.state, strict=True)):
            self.record(*tensors)  # it is bound to the memory that it was recorded on
        for recorded, given in zip(self.inputs, tensors[: self.n_inputs], strict=True):
            recorded.copy_(given)
        self.graph.replay()
        return self.output.clone()  # the next call overwrites it


def own_products_are_faster() -> bool:
    """
    Whether this processor is of the kind on which the products in :mod:`sb3_asym.update.matmul` were measured to be faster
    than torch's. It is not measured anew, as a seed must fix the run.

    :return: True on AMD processors with AVX-512
    """
    description = Path("/proc/cpuinfo")
    vendor = description.read_text() if description.exists() else platform.processor()
    return "AuthenticAMD" in vendor and th.backends.cpu.get_cpu_capability() == "AVX512"


@th.no_grad()
def compile_function(function: Function, tensors: Sequence[th.Tensor]) -> Function:
    """
    A function of tensors, traced and compiled.

    :param function: function of tensors, which it may change in place
    :param tensors: examples with the shapes and types of its arguments
    :return: the compiled function
    :raises Exception: any error of torch or of the compiler behind it
    """
    # Their import takes as long as all of torch's, which every process of an actor would wait for.
    from torch._inductor import compile as compile_graph
    from torch.fx.experimental.proxy_tensor import make_fx

    graph = make_fx(function, tracing_mode="fake")(*tensors)
    # The pattern matcher would put the bias back into the matrix product.
    options: dict[str, Any] = {"pattern_matcher": False}
    if not tensors[0].is_cuda:
        options["cpp_wrapper"] = True
        if own_products_are_faster():
            from sb3_asym.update.matmul import OwnProducts  # much of Inductor has to be imported for it

            options["post_grad_custom_pre_pass"] = OwnProducts()
    return compile_graph(graph, [*tensors], options=options)


def _kind(tensors: Iterable[th.Tensor]) -> tuple[Any, ...]:
    """What a graph is made for."""
    return tuple((tensor.shape, tensor.stride(), tensor.dtype) for tensor in tensors)


def _tensors(values: Iterable[Any]) -> list[th.Tensor]:
    """All tensors in tuples, lists and dicts, in order: ``tree_leaves`` of torch, in less time."""
    found: list[th.Tensor] = []
    for value in values:
        if isinstance(value, th.Tensor):
            found.append(value)
        else:
            found += _tensors(value.values() if isinstance(value, dict) else value)
    return found
