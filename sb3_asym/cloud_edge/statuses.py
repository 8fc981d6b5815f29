"""What robots and the learner tell of themselves, as frames. Needs the extra ``cloud`` (msgspec)."""

from typing import TypeVar

import msgspec
import numpy as np

from sb3_asym.cloud_edge.frames import LEARNER_STATUS, ROBOT_STATUS, Count, FrameError, Name, decode, encode
from sb3_asym.cloud_edge.transitions import Number


class RobotStatus(msgspec.Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """
    What a robot tells of itself.

    :param robot: name of the robot
    :param time: when it was told, s since 1970, by the robot's clock
    :param policy_version: version of the policy that acts
    :param policy_age: time since the link last had news from the learner, s
    :param next_transition: number of transitions that were stored in the outbox
    :param sent: last batch that the link has, or None
    :param outbox_bytes: size of the batches in the outbox
    :param outbox_full: whether new episodes are refused
    :param values: other numbers by name, to be shown and logged
    :param message: what a person should know, or ""
    """

    robot: Name
    time: float
    policy_version: Count
    policy_age: float
    next_transition: Count
    sent: Number | None
    outbox_bytes: Count
    outbox_full: bool
    values: dict[str, float] = {}
    message: str = ""


class LearnerStatus(msgspec.Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """
    What the learner tells of itself; it is also its sign of life.

    :param beat: a count that grows with each status
    :param time: when it was told, s since 1970, by the learner's clock
    :param policy_version: version of the last policy that was published
    :param num_timesteps: transitions that were received
    :param values: other numbers by name, to be shown and logged
    :param message: what a person should know, or ""
    """

    beat: Count
    time: float
    policy_version: Count
    num_timesteps: Count
    values: dict[str, float] = {}
    message: str = ""


Status = TypeVar("Status", RobotStatus, LearnerStatus)


def encode_status(status: RobotStatus | LearnerStatus) -> bytes:
    """
    Write a status as a frame.

    :param status: status of a robot or of the learner
    :return: the frame
    """
    return encode(ROBOT_STATUS if isinstance(status, RobotStatus) else LEARNER_STATUS, status)


def decode_robot_status(frame: bytes) -> RobotStatus:
    """
    Read the status of a robot.

    :param frame: the frame
    :return: the status
    :raises FrameError: if it is anything else
    """
    return _finite(decode(ROBOT_STATUS, frame, RobotStatus))


def decode_learner_status(frame: bytes) -> LearnerStatus:
    """
    Read the status of the learner.

    :param frame: the frame
    :return: the status
    :raises FrameError: if it is anything else
    """
    return _finite(decode(LEARNER_STATUS, frame, LearnerStatus))


def _finite(status: Status) -> Status:
    numbers = [status.time, getattr(status, "policy_age", 0.0), *status.values.values()]
    if not np.isfinite(numbers).all():
        raise FrameError("not finite", "A number of the status is infinite or not a number.")
    return status
