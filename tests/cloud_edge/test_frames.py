"""What is sent arrives as it was; what is damaged, strange or does not fit is refused with its reason."""

import os
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import link_faults
import msgspec
import numpy as np
import pytest
from export_cases import DICT, RandomEnv, asym, normalized, plain
from frame_fuzz import LAYOUT, accepted, damaged, forged, tiny_agent, use, valid_frames
from gymnasium import spaces
from link_faults import numbered
from stable_baselines3 import DDPG, DQN, SAC, TD3

from sb3_asym.cloud_edge.frames import (
    BATCH,
    HEADER,
    LEARNER_STATUS,
    MAGIC,
    MAX_BYTES,
    POLICY,
    ROBOT_STATUS,
    SCHEMA,
    Array,
    FrameError,
    Gate,
    encode,
)
from sb3_asym.cloud_edge.layout import Layout
from sb3_asym.cloud_edge.policy_frames import Policy, decode_policy, encode_policy, policy_version
from sb3_asym.cloud_edge.statuses import RobotStatus, decode_robot_status, encode_status
from sb3_asym.cloud_edge.transitions import Number, decode_batch, encode_batch
from sb3_asym.deployment import deployable
from sb3_asym.deployment.runners import ReferenceRunner
from sb3_asym.quantization.ptq import quantize


def refused(reason, call, *args):
    with pytest.raises(FrameError) as error:
        call(*args)
    assert error.value.reason == reason, error.value
    return str(error.value)


def test_batch_arrives_as_it_was():
    frame = encode_batch("robot-1", Number(5, 2), numbered(100, 20), LAYOUT)
    robot, number, transitions = decode_batch(frame, LAYOUT)
    assert (robot, str(number)) == ("robot-1", "5-2")
    assert link_faults.check_numbered(transitions) == [*range(100, 120)]


def test_parts_of_a_dict_observation_stay_apart():
    layout = Layout.of(DICT, spaces.Discrete(3))
    rng = np.random.default_rng(0)
    parts = {key: rng.normal(size=(4, *shape)).astype(dtype) for key, (dtype, shape) in layout.observations.items()}
    last = {key: values[:1] for key, values in parts.items()}
    sent = replace(
        numbered(3, 4), observations=parts, last_observations=last, actions=np.arange(4), truncated=np.zeros(4, bool)
    )
    arrived = decode_batch(encode_batch("r", Number(1, 1), sent, layout), layout).transitions
    for key, values in parts.items():
        np.testing.assert_array_equal(arrived.observations[key], values)
        np.testing.assert_array_equal(arrived.next_observations()[key], [*values[1:], *last[key]])


@pytest.mark.parametrize(
    "make",
    [lambda: asym(normalized()), lambda: asym(RandomEnv(DICT), "MultiInputPolicy")]
    + [lambda a=a: plain(a) for a in (SAC, TD3, DDPG)],
)
@pytest.mark.parametrize("precision", ["fp32", "int8"])
def test_policy_acts_as_before_it_was_sent(make, precision):
    model = make()
    layout = Layout.of(model.observation_space, model.action_space)
    observations = [model.observation_space.sample() for _ in range(30)]
    agent = deployable(model)
    flat = np.array([agent.flatten(observation) for observation in observations])
    agent = quantize(agent, precision, flat)
    frame = encode_policy(Policy(7, 1.5, agent), layout)
    policy = decode_policy(frame, layout)
    assert (policy.version, policy.time, policy_version(frame)) == (7, 1.5, 7)
    before, after = ReferenceRunner(agent), ReferenceRunner(policy.agent)
    for observation in observations:
        (option, action), (arrived_option, arrived_action) = before.step(observation), after.step(observation)
        assert option == arrived_option
        np.testing.assert_array_equal(action, arrived_action)


def test_status_arrives_as_it_was():
    status = RobotStatus(
        robot="r",
        time=1.0,
        policy_version=3,
        policy_age=0.5,
        next_transition=4,
        sent=Number(1, 2),
        outbox_bytes=5,
        outbox_full=True,
        values={"misses": 0.0},
        message="The outbox is full.",
    )
    assert decode_robot_status(encode_status(status)) == status
    refused("not finite", decode_robot_status, encode_status(msgspec.structs.replace(status, policy_age=float("nan"))))


@pytest.mark.parametrize(
    ("change", "reason"),
    [
        (dict(rewards=np.full(20, np.nan, np.float32)), "not finite"),
        (dict(actions=np.full((20, 1), np.inf, np.float32)), "not finite"),
        (dict(rewards=np.zeros(20)), "shape"),
        (dict(actions=np.zeros((20, 2), np.float32)), "shape"),
        (dict(observations={"observation": np.zeros((20, 3))}), "shape"),
        (dict(observations={"other": np.zeros((20, 2))}), "shape"),
        (dict(last_observations={"observation": np.zeros((1, 2))}), "shape"),
        (dict(options=np.full(20, -2, np.int8)), "type"),
        (dict(rewards=np.zeros(0, np.float32)), "shape"),
    ],
)
def test_bad_transitions_are_not_sent(change, reason):
    refused(reason, encode_batch, "robot-1", Number(1, 1), replace(numbered(0, 20), **change), LAYOUT)


def test_bad_policies_are_neither_sent_nor_taken():
    refused("not finite", encode_policy, Policy(1, 0.0, tiny_agent(np.nan)), LAYOUT)
    other = Layout.of(spaces.Box(-1, 1, (2,), np.float64), spaces.Box(-2, 2, (1,)))
    assert "robot and learner need the same" in refused("spaces", decode_policy, valid_frames()[POLICY], other)
    wider = Layout.of(spaces.Box(-1, 1, (3,), np.float64), spaces.Box(-1, 1, (1,)))
    refused("spaces", encode_policy, Policy(1, 0.0, tiny_agent()), wider)
    discrete = Layout.of(plain(DQN, env="CartPole-v1").observation_space, spaces.Discrete(2))
    refused("spaces", encode_policy, Policy(1, 0.0, deployable(plain(SAC, env="Pendulum-v1"))), discrete)


def test_shapes_that_there_are_not():
    many = 2**32 - 1
    for array in (Array("<f4", (0, many, many, many), b""), Array("<f4", (many, many, many, 0), b"")):
        with pytest.raises(FrameError, match="There is no array of"):
            array.values()
    transitions = replace(numbered(0, 20), rewards=np.float32(1.0).reshape(()))
    with pytest.raises(FrameError, match="A batch needs at least one transition"):
        transitions.check(LAYOUT)


def test_each_reason_has_its_name_and_is_counted():
    frame = valid_frames()[BATCH]
    body = frame[HEADER.size :]
    later = HEADER.pack(MAGIC, SCHEMA + 1, BATCH, len(body), 0) + body
    gate = Gate()
    for damage in (b"", frame[:-1], frame[:-1] + b"x", later, valid_frames()[POLICY], encode(BATCH, {"robot": "r"})):
        assert gate(decode_batch, damage, LAYOUT) is None
    assert gate.refused == dict(magic=1, length=1, checksum=1, version=1, kind=1, type=1)
    assert gate(decode_batch, frame, LAYOUT).robot == "robot-1"


def test_frames_have_an_end():
    refused("length", encode, BATCH, Array("|u1", (MAX_BYTES[BATCH],), bytes(MAX_BYTES[BATCH])))
    refused("shape", Array("<f8", (2**31, 2**31), b"").values)
    refused("type", Array("|O", (1,), bytes(8)).values)
    refused("type", Array("|b1", (1,), b"\2").values)


@pytest.mark.parametrize("kind", [BATCH, POLICY, ROBOT_STATUS, LEARNER_STATUS])
def test_every_byte_counts(kind):
    frame = valid_frames()[kind]
    for place in range(len(frame)):
        other = frame[:place] + bytes([frame[place] ^ 0x10]) + frame[place + 1 :]
        assert accepted(other) == [], place


def test_damaged_frames_are_refused():
    rng, frames = np.random.default_rng(0), valid_frames()
    assert {kind: accepted(frame) for kind, frame in frames.items()} == {kind: [kind] for kind in frames}
    assert sum(len(accepted(damaged(frames, rng))) for _ in range(4000)) == 0


def test_forged_frames_crash_nobody():
    rng, frames = np.random.default_rng(0), valid_frames()
    taken = sum(use(*forged(frames, rng)) for _ in range(4000))
    assert taken < 1000  # another time or version is as good as the former one


ROUND_TRIP = """
import pickle, sys
import numpy as np, numpy.testing, torch
{imports}

def refuse(*args, **kwargs):
    raise AssertionError("something was unpickled")

class Unpickler:
    __init__ = refuse

pickle.load = pickle.loads = pickle._load = pickle._loads = torch.load = np.load = refuse
pickle.Unpickler = pickle._Unpickler = Unpickler
if "cloudpickle" in sys.modules:
    sys.modules["cloudpickle"].loads = sys.modules["cloudpickle"].load = refuse

folder = sys.argv[1]
outbox = Outbox(outbox_path(folder, "r"), "r", LAYOUT)
robot, learner = robot_link(folder, "r"), learner_link(folder)
outbox.append(numbered(0, 20))
robot.send(outbox.after(robot.position()))
reader = Reader(learner, LAYOUT)
assert check_numbered(reader.read()[0].transitions) == [*range(20)]
reader.confirm()
outbox.delete_through(robot.confirmed())
assert outbox.n_batches == 0
frames = valid_frames()
learner.publish(3, frames[2])
assert decode_policy(robot.policy(2), LAYOUT).version == 3
robot.report(frames[3])
assert decode_robot_status(learner.statuses()["r"]).robot == "robot-1"
learner.beat(frames[4])
assert decode_learner_status(robot.learner()).beat == 1
for data in (pickle.dumps(frames), b"\\x80\\x04."):
    try:
        decode_batch(data, LAYOUT)
    except FrameError:
        print("refused")
"""
IMPORTS = """
from frame_fuzz import *
from link_faults import *
from sb3_asym.cloud_edge.link import outbox_path
from sb3_asym.cloud_edge import broker, embedded, emulation, redis_link
"""


def test_nothing_is_ever_unpickled(tmp_path):
    script = ROUND_TRIP.format(imports=IMPORTS)
    tests = Path(__file__).parents[1]
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join([str(tests), *sys.path])}
    done = subprocess.run(
        [sys.executable, "-c", script, str(tmp_path)], env=environment, capture_output=True, text=True, timeout=300
    )
    assert done.stdout.split() == ["refused", "refused"], done.stderr
