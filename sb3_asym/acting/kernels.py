"""What runs the networks in an actor: the C of the export compiled for the machine, ONNX Runtime, or torch."""

import ctypes
from importlib.util import find_spec
from itertools import groupby
from pathlib import Path
from typing import Any, Protocol

import numpy as np
import torch as th

from sb3_asym.acting.networks import Layout
from sb3_asym.deployment.agent import DeployableAgent
from sb3_asym.export.c import fill, layer_functions, network_code
from sb3_asym.export.c_runner import c_compiler, compile_library
from sb3_asym.quantization.schemes import EXPORTED
from sb3_asym.versions import __version__

KERNELS = ("c", "onnx", "torch")


class Kernel(Protocol):
    """Interface of a kernel, which runs the networks of a block."""

    def load(self, block: np.ndarray) -> None:
        """
        Take new weights.

        :param block: block of weights, which stays as it is until the next one is loaded
        """

    def run(self, network: int, x: np.ndarray) -> np.ndarray:
        """
        Run a network.

        :param network: its index
        :param x: ``(n_in,)`` float32 input, contiguous
        :return: ``(n_out,)`` float32 outputs, good until the next call
        """


def choose_kernel(precision: str, kernel: str | None = None) -> tuple[str, str]:
    """
    The fastest kernel that this machine has for a precision.

    :param precision: "fp32", "fp16" or "int8"
    :param kernel: "c", "onnx" or "torch"; None to choose
    :return: kernel, and the precision in which it runs: without a C compiler and ONNX Runtime that is fp32
    :raises ValueError: if there is no such precision or kernel, or torch is to run int8
    """
    if precision not in EXPORTED:
        raise ValueError(f"The actors' precision must be one of {', '.join(EXPORTED)}, got {precision!r}.")
    if kernel is not None and kernel not in KERNELS:
        raise ValueError(f"The actors' kernel must be one of {', '.join(KERNELS)}, got {kernel!r}.")
    if kernel == "torch" and precision == "int8":
        raise ValueError("Torch has no int8 kernel that is faster than fp32: choose kernel='c' or 'onnx'.")
    if kernel is not None:
        return kernel, precision
    try:
        c_compiler()
        return "c", precision
    except FileNotFoundError:
        if find_spec("onnx") and find_spec("onnxruntime"):
            return "onnx", precision
    if precision != "fp32":
        print(f"No C compiler and no ONNX Runtime here: the actors run in fp32 instead of {precision}.")
    return "torch", "fp32"


def make_kernel(name: str, layout: Layout, library: Path | None = None) -> Kernel:
    """
    Make a kernel.

    :param name: "c", "onnx" or "torch"
    :param layout: layout of the blocks that it will load
    :param library: compiled C code of :func:`compile_kernel`
    :return: the kernel
    """
    if name == "c":
        assert library is not None
        return CKernel(layout, library)
    return OnnxKernel(layout) if name == "onnx" else TorchKernel(layout)


def kernel_source(agent: DeployableAgent, layout: Layout) -> str:
    """
    C code of the networks of an agent: that of the export, with pointers into a block in place of its arrays.

    :param agent: agent in the precision of the actors, for its shapes
    :param layout: layout of the blocks
    :return: the code
    """
    activations: dict[str, str] = {}
    pointers, assignments, bodies, cases = [], [], [], []
    offsets = iter(layout.offsets())
    for number, network in enumerate(agent.networks):
        arrays, body = network_code(network, number, activations)
        bodies.append(body)
        cases.append(f"    case {number}:\n        network_{number}(x, y);\n        break;")
        for _, group in groupby(arrays, lambda array: array.name.rpartition("_")[2]):
            for array, offset in zip(group, next(offsets), strict=False):  # the last of int8 is for ONNX
                pointers.append(f"static const {array.c_type} *{array.name};")
                assignments.append(f"    {array.name} = (const {array.c_type} *)(block + {offset});")
    return fill(
        "kernel.c",
        version=__version__,
        pointers="\n".join(pointers),
        functions="\n".join(layer_functions(agent.networks, activations)),
        networks="\n".join(bodies),
        assignments="\n".join(assignments),
        cases="\n".join(cases),
    )


def compile_kernel(source: str, folder: Path) -> Path:
    """
    Compile the networks for this machine's processor.

    :param source: code of :func:`kernel_source`
    :param folder: folder to write to
    :return: path to the library
    """
    (folder / "kernel.c").write_text(source)
    compile_library(folder / "kernel.c", folder / "kernel.so")
    return folder / "kernel.so"


class CKernel:
    """
    The C of the export, with weights by pointer.

    :param layout: layout of the blocks
    :param library: compiled code of :func:`kernel_source`; it holds one set of pointers, so two kernels of a process need
        two files
    """

    def __init__(self, layout: Layout, library: Path):
        loaded = ctypes.CDLL(str(library))
        self._load, self._run = loaded.kernel_load, loaded.kernel_run
        self._load.argtypes, self._load.restype = [ctypes.c_void_p], None
        self._run.argtypes, self._run.restype = [ctypes.c_int, ctypes.c_void_p, ctypes.c_void_p], None
        self._outputs = [np.zeros(size, dtype=np.float32) for size in layout.n_outputs]
        self._pointers = [output.ctypes.data for output in self._outputs]

    def load(self, block: np.ndarray) -> None:
        """Take new weights."""
        self._block = block
        self._load(block.ctypes.data)

    def run(self, network: int, x: np.ndarray) -> np.ndarray:
        """Run a network."""
        self._run(network, x.ctypes.data, self._pointers[network])
        return self._outputs[network]


class OnnxKernel:
    """
    ONNX Runtime on the graphs of the export. Needs the extra ``export``.

    :param layout: layout of the blocks
    """

    def __init__(self, layout: Layout):
        self._layout = layout

    def load(self, block: np.ndarray) -> None:
        """Take new weights, for which new sessions are made."""
        from sb3_asym.export.onnx import network_session

        self._bindings: list[Any] = []
        self._inputs: list[np.ndarray] = []
        self._outputs: list[np.ndarray] = []
        for network in self._layout.read(block)[0]:
            session = network_session(network)
            binding = session.io_binding()
            for bind, values, arrays in (
                (binding.bind_input, session.get_inputs(), self._inputs),
                (binding.bind_output, session.get_outputs(), self._outputs),
            ):
                array = np.zeros(values[0].shape, dtype=np.float32)
                bind(values[0].name, "cpu", 0, array.dtype, array.shape, array.ctypes.data)
                arrays.append(array)
            self._bindings.append((session, binding))

    def run(self, network: int, x: np.ndarray) -> np.ndarray:
        """Run a network."""
        session, binding = self._bindings[network]
        self._inputs[network][0] = x
        session.run_with_iobinding(binding)
        return self._outputs[network][0]


class TorchKernel:
    """
    Torch in fp32; fp16 is how the weights came.

    :param layout: layout of the blocks
    """

    def __init__(self, layout: Layout):
        self._layout = layout

    def load(self, block: np.ndarray) -> None:
        """Take new weights."""
        self._networks = []
        for network in self._layout.read(block)[0]:
            layers = []
            for layer in network.layers:
                weight, bias = (th.as_tensor(np.ascontiguousarray(values)).float() for values in (layer.weight, layer.bias))
                layers.append((weight, bias, layer.activations))
            self._networks.append(layers)

    @th.inference_mode()
    def run(self, network: int, x: np.ndarray) -> np.ndarray:
        """Run a network."""
        y = th.from_numpy(x)
        for weight, bias, activations in self._networks[network]:
            y = th.nn.functional.linear(y, weight, bias)
            for activation in activations:
                y = activation(y)
        return y.numpy()
