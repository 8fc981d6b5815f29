"""C99 from a deployable agent."""

import json
import re
import textwrap
from collections.abc import Iterable
from importlib.resources import files
from pathlib import Path
from string import Template
from typing import NamedTuple

import numpy as np

from sb3_asym.deployment.activations import ACTIVATIONS, c_float
from sb3_asym.deployment.agent import Dense, DeployableAgent, DeployedDial, Network
from sb3_asym.deployment.recording import Recording
from sb3_asym.export.report import tolerances
from sb3_asym.quantization.layers import Int8Dense
from sb3_asym.versions import __version__

INDENT = " " * 4


class CArray(NamedTuple):
    """
    Numbers of a network as C code knows them.

    :param c_type: C type of a number
    :param name: C name
    :param values: the numbers; float16 ones are ``uint16_t`` in C
    """

    c_type: str
    name: str
    values: np.ndarray

    @property
    def definition(self) -> str:
        """C code that defines a constant array."""
        return f"static const {self.c_type} {self.name}[{self.values.size}] = {{\n{_numbers(self.values)}\n}};"


def write_c(agent: DeployableAgent, recording: Recording, folder: Path, prefix: str = "asym") -> None:
    """
    Write ``<prefix>_policy.h``, ``<prefix>_policy.c`` and ``<prefix>_policy_selftest.c``.

    :param agent: agent to export, in any precision
    :param recording: steps that the self-test replays
    :param folder: folder to write to
    :param prefix: prefix of all C names that are visible outside
    :raises ValueError: if the prefix is not a C identifier
    """
    if not re.fullmatch(r"[A-Za-z]\w*", prefix, re.ASCII):
        raise ValueError(f"The prefix must be a C identifier such as 'walker', got {prefix!r}.")
    names = {"prefix": prefix, "PREFIX": prefix.upper(), "version": __version__}
    dial = {
        part: _dial(agent.dial, part, **names) for part in ("members", "declaration", "definition", "reset", "spend", "shift")
    }
    texts = {
        "policy.h": fill("policy.h", **names, **_header(agent), **dial),
        "policy.c": fill("policy.c", **names, **_source(agent, prefix.upper()), **dial),
        "policy_selftest.c": fill("selftest.c", **names, **_selftest(agent, recording)),
    }
    for name, text in texts.items():
        (folder / f"{prefix}_{name}").write_text(text, encoding="utf-8")


def fill(template: str, **values: str | int) -> str:
    """
    Fill in a template of C code.

    :param template: name of a file in ``templates``
    :param values: text for each ``$name`` of the template
    :return: the C code
    """
    return Template(_template(template)).substitute(values)


def _template(name: str) -> str:
    return (files("sb3_asym.export") / "templates" / name).read_text(encoding="utf-8")


def _dial(dial: DeployedDial | None, part: str, **names: str) -> str:
    """C code for λ, where it can be set: a part of ``templates/dial.c``."""
    if dial is None:
        return ""
    parts = dict(re.findall(r"^/\* part: (\w+) \*/\n(.*?)(?=^/\* part|\Z)", _template("dial.c"), re.MULTILINE | re.DOTALL))
    return Template(parts[part]).substitute(
        names,
        n_column=len(dial.column),
        n_prices=len(dial.prices),
        low=c_float(dial.low),
        high=c_float(dial.high),
        cost_coef=c_float(dial.cost_coef),
        rate=c_float(dial.rate),
        budget=c_float(dial.budget),
        steering_rate=c_float(dial.steering_rate),
    )


def _header(agent: DeployableAgent) -> dict[str, str | int]:
    """Values for the template of the header."""
    parts = [f" *   {p.offset} to {p.offset + p.size - 1}: {_comment(p.name)}, shape {p.shape}" for p in agent.observations]
    bounds = [f"[{low:g}, {high:g}]" for low, high in zip(agent.low, agent.high, strict=True)]
    text = "the index of a discrete action" if agent.output == "argmax" else f"within {', '.join(bounds)}"
    networks = [_describe(network) for network in agent.networks]
    return {
        "title": f"A policy trained with {agent.algorithm}.",
        "obs_dim": agent.obs_dim,
        "action_dim": agent.action_dim,
        "n_options": len(agent.sub_policies),
        "option_length": agent.option_length,
        "normalized": " (they are normalized here)" if agent.normalization else "",
        "observation_lines": "\n".join(parts),
        "action_text": text,
        "network_text": "; ".join(networks),
    }


def _describe(network: Network) -> str:
    """Name, widths, precision and size of a network, for a comment."""
    return f"{_comment(network.name)} {'-'.join(map(str, _widths(network)))} ({network.precision}, {network.n_bytes} bytes)"


def _comment(text: str) -> str:
    """Text without the marks that begin and end a C comment."""
    return text.replace("/*", "/ *").replace("*/", "* /")


def _widths(network: Network) -> list[int]:
    """Number of inputs, then the number of outputs of each layer."""
    return [network.layers[0].weight.shape[1], *(layer.weight.shape[0] for layer in network.layers)]


def _source(agent: DeployableAgent, prefix: str) -> dict[str, str | int]:
    """Values for the template of the source."""
    data: list[str] = []
    bodies: list[str] = []
    activations: dict[str, str] = {}
    for number, network in enumerate(agent.networks):
        arrays, body = network_code(network, number, activations, agent.dial if network is agent.master else None)
        data += [array.definition for array in arrays]
        bodies.append(body)
    if agent.dial is not None:
        data += [
            CArray("float", f"dial_{name}", getattr(agent.dial, name)).definition
            for name in ("column", "prices", "cost_shares")
        ]
    normalize = ""
    x = "obs"
    if agent.normalization:
        x = "x"
        data += [CArray("float", f"obs_{name}", values).definition for name, values in vars(agent.normalization).items()]
        normalize = (
            f"{INDENT}float x[{agent.obs_dim}];\n"
            f"{INDENT}for (int i = 0; i < {prefix}_OBS_DIM; i++) {{\n"
            f"{INDENT * 2}float v = (obs[i] - obs_mean[i]) * obs_gain[i];\n"
            f"{INDENT * 2}x[i] = v < -obs_clip[i] ? -obs_clip[i] : v > obs_clip[i] ? obs_clip[i] : v;\n"
            f"{INDENT}}}\n"
        )
    functions = layer_functions(agent.networks, activations)
    if agent.dial is not None:
        functions.append(
            "static void add(const float *values, int n, float *y)\n{\n"
            f"{INDENT}for (int i = 0; i < n; i++)\n{INDENT * 2}y[i] += values[i];\n}}\n"
        )
    bounds = {} if agent.output == "argmax" else {"low": agent.low, "high": agent.high}
    data += [CArray("float", f"action_{name}", values).definition for name, values in {**bounds, "rest": agent.rest}.items()]
    if agent.output == "argmax" or agent.master:
        functions.append(
            "static int argmax(const float *values, int n)\n{\n"
            f"{INDENT}int best = 0;\n{INDENT}for (int i = 1; i < n; i++)\n"
            f"{INDENT * 2}best = values[i] > values[best] ? i : best;\n{INDENT}return best;\n}}\n"
        )
    outputs = [_widths(network)[-1] for network in agent.networks]
    return {
        "data": "\n".join(data),
        "functions": "\n".join(functions),
        "networks": "\n".join(bodies),
        "option_names": ", ".join(json.dumps(network.name, ensure_ascii=False) for network in agent.sub_policies),
        "n_outputs": max(outputs),
        "n_actor_outputs": outputs[0],
        "normalize": normalize,
        "choose": _choose(agent, x, prefix),
        "run_option": _run_option(agent, x),
        "act": _act(agent, outputs[0], prefix),
    }


def _choose(agent: DeployableAgent, x: str, prefix: str) -> str:
    """C code that starts a new option where the last one has run out."""
    if agent.master is None:
        return f"{INDENT}steps_left = {prefix}_OPTION_LENGTH;\n"
    shift = "" if agent.dial is None else f"{INDENT * 2}if (state->budget > 0.0f)\n{INDENT * 3}set_shift(state);\n"
    return (
        f"{INDENT}if (steps_left <= 0) {{\n{shift}"
        f"{INDENT * 2}network_{len(agent.sub_policies)}({x}, {'' if agent.dial is None else 'state->shift, '}y);\n"
        f"{INDENT * 2}option = argmax(y, {prefix}_N_OPTIONS);\n"
        f"{INDENT * 2}steps_left = {prefix}_OPTION_LENGTH;\n{INDENT}}}\n"
    )


def _run_option(agent: DeployableAgent, x: str) -> str:
    """C code that runs the sub-policy in force."""
    last = len(agent.sub_policies) - 1
    branches = [f"if (option == {i})\n{INDENT * 2}network_{i}({x}, y);\n{INDENT}else " for i in range(last)]
    call = f"network_{last}({x}, y);\n"
    return INDENT + "".join(branches).rstrip() + (f"\n{INDENT * 2}{call}" if last else call)


def _act(agent: DeployableAgent, n_outputs: int, prefix: str) -> str:
    """C code that turns the outputs of a sub-policy into an action."""
    if agent.output == "argmax":
        return f"{INDENT}state->last_action[0] = (float)argmax(y, {n_outputs});\n"
    unscale = (
        "action_low[i] + 0.5f * (y[i] + 1.0f) * (action_high[i] - action_low[i])" if agent.output == "unscale" else "y[i]"
    )
    return (
        f"{INDENT}for (int i = 0; i < {prefix}_ACTION_DIM; i++) {{\n"
        f"{INDENT * 2}float v = {unscale};\n"
        f"{INDENT * 2}v = v < action_low[i] ? action_low[i] : v > action_high[i] ? action_high[i] : v;\n"
        f"{INDENT * 2}state->last_action[i] = v;\n{INDENT}}}\n"
    )


def layer_functions(networks: Iterable[Network], activations: dict[str, str]) -> list[str]:
    """
    C functions that the functions of networks call.

    :param networks: the networks
    :param activations: name of the C function by C expression, of the activations of these networks
    :return: definitions of the functions
    """
    used = {network.precision for network in networks}
    functions = [fill(f"dense_{precision}.c") for precision in ("fp32", "fp16", "int8") if precision in used]
    return functions + [_activation(name, expression) for expression, name in activations.items()]


def network_code(
    network: Network, number: int, activations: dict[str, str], dial: DeployedDial | None = None
) -> tuple[list[CArray], str]:
    """
    C arrays of a network, and the C function that runs it, ``network_<number>(const float *x, float *y)``; with a dial, what λ
    adds to the outputs of the first and the last layer stands between the two, ``const float *shift``.

    :param network: the network
    :param number: index of the network, part of the names of its arrays and its function
    :param activations: name of the C function by C expression, extended by the activations of this network
    :param dial: how the network changes with λ, or None
    :return: the arrays, and the definition of the function
    """
    data: list[CArray] = []
    calls: list[str] = []
    hidden = max([layer.weight.shape[0] for layer in network.layers[:-1]], default=0)
    x = "x"
    for index, layer in enumerate(network.layers):
        last = index == len(network.layers) - 1
        y = "y" if last else f"h[{index % 2}]"
        data += layer_arrays(layer, f"{number}_{index}")
        calls += _layer_calls(layer, f"{number}_{index}", x, y)
        if dial is not None and index == 0:
            calls.append(f"add(shift, {len(dial.column)}, {y});")
        if dial is not None and last:
            calls.append(f"add(shift + {len(dial.column)}, {len(dial.prices)}, {y});")
        for module in layer.activations:
            expression = ACTIVATIONS[type(module)].c(module)
            name = activations.setdefault(expression, f"activate_{len(activations)}")
            calls.append(f"{name}({y}, {layer.weight.shape[0]});")
        x = y
    buffers = []
    if hidden:
        buffers.append(f"float h[{min(2, len(network.layers) - 1)}][{hidden}];")
    if isinstance(network.layers[0], Int8Dense):
        buffers.append(f"uint8_t q[{max(_widths(network)[:-1])}];")
    lines = "\n".join(INDENT + line for line in [*buffers, *calls])
    comment = f"/* {_describe(network)} */"
    shift = "" if dial is None else "const float *shift, "
    return data, f"{comment}\nstatic void network_{number}(const float *x, {shift}float *y)\n{{\n{lines}\n}}\n"


def layer_arrays(layer: Dense, number: str) -> list[CArray]:
    """
    C arrays of a layer.

    :param layer: the layer
    :param number: part of their names
    :return: the arrays
    """
    if isinstance(layer, Int8Dense):
        return [
            CArray("int8_t", f"w{number}", layer.weight),
            CArray("float", f"unit{number}", layer.unit),
            CArray("uint16_t", f"ratio{number}", layer.ratio),
            *(CArray("float", f"{name}{number}", getattr(layer, name)) for name in ("offset", "gain", "zero")),
        ]
    c_type = {"fp32": "float", "fp16": "uint16_t"}[layer.precision]
    return [CArray(c_type, f"w{number}", layer.weight.T), CArray(c_type, f"b{number}", layer.bias)]


def _layer_calls(layer: Dense, number: str, x: str, y: str) -> list[str]:
    """C calls that run a layer."""
    n_out, n_in = layer.weight.shape
    if isinstance(layer, Int8Dense):
        stride = int(len(layer.gain) > 1)
        return [
            f"quantize(gain{number}, zero{number}, {stride}, {layer.greatest}.0f, {n_in}, {x}, q);",
            f"dense_int8(w{number}, unit{number}[0], ratio{number}, offset{number}, {n_in}, {n_out}, q, {y});",
        ]
    return [f"dense_{layer.precision}(w{number}, b{number}, {n_in}, {n_out}, {x}, {y});"]


def _activation(name: str, expression: str) -> str:
    """C function that applies an expression of ``x`` to each output."""
    return (
        f"static void {name}(float *y, int n)\n{{\n{INDENT}for (int i = 0; i < n; i++) {{\n"
        f"{INDENT * 2}float x = y[i];\n{INDENT * 2}y[i] = {expression};\n{INDENT}}}\n}}\n"
    )


def _numbers(values: np.ndarray) -> str:
    """C literals of an array, those of float16 as their bits."""
    flat = np.ravel(values)
    if flat.dtype == np.float16:
        literals: Iterable[str] = (f"0x{bits:04x}" for bits in flat.view(np.uint16))
    elif flat.dtype.kind == "f":
        literals = map(c_float, flat)
    else:
        literals = map(str, flat.astype(int))
    return textwrap.fill(", ".join(literals), 120, initial_indent=INDENT, subsequent_indent=INDENT)


def _selftest(agent: DeployableAgent, recording: Recording) -> dict[str, str | int]:
    """Values for the template of the self-test."""

    def rows(values: np.ndarray) -> str:
        return ",\n".join(f"{INDENT}{{\n{_numbers(row)}\n{INDENT}}}" for row in values)

    return {
        "n_steps": len(recording.options),
        "observations": rows(recording.observations),
        "episode_starts": _numbers(recording.episode_starts),
        "options": _numbers(recording.options),
        "actions": rows(recording.actions),
        "tolerances": ", ".join(map(c_float, tolerances(agent, recording.actions))),
    }
