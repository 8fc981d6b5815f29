"""
Policies as frames: the numbers of a deployable agent, which the robot makes into C, ONNX or torch by itself.

What is sent is checked as strictly as what is received, so a learner whose weights are not finite publishes nothing.
Needs the extra ``cloud`` (msgspec).
"""

from typing import Annotated, Any, Literal, NamedTuple, cast

import msgspec
import numpy as np
from torch import nn

from sb3_asym.cloud_edge.frames import POLICY, Array, Count, FrameError, Name, decode, encode
from sb3_asym.cloud_edge.layout import Layout
from sb3_asym.deployment.activations import ACTIVATIONS
from sb3_asym.deployment.agent import Dense, DeployableAgent, Network, Normalization, ObservationPart
from sb3_asym.quantization.layers import Int8Dense

Output = Literal["unscale", "clip", "argmax"]
KINDS = {kind.__name__: kind for kind in ACTIVATIONS}
SETTINGS = {nn.ELU: ("alpha",), nn.LeakyReLU: ("negative_slope",), nn.Hardtanh: ("min_val", "max_val")}


class Policy(NamedTuple):
    """
    A version of the agent that acts on the robot.

    :param version: version, which grows with each publication
    :param time: when it was published, s since 1970, by the learner's clock
    :param agent: the agent; where it is Gaussian, with a log standard deviation behind each mean in the outputs of the
        sub-policies, which are not squashed then
    :param is_gaussian: whether actions are drawn from squashed Gaussians, as SAC explores
    :param exploration_rate: share of the master's choices that are random
    :param action_noise: standard deviation of the noise on all actions in [-1, 1], as TD3 and DDPG explore
    """

    version: int
    time: float
    agent: DeployableAgent
    is_gaussian: bool = False
    exploration_rate: float = 0.0
    action_noise: float = 0.0


class _WireActivation(msgspec.Struct, frozen=True, forbid_unknown_fields=True, array_like=True):
    kind: str
    settings: dict[str, float]


class _WireLayer(msgspec.Struct, frozen=True, forbid_unknown_fields=True, array_like=True):
    arrays: dict[str, Array]
    activations: tuple[_WireActivation, ...]
    greatest: Annotated[int, msgspec.Meta(ge=1, le=255)] = 255


class _WireNetwork(msgspec.Struct, frozen=True, forbid_unknown_fields=True, array_like=True):
    name: Name
    layers: Annotated[tuple[_WireLayer, ...], msgspec.Meta(min_length=1, max_length=64)]


class _WirePolicy(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    version: Count
    time: float
    spaces: str
    algorithm: Name
    sub_policies: Annotated[tuple[_WireNetwork, ...], msgspec.Meta(min_length=1, max_length=64)]
    master: _WireNetwork | None
    option_length: Annotated[int, msgspec.Meta(ge=1, lt=1 << 31)]
    observations: dict[str, tuple[Count, ...]]
    is_dict: bool
    normalization: dict[str, Array] | None
    output: Output
    is_gaussian: bool
    exploration_rate: Annotated[float, msgspec.Meta(ge=0, le=1)]
    action_noise: Annotated[float, msgspec.Meta(ge=0, le=1)]


def encode_policy(policy: Policy, layout: Layout) -> bytes:
    """
    Write a policy as a frame.

    :param policy: the policy
    :param layout: types and shapes of observations and actions
    :return: the frame
    :raises FrameError: if a number is not finite, or the agent does not fit the layout
    """
    agent = policy.agent
    normalization = None if agent.normalization is None else _arrays(agent.normalization)
    wire = _WirePolicy(
        version=policy.version,
        time=policy.time,
        spaces=layout.fingerprint,
        algorithm=agent.algorithm,
        sub_policies=tuple(map(_wire_network, agent.sub_policies)),
        master=None if agent.master is None else _wire_network(agent.master),
        option_length=agent.option_length,
        observations={part.name: part.shape for part in agent.observations},
        is_dict=agent.is_dict,
        normalization=normalization,
        output=cast(Output, agent.output),
        is_gaussian=policy.is_gaussian,
        exploration_rate=policy.exploration_rate,
        action_noise=policy.action_noise,
    )
    _agent(wire, layout)
    return encode(POLICY, wire)


def decode_policy(frame: bytes, layout: Layout) -> Policy:
    """
    Read a policy.

    :param frame: the frame
    :param layout: types and shapes of observations and actions, which the policy must fit
    :return: the policy
    :raises FrameError: if it is anything else, does not fit, or a number is not finite
    """
    wire = decode(POLICY, frame, _WirePolicy)
    layout.check(wire.spaces, f"The policy of version {wire.version}")
    if not np.isfinite(wire.time):
        raise FrameError("not finite", "The time of the policy is infinite or not a number.")
    exploration = wire.is_gaussian, wire.exploration_rate, wire.action_noise
    return Policy(wire.version, wire.time, _agent(wire, layout), *exploration)


def policy_version(frame: bytes) -> int:
    """
    The version of a policy, without its checks against a layout.

    :param frame: the policy as a frame
    :return: its version
    :raises FrameError: if it is no policy
    """
    return decode(POLICY, frame, _WirePolicy).version


def _wire_network(network: Network) -> _WireNetwork:
    layers = []
    for layer in network.layers:
        activations = tuple(map(_wire_activation, layer.activations))
        layers.append(_WireLayer(_arrays(layer), activations, layer.greatest if isinstance(layer, Int8Dense) else 255))
    return _WireNetwork(network.name, tuple(layers))


def _arrays(owner: Dense | Normalization) -> dict[str, Array]:
    return {name: Array.of(value) for name, value in vars(owner).items() if isinstance(value, np.ndarray)}


def _wire_activation(module: Any) -> _WireActivation:
    settings = {name: float(getattr(module, name)) for name in SETTINGS.get(type(module), ())}
    return _WireActivation(type(module).__name__, settings)


def _agent(wire: _WirePolicy, layout: Layout) -> DeployableAgent:
    """The agent of a policy, checked against a layout."""
    parts, offset = [], 0
    for name, (_, shape) in layout.observations.items():
        size = int(np.prod(shape))
        parts.append(ObservationPart(name, shape, offset, size))
        offset += size
    if [*wire.observations.items()] != [(part.name, part.shape) for part in parts]:
        raise FrameError(
            "spaces", f"The policy takes observations {wire.observations}, but the layout has {layout.observations}."
        )
    if wire.is_dict != (tuple(wire.observations) != ("observation",)) and not wire.is_dict:
        raise FrameError("spaces", "A policy for several parts of an observation takes a Dict.")
    low, high = (np.array(bounds, dtype=np.float32) for bounds in (layout.low, layout.high))
    discrete = wire.output == "argmax"
    if discrete != (np.dtype(layout.action[0]).kind == "i"):
        raise FrameError("spaces", f"A policy with the output {wire.output!r} cannot act in a space of {layout.action[0]}.")
    n_out = int(high[0]) + 1 if discrete else len(low) * (1 + wire.is_gaussian)
    return DeployableAgent(
        algorithm=wire.algorithm,
        sub_policies=tuple(_network(network, offset, n_out) for network in wire.sub_policies),
        master=None if wire.master is None else _network(wire.master, offset, len(wire.sub_policies)),
        option_length=wire.option_length,
        observations=tuple(parts),
        is_dict=wire.is_dict,
        normalization=None if wire.normalization is None else _normalization(wire.normalization, offset),
        output=wire.output,
        low=low,
        high=high,
    )


def _network(wire: _WireNetwork, n_in: int, n_out: int) -> Network:
    layers: list[Dense] = []
    for layer in wire.layers:
        width = layers[-1].weight.shape[0] if layers else n_in
        layers.append(_layer(layer, width, first=not layers))
    if len(layers[-1].bias) != n_out:
        raise FrameError("shape", f"The network {wire.name} has {len(layers[-1].bias)} outputs where {n_out} are expected.")
    return Network(wire.name, tuple(layers))


def _layer(wire: _WireLayer, n_in: int, first: bool) -> Dense:
    arrays: dict[str, Any] = {name: array.values().copy() for name, array in wire.arrays.items()}
    int8 = "unit" in arrays
    n_out = len(arrays["bias"]) if "bias" in arrays and arrays["bias"].ndim == 1 else 0
    n_ranges = n_in if first else 1
    if int8:
        kinds = {"weight": "|i1", "bias": "<f4", "unit": "<f4", "ratio": "<u2", "gain": "<f4", "zero": "<f4"}
    else:
        kinds = dict.fromkeys(("weight", "bias"), "<f2" if arrays.get("bias", np.empty(0)).dtype == np.float16 else "<f4")
    shapes = {
        "weight": (n_out, n_in),
        "bias": (n_out,),
        "unit": (1,),
        "ratio": (n_out,),
        "gain": (n_ranges,),
        "zero": (n_ranges,),
    }
    found = {name: (value.dtype.str, value.shape) for name, value in arrays.items()}
    expected = {name: (dtype, shapes[name]) for name, dtype in kinds.items()}
    if n_out == 0 or found != expected:
        raise FrameError("shape", f"A layer has the arrays {found}, but {expected} are expected.")
    activations = tuple(map(_activation, wire.activations))
    if int8:
        return Int8Dense(activations=activations, greatest=wire.greatest, **arrays)
    return Dense(activations=activations, **arrays)


def _activation(wire: _WireActivation) -> nn.Module:
    kind = KINDS.get(wire.kind)
    if kind is None or {*wire.settings} != {*SETTINGS.get(kind, ())} or not np.isfinite([*wire.settings.values()]).all():
        raise FrameError("type", f"The activation {wire.kind} with {wire.settings} is not known; known: {', '.join(KINDS)}.")
    try:
        return kind(**wire.settings)
    except (AssertionError, ValueError) as error:  # Hardtanh with bounds the wrong way round
        raise FrameError("type", f"The activation {wire.kind} does not take {wire.settings}.") from error


def _normalization(wire: dict[str, Array], obs_dim: int) -> Normalization:
    arrays = {name: array.values().copy() for name, array in wire.items()}
    found = {name: (value.dtype.str, value.shape) for name, value in arrays.items()}
    if found != dict.fromkeys(("mean", "gain", "clip"), ("<f4", (obs_dim,))):
        raise FrameError("shape", f"The normalization has {found}, but {obs_dim} means, gains and clips are expected.")
    return Normalization(**{name: arrays[name] for name in ("mean", "gain", "clip")})
