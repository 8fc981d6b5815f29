"""ONNX from a deployable agent. Needs the extra ``export`` (onnx, onnxruntime)."""

import json
import re
import tempfile
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnxruntime
from onnx import TensorProto, helper, numpy_helper

from sb3_asym.deployment.activations import ACTIVATIONS
from sb3_asym.deployment.agent import Dense, DeployableAgent, DeployedDial, Network
from sb3_asym.quantization.layers import Int8Dense
from sb3_asym.versions import __version__, versions

OPSET = 21
IR_VERSION = 10
INT8_KERNELS = {"MatMulIntegerToFloat", "QLinearMatMul", "QGemm"}


class Graph:
    """
    An ONNX graph under construction: its nodes and constants.

    :param name: prefix of the names of its values, unlike those of the graphs around it
    """

    def __init__(self, name: str):
        self.name = name
        self.nodes: list[onnx.NodeProto] = []
        self.initializers: list[onnx.TensorProto] = []

    def constant(self, values: Any) -> str:
        """
        Add a constant.

        :param values: array or number
        :return: name of the constant
        """
        name = f"{self.name}/c{len(self.initializers)}"
        self.initializers.append(numpy_helper.from_array(np.asarray(values), name))
        return name

    def add(self, operator: str, *inputs: Any, **attributes: Any) -> str:
        """
        Add a node.

        :param operator: name of an ONNX operator
        :param inputs: names of values, or arrays that become constants
        :param attributes: attributes of the operator
        :return: name of the node's result
        """
        names = [value if isinstance(value, str) else self.constant(value) for value in inputs]
        result = f"{self.name}/{operator}{len(self.nodes)}"
        self.nodes.append(helper.make_node(operator, names, [result], name=result, **attributes))
        return result

    def choose(self, condition: str, yes: onnx.GraphProto, no: onnx.GraphProto) -> str:
        """
        Add a branch of which one side runs.

        :param condition: name of a boolean value
        :param yes: graph for True
        :param no: graph for False
        :return: name of the branch's result
        """
        return self.add("If", condition, then_branch=yes, else_branch=no)

    def finish(self, inputs: list[onnx.ValueInfoProto], outputs: list[onnx.ValueInfoProto]) -> onnx.GraphProto:
        """
        Finish the graph.

        :param inputs: inputs of the graph
        :param outputs: outputs of the graph, each with the name of a node's result
        :return: the graph
        """
        return helper.make_graph(self.nodes, self.name, inputs, outputs, self.initializers)


def write_onnx(agent: DeployableAgent, folder: Path) -> None:
    """
    Write ``policy.onnx`` and, for an agent with a master, ``master.onnx`` and ``sub_policy_<name>.onnx`` for each sub-policy.

    :param agent: agent to export, in any precision
    :param folder: folder to write to
    :raises ValueError: if a part of the observation has the name of another input or of an output, if two sub-policies
        have the same file name, or if ONNX Runtime does not run all int8 layers with int8 kernels
    """
    taken = {"action", "cost_coef", "option", "option_in", "q_values", "steps_left", "steps_left_in"}
    for part in agent.observations:
        if part.name in taken:
            raise ValueError(f"The observation's {part.name!r} has a name that the ONNX graph needs: rename it in the env.")
    models = {"policy": _policy(agent)}
    if agent.master is not None:
        models["master"] = _single(agent, agent.master)
        for sub_policy in agent.sub_policies:
            name = f"sub_policy_{re.sub(r'[^0-9A-Za-z_-]', '_', sub_policy.name)}"
            if name in models:
                raise ValueError(f"Two sub-policies would be written to {name}.onnx: name them otherwise.")
            models[name] = _single(agent, sub_policy)
    for name, model in models.items():
        onnx.checker.check_model(model, full_check=True)
        onnx.save(model, folder / f"{name}.onnx")
    n_int8_layers = sum(len(network.layers) for network in agent.networks if network.precision == "int8")
    n_kernels = sum(count for kind, count in operators(folder / "policy.onnx").items() if kind in INT8_KERNELS)
    if n_kernels < n_int8_layers:
        what = f"{n_kernels} of {n_int8_layers} int8 layers with int8 kernels"
        raise ValueError(f"ONNX Runtime {onnxruntime.__version__} runs only {what}: choose fp32 or fp16.")


def network_bytes(network: Network) -> int:
    """
    Size of a network in ONNX.

    :param network: the network
    :return: bytes of the network's numbers in the graph
    """
    graph = Graph(network.name)
    _network(graph, network, "observation")
    return sum(len(initializer.raw_data) for initializer in graph.initializers)


def network_session(network: Network) -> onnxruntime.InferenceSession:
    """
    A network alone in ONNX Runtime.

    :param network: the network, in any precision
    :return: session on one thread, from ``x``, ``(1, n_in)``, to ``y``, ``(1, n_out)``
    """
    graph = Graph(network.name)
    _rename(graph, graph.add("Identity", _network(graph, network, "x")), "y")
    shapes = {"x": network.layers[0].weight.shape[1], "y": len(network.layers[-1].bias)}
    inputs, outputs = ([_value(name, [1, size])] for name, size in shapes.items())
    model = helper.make_model(
        graph.finish(inputs, outputs), opset_imports=[helper.make_opsetid("", OPSET)], ir_version=IR_VERSION
    )
    return open_session(model.SerializeToString())


def open_session(source: Path | bytes, optimized: Path | None = None) -> onnxruntime.InferenceSession:
    """
    Load ONNX into ONNX Runtime.

    :param source: path to an ONNX file, or its content
    :param optimized: path of a file for the optimized graph, or None
    :return: session on one thread
    """
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = options.inter_op_num_threads = 1
    # Without it, products of int8 saturate on x86 processors that lack VNNI.
    options.add_session_config_entry("session.x64quantprecision", "1")
    if optimized is not None:
        options.graph_optimization_level = onnxruntime.GraphOptimizationLevel.ORT_ENABLE_EXTENDED
        options.optimized_model_filepath = str(optimized)
    model = source if isinstance(source, bytes) else str(source)
    return onnxruntime.InferenceSession(model, options, providers=["CPUExecutionProvider"])


def operators(path: Path) -> Counter[str]:
    """
    Count the operators that ONNX Runtime runs after its optimization of the graph.

    :param path: path to an ONNX file
    :return: number of operators by kind
    """
    with tempfile.TemporaryDirectory() as folder:
        optimized = Path(folder) / "optimized.onnx"
        open_session(path, optimized)
        return Counter(node.op_type for node in _all_nodes(onnx.load(optimized).graph))


def _all_nodes(graph: onnx.GraphProto) -> Iterator[onnx.NodeProto]:
    """Nodes of a graph and of the graphs within it."""
    for node in graph.node:
        yield node
        for attribute in node.attribute:
            if attribute.type == onnx.AttributeProto.GRAPH:
                yield from _all_nodes(attribute.g)


def _single(agent: DeployableAgent, network: Network) -> onnx.ModelProto:
    """Graph of a single network: from a batch of observations to actions, or to q-values and options for the master."""
    graph = Graph(network.name)
    is_master = network is agent.master
    x = _observations(graph, agent)
    output = _network(graph, network, x, _shift(graph, agent.dial if is_master else None))
    if is_master:
        _rename(graph, graph.add("Identity", output), "q_values")
        _rename(graph, graph.add("ArgMax", output, axis=1, keepdims=0), "option")
        outputs = [_value("q_values", ["batch", len(agent.sub_policies)]), _value("option", ["batch"], TensorProto.INT64)]
    else:
        _rename(graph, _action(graph, agent, output), "action")
        outputs = [_value("action", ["batch", agent.action_dim])]
    return _model(agent, graph.finish([*_inputs(agent, "batch"), *(_dial(agent) if is_master else [])], outputs))


def _policy(agent: DeployableAgent) -> onnx.ModelProto:
    """Graph of the whole agent: from an observation and the option state to an action and the next option state."""
    graph = Graph("policy")
    x = _observations(graph, agent)
    due = graph.add("LessOrEqual", "steps_left_in", np.zeros(1, dtype=np.int64))
    if agent.master is None:
        _rename(graph, graph.add("Identity", np.zeros(1, dtype=np.int64)), "option")
    else:
        master, keep = Graph("master"), Graph("keep")
        values = _network(master, agent.master, x, _shift(graph, agent.dial))
        chosen = master.add("ArgMax", values, axis=1, keepdims=0)
        kept = keep.add("Identity", "option_in")
        branches = (
            master.finish([], [_value(chosen, [1], TensorProto.INT64)]),
            keep.finish([], [_value(kept, [1], TensorProto.INT64)]),
        )
        _rename(graph, graph.choose(due, *branches), "option")
    left = graph.add("Where", due, np.array([agent.option_length]), "steps_left_in")
    _rename(graph, graph.add("Sub", left, np.ones(1, dtype=np.int64)), "steps_left")
    _rename(graph, _run_option(graph, agent, x, 0), "action")
    state = [_value(name, [1], TensorProto.INT64) for name in ("option_in", "steps_left_in")]
    outputs = [
        _value("action", [1, agent.action_dim]),
        _value("option", [1], TensorProto.INT64),
        _value("steps_left", [1], TensorProto.INT64),
    ]
    return _model(agent, graph.finish([*_inputs(agent, 1), *_dial(agent), *state], outputs))


def _run_option(graph: Graph, agent: DeployableAgent, x: str, first: int) -> str:
    """Nodes for the action of the option in force, which is ``first`` or one after it."""
    if first == len(agent.sub_policies) - 1:
        return _action(graph, agent, _network(graph, agent.sub_policies[first], x))
    is_first = graph.add("Equal", "option", np.array([first]))
    this, rest = Graph(f"option{first}"), Graph(f"after{first}")
    actions = [
        _action(this, agent, _network(this, agent.sub_policies[first], x)),
        _run_option(rest, agent, x, first + 1),
    ]
    outputs = [_value(name, [1, agent.action_dim]) for name in actions]
    return graph.choose(is_first, this.finish([], outputs[:1]), rest.finish([], outputs[1:]))


def _observations(graph: Graph, agent: DeployableAgent) -> str:
    """Nodes for the flat, normalized observation."""
    parts = [part.name if len(part.shape) == 1 else graph.add("Flatten", part.name, axis=1) for part in agent.observations]
    x = parts[0] if len(parts) == 1 else graph.add("Concat", *parts, axis=1)
    if agent.normalization is not None:
        mean, gain, clip = vars(agent.normalization).values()
        x = graph.add("Min", graph.add("Max", graph.add("Mul", graph.add("Sub", x, mean), gain), -clip), clip)
    return x


def _shift(graph: Graph, dial: DeployedDial | None) -> tuple[str, str] | None:
    """Nodes for what the input ``cost_coef``, λ, adds to the outputs of the master's first and last layer."""
    if dial is None:
        return None
    # Not with a Clip, which keeps ONNX Runtime from an int8 kernel for the layer that follows.
    cost_coef = graph.add("Min", graph.add("Max", "cost_coef", np.float32(dial.low)), np.float32(dial.high))
    change = graph.add("Log", graph.add("Div", cost_coef, np.float32(dial.cost_coef)))
    first = graph.add("Mul", change, np.float32(dial.rate) * dial.column)
    last = graph.add("Mul", graph.add("Sub", np.float32(dial.cost_coef), cost_coef), dial.prices)
    return first, last


def _network(graph: Graph, network: Network, x: str, shift: tuple[str, str] | None = None) -> str:
    """Nodes for the outputs of a network, to those of whose first and last layer something may be added."""
    for index, layer in enumerate(network.layers):
        x = _int8_dense(graph, layer, x) if isinstance(layer, Int8Dense) else _dense(graph, layer, x)
        if shift is not None and index == 0:
            x = graph.add("Add", x, shift[0])
        if shift is not None and index == len(network.layers) - 1:
            x = graph.add("Add", x, shift[1])
        for module in layer.activations:
            activation = ACTIVATIONS[type(module)]
            if activation.onnx == "Clip":  # a Clip keeps ONNX Runtime from an int8 kernel for the layer before
                low, high = map(np.float32, activation.attributes(module).values())
                x = graph.add("Min", graph.add("Max", x, low), high)
            else:
                x = graph.add(activation.onnx, x, **activation.attributes(module))
    return x


def _dense(graph: Graph, layer: Dense, x: str) -> str:
    weight, bias = graph.constant(layer.weight), graph.constant(layer.bias)
    if layer.precision == "fp16":  # ONNX Runtime casts once, when it loads the graph
        weight, bias = (graph.add("Cast", name, to=TensorProto.FLOAT) for name in (weight, bias))
    return graph.add("Gemm", x, weight, bias, transB=1)


def _int8_dense(graph: Graph, layer: Int8Dense, x: str) -> str:
    """Nodes for an int8 layer in the QDQ form, of which ONNX Runtime makes integer kernels."""
    if layer.greatest < 255:  # the operator has 8 bits, and a clip before it costs the integer kernels
        raise ValueError("This agent was trained with activations of fewer than 8 bits, which ONNX cannot hold: export to C.")
    if not (layer.zero.size == 1 and layer.zero[0] in range(256)):
        # The operator has one range for all inputs, whose zero is a whole number, so each input is scaled to that range.
        zero, step = np.uint8(128), np.float32(1)
        x = graph.add("Add", graph.add("Mul", x, layer.gain), layer.zero - np.float32(zero))
    else:
        zero, step = np.uint8(layer.zero[0]), np.float32(1 / layer.gain[0])
    quantized = graph.add("DequantizeLinear", graph.add("QuantizeLinear", x, step, zero), step, zero)
    scale = graph.constant(layer.scale)
    weight_scale = scale if step == 1 else graph.constant(layer.scale / step)
    signed = np.zeros(len(layer.scale), dtype=np.int8)  # without a zero point, ONNX Runtime uses no integer kernel
    weight = graph.add("DequantizeLinear", layer.weight.T.copy(), weight_scale, signed, axis=1)
    bias = np.rint(layer.offset_for(float(zero)) / layer.scale)  # in units of the sums
    if np.abs(bias).max() >= 2**31:
        raise ValueError("An observation is huge beside its spread, so that int8 cannot hold its zero: choose fp32 or fp16.")
    return graph.add("Gemm", quantized, weight, graph.add("DequantizeLinear", bias.astype(np.int32), scale, axis=0))


def _action(graph: Graph, agent: DeployableAgent, output: str) -> str:
    """Nodes for actions within the env's bounds, from the outputs of a network."""
    if agent.output == "argmax":
        return graph.add("Cast", graph.add("ArgMax", output, axis=1, keepdims=1), to=TensorProto.FLOAT)
    if agent.output == "unscale":
        span = (agent.high - agent.low) / 2
        if np.any(span != 1):
            output = graph.add("Mul", output, span)
        if np.any(agent.low + span != 0):
            output = graph.add("Add", output, agent.low + span)
    if (agent.low == agent.low[0]).all() and (agent.high == agent.high[0]).all():
        return graph.add("Clip", output, agent.low[0], agent.high[0])
    return graph.add("Min", graph.add("Max", output, agent.low), agent.high)


def _inputs(agent: DeployableAgent, batch: int | str) -> list[onnx.ValueInfoProto]:
    return [_value(part.name, [batch, *part.shape]) for part in agent.observations]


def _dial(agent: DeployableAgent) -> list[onnx.ValueInfoProto]:
    """The input for λ, where it can be set."""
    return [] if agent.dial is None else [_value("cost_coef", [1])]


def _bounds(values: np.ndarray) -> list[float | None]:
    """Bounds as JSON has them, which knows no infinity."""
    return [float(value) if np.isfinite(value) else None for value in values]


def _dial_metadata(dial: DeployedDial) -> dict[str, Any]:
    """What a control loop must know to set λ, or to steer it for a budget."""
    names = ("low", "high", "cost_coef", "budget", "steering_rate")
    return {**{name: getattr(dial, name) for name in names}, "cost_shares": dial.cost_shares.tolist()}


def _value(name: str, shape: list[Any], kind: int = TensorProto.FLOAT) -> onnx.ValueInfoProto:
    return helper.make_tensor_value_info(name, kind, shape)


def _rename(graph: Graph, result: str, name: str) -> None:
    """Rename the result of the last node to the name of an output of the graph."""
    assert graph.nodes[-1].output[0] == result
    graph.nodes[-1].output[0] = name


def _model(agent: DeployableAgent, graph: onnx.GraphProto) -> onnx.ModelProto:
    model = helper.make_model(
        graph,
        opset_imports=[helper.make_opsetid("", OPSET)],
        ir_version=IR_VERSION,
        producer_name="sb3-asym",
        producer_version=__version__,
    )
    helper.set_model_props(
        model,
        {
            "algorithm": agent.algorithm,
            "option_names": json.dumps([network.name for network in agent.sub_policies]),
            "option_length": str(agent.option_length),
            "observation": json.dumps({part.name: part.shape for part in agent.observations}),
            "action_low": json.dumps(_bounds(agent.low)),
            "action_high": json.dumps(_bounds(agent.high)),
            "precision": json.dumps({network.name: network.precision for network in agent.networks}),
            "dial": json.dumps(None if agent.dial is None else _dial_metadata(agent.dial)),
            "versions": json.dumps(versions()),
        },
    )
    return model
