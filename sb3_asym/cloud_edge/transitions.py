"""Batches of transitions, with their numbers, as arrays and as frames. Needs the extra ``cloud`` (msgspec)."""

from dataclasses import dataclass
from typing import Any, NamedTuple

import msgspec
import numpy as np

from sb3_asym.cloud_edge.frames import BATCH, Array, Count, FrameError, Name, decode, encode
from sb3_asym.cloud_edge.layout import Layout
from sb3_asym.options import NO_OPTION


class Number(NamedTuple):
    """
    Number of a batch, ``<boot>-<seq>``, which is also the id of its entry in a stream.

    :param boot: when the outbox was made, ms since 1970; an outbox outlives restarts and reboots
    :param seq: count of batches in this outbox, from 1 on
    """

    boot: int
    seq: int

    def __str__(self) -> str:
        return f"{self.boot}-{self.seq}"

    @classmethod
    def parse(cls, text: str) -> "Number":
        """
        Parse ``<boot>-<seq>``.

        :param text: the number as text
        :return: the number
        :raises ValueError: if it is no number of a batch
        """
        boot, _, seq = text.partition("-")
        return cls(int(boot), int(seq))


@dataclass(frozen=True)
class Transitions:
    """
    Env steps that follow each other, with consecutive numbers.

    The next observation of a row is the observation of the row after it, unless the row ends an episode or is the last
    row: for these, :attr:`last_observations` has it.

    :param first: number of the first transition, counted from 0 over the life of an outbox
    :param observations: observations before each step, by key, ``(n, *shape)``; "observation" where they are no Dict
    :param last_observations: observations after the rows that end an episode, and after the last row, by key,
        ``(n_breaks, *shape)``
    :param actions: actions as the env takes them, ``(n, *shape)``
    :param rewards: rewards as the env gives them, ``(n,)`` float32
    :param terminated: ``(n,)`` bool
    :param truncated: ``(n,)`` bool
    :param options: options in force, ``(n,)`` int8, ``NO_OPTION`` where the agent has none
    :param started: ``(n,)`` bool, True where this is the option's first step
    :param ended: ``(n,)`` bool, True where this is the option's last step
    :param policy_versions: version of the policy that acted, ``(n,)`` int64
    """

    first: int
    observations: dict[str, np.ndarray]
    last_observations: dict[str, np.ndarray]
    actions: np.ndarray
    rewards: np.ndarray
    terminated: np.ndarray
    truncated: np.ndarray
    options: np.ndarray
    started: np.ndarray
    ended: np.ndarray
    policy_versions: np.ndarray

    def __len__(self) -> int:
        return len(self.rewards)

    @property
    def breaks(self) -> np.ndarray:
        """Rows whose next observation is not the observation of the row after, in order."""
        breaks = self.terminated | self.truncated
        breaks[-1:] = True
        return np.flatnonzero(breaks)

    def next_observations(self) -> dict[str, np.ndarray]:
        """
        Observations after each step, that of the ended episode where one ends.

        :return: by key, ``(n, *shape)``
        """
        after = {key: np.roll(values, -1, axis=0) for key, values in self.observations.items()}
        for key, values in after.items():
            values[self.breaks] = self.last_observations[key]
        return after

    def check(self, layout: Layout) -> None:
        """
        Refuse transitions that do not fit a layout or have numbers that are not finite.

        :param layout: types and shapes of observations and actions
        :raises FrameError: if they do not fit
        """
        if self.rewards.ndim != 1 or len(self) == 0:
            raise FrameError("shape", "A batch needs at least one transition.")
        n = len(self)
        flags = {name: ("|b1", (n,)) for name in ("terminated", "truncated", "started", "ended")}
        expected: dict[str, tuple[str, tuple[int, ...]]] = {
            **flags,
            "rewards": ("<f4", (n,)),
            "options": ("|i1", (n,)),
            "policy_versions": ("<i8", (n,)),
            "actions": (layout.action[0], (n, *layout.action[1])),
        }
        for name, kind in expected.items():
            _check_array(name, getattr(self, name), kind)
        n_breaks = len(self.breaks)
        for name, parts, rows in (
            ("observations", self.observations, n),
            ("last_observations", self.last_observations, n_breaks),
        ):
            if parts.keys() != layout.observations.keys():
                raise FrameError("shape", f"The {name} have the parts {[*parts]}, but {[*layout.observations]} are expected.")
            for key, (dtype, shape) in layout.observations.items():
                _check_array(f"{name}[{key!r}]", parts[key], (dtype, (rows, *shape)))
        if self.first < 0 or (self.policy_versions < 0).any() or (self.options < NO_OPTION).any():
            raise FrameError("type", "Numbers of transitions, versions and options start at 0.")


class Batch(NamedTuple):
    """
    A numbered batch of transitions of a robot.

    :param robot: name of the robot
    :param number: number of the batch
    :param transitions: its transitions
    """

    robot: str
    number: Number
    transitions: Transitions


class _WireBatch(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    robot: Name
    boot: Count
    seq: Count
    spaces: str
    first: Count
    observations: dict[str, Array]
    last_observations: dict[str, Array]
    actions: Array
    rewards: Array
    terminated: Array
    truncated: Array
    options: Array
    started: Array
    ended: Array
    policy_versions: Array


def encode_batch(robot: str, number: Number, transitions: Transitions, layout: Layout) -> bytes:
    """
    Write a batch as a frame.

    :param robot: name of the robot
    :param number: number of the batch
    :param transitions: its transitions
    :param layout: types and shapes of observations and actions
    :return: the frame
    :raises FrameError: if the transitions do not fit the layout, or a number is not finite
    """
    transitions.check(layout)
    values = {name: Array.of(value) for name, value in vars(transitions).items() if isinstance(value, np.ndarray)}
    observations, last = (
        {key: Array.of(value) for key, value in parts.items()}
        for parts in (transitions.observations, transitions.last_observations)
    )
    return encode(
        BATCH,
        _WireBatch(
            robot=robot,
            boot=number.boot,
            seq=number.seq,
            spaces=layout.fingerprint,
            first=transitions.first,
            observations=observations,
            last_observations=last,
            **values,
        ),
    )


def decode_batch(frame: bytes, layout: Layout) -> Batch:
    """
    Read a batch.

    :param frame: the frame
    :param layout: types and shapes that observations and actions must have
    :return: the batch
    :raises FrameError: if it is anything else, or a number is not finite
    """
    wire = decode(BATCH, frame, _WireBatch)
    layout.check(wire.spaces, f"The batch {wire.boot}-{wire.seq} of {wire.robot}")
    values: dict[str, Any] = {
        name: value.values() for name in wire.__struct_fields__ if isinstance(value := getattr(wire, name), Array)
    }
    for name in ("observations", "last_observations"):
        values[name] = {key: array.values() for key, array in getattr(wire, name).items()}
    transitions = Transitions(first=wire.first, **values)
    transitions.check(layout)
    return Batch(wire.robot, Number(wire.boot, wire.seq), transitions)


def _check_array(name: str, values: np.ndarray, kind: tuple[str, tuple[int, ...]]) -> None:
    found = values.dtype.newbyteorder("<").str, values.shape
    if found != kind:
        raise FrameError("shape", f"The {name} are {found[1]} {found[0]}, but {kind[1]} {kind[0]} are expected.")
