"""Frames that were damaged on the way, and frames that somebody forged with a right checksum."""

import msgspec
import numpy as np
import torch as th
from link_faults import LAYOUT, numbered
from torch import nn

from sb3_asym.cloud_edge.frames import BATCH, HEADER, LEARNER_STATUS, MAGIC, POLICY, ROBOT_STATUS, FrameError, encode
from sb3_asym.cloud_edge.policy_frames import Policy, decode_policy, encode_policy
from sb3_asym.cloud_edge.statuses import (
    LearnerStatus,
    RobotStatus,
    decode_learner_status,
    decode_robot_status,
    encode_status,
)
from sb3_asym.cloud_edge.transitions import Number, decode_batch, encode_batch
from sb3_asym.deployment.agent import Dense, DeployableAgent, Network, Normalization, ObservationPart

DECODERS = {
    BATCH: lambda frame: decode_batch(frame, LAYOUT),
    POLICY: lambda frame: decode_policy(frame, LAYOUT),
    ROBOT_STATUS: decode_robot_status,
    LEARNER_STATUS: decode_learner_status,
}
STRANGE = (
    None,
    True,
    -1,
    0,
    1,
    2**40,
    2**64 - 1,
    -(2**63),
    0.5,
    float("nan"),
    float("inf"),
    "",
    "<f4",
    "|O",
    b"",
    b"\0" * 8,
    [],
    {},
)


def tiny_agent(weight=None):
    """An agent with two sub-policies and a master, for the layout of the numbered transitions."""
    rng = np.random.default_rng(0)

    def network(name, n_out, activation):
        first = rng.normal(size=(3, 2)) if weight is None else np.full((3, 2), weight)
        layers = [Dense(first.astype(np.float32), np.zeros(3, np.float32), (nn.ELU(0.5),))]
        layers.append(Dense(rng.normal(size=(n_out, 3)).astype(np.float32), np.zeros(n_out, np.float32), activation))
        return Network(name, tuple(layers))

    low, high = (np.array(bounds, dtype=np.float32) for bounds in (LAYOUT.low, LAYOUT.high))
    return DeployableAgent(
        algorithm="AsymSAC",
        sub_policies=(network("small", 1, (nn.Tanh(),)), network("large", 1, (nn.Hardtanh(-1.0, 0.5),))),
        master=network("master", 2, ()),
        option_length=3,
        observations=(ObservationPart("observation", (2,), 0, 2),),
        is_dict=False,
        normalization=Normalization(*(np.full(2, value, np.float32) for value in (0.5, 2, 10))),
        output="unscale",
        low=low,
        high=high,
    )


def valid_frames():
    """A frame of each kind."""
    robot = RobotStatus(
        robot="robot-1",
        time=1.5,
        policy_version=2,
        policy_age=0.5,
        next_transition=40,
        sent=Number(1, 2),
        outbox_bytes=100,
        outbox_full=False,
        values={"steps per second": 50.0},
    )
    learner = LearnerStatus(beat=1, time=2.0, policy_version=3, num_timesteps=4)
    return {
        BATCH: encode_batch("robot-1", Number(1, 2), numbered(100, 20), LAYOUT),
        POLICY: encode_policy(Policy(3, 1.5, tiny_agent()), LAYOUT),
        ROBOT_STATUS: encode_status(robot),
        LEARNER_STATUS: encode_status(learner),
    }


def damaged(frames, rng):
    """A frame that differs from each that was sent: bits flipped, bytes lost, added or mixed up, or noise."""
    frame = frames[int(rng.integers(1, 5))]
    other = frames[int(rng.integers(1, 5))]
    noise = rng.bytes(int(rng.integers(1, 64)))
    cut, end = sorted(rng.integers(0, len(frame), 2).tolist())
    bits = np.frombuffer(frame, np.uint8).copy()
    np.bitwise_xor.at(bits, rng.integers(0, len(bits), 4), (1 << rng.integers(0, 8, 4)).astype(np.uint8))
    candidates = [
        bits.tobytes(),
        frame[:cut],
        frame + noise,
        frame[:cut] + noise + frame[cut + len(noise) :],
        frame[:cut] + frame[end:],
        frame[:cut] + other[end:],
        other[: HEADER.size] + frame[HEADER.size :],
        HEADER.pack(MAGIC, *rng.integers(0, 5, 2).tolist(), len(noise), int(rng.integers(1 << 32))) + noise,
        noise,
    ]
    candidate = candidates[int(rng.integers(len(candidates)))]
    return candidate if candidate not in frames.values() else b""


def forged(frames, rng):
    """The kind, and a frame with the right checksum in whose body one value was replaced, taken out or nested."""
    kind = int(rng.integers(1, 5))
    body = msgspec.msgpack.decode(frames[kind][HEADER.size :])
    node, path = body, []
    while isinstance(node, dict | list) and node and (not path or rng.random() < 0.7):
        keys = [*node] if isinstance(node, dict) else range(len(node))
        path.append((node, keys[int(rng.integers(len(keys)))]))
        node = path[-1][0][path[-1][1]]
    owner, key = path[-1]
    strange = STRANGE[int(rng.integers(len(STRANGE)))]
    change = int(rng.integers(4))
    if change == 0:
        del owner[key]
    elif change == 1 and isinstance(node, bytes) and node:
        owner[key] = rng.bytes(len(node))
    elif change == 2:
        owner[key] = [node] * int(rng.integers(0, 4))
    else:
        owner[key] = strange
    return kind, encode(kind, body)


def accepted(frame):
    """Kinds as which a frame is taken; whatever is raised but a FrameError is passed on."""
    kinds = []
    for kind, decoder in DECODERS.items():
        try:
            decoder(frame)
            kinds.append(kind)
        except FrameError:
            pass
    return kinds


def use(kind, frame):
    """Act on what a frame says, as a robot and a learner would, where it is taken; True if it is."""
    try:
        value = DECODERS[kind](frame)
    except FrameError:
        return False
    if kind == POLICY:
        observation = np.zeros((1, 2), np.float32)
        with th.no_grad():
            actions = value.agent.actions(observation, value.agent.choices(observation))
        assert actions.shape == (1, 1)
    if kind == BATCH:
        assert np.isfinite(value.transitions.next_observations()["observation"]).all()
        assert np.isfinite(value.transitions.rewards).all()
    return True
