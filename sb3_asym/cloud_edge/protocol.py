"""
The link between edge and cloud: one interface, with one implementation for one machine and one for many.

Both sides move frames and never look into them. What must hold, for every implementation:

- The robot sends batches in the order of their numbers and stops at the first error, so that the link never has a hole.
- The link may lose what it has (a broker that lost its disk): the robot keeps every batch in its outbox until the learner
  has *confirmed* it, which the learner does once the batch is in its checkpoint, and sends again from where the link is.
- So a batch may come twice, but never out of order; :class:`sb3_asym.cloud_edge.reader.Reader` drops the second one.
"""

import re
from collections.abc import Iterable, Mapping, Sequence
from typing import NamedTuple, Protocol

from sb3_asym.cloud_edge.transitions import Number

ROBOT_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9_.\-]{0,63}")


class LinkError(ConnectionError):
    """The other side cannot be reached, or refuses for now: keep everything and try again later."""


class AccessError(LinkError):
    """The other side refuses who is calling: a wrong password or certificate, or a right that is missing."""


class Entry(NamedTuple):
    """
    A batch as it travels.

    :param robot: name of the robot
    :param number: number of the batch
    :param frame: the batch as a frame
    """

    robot: str
    number: Number
    frame: bytes


class RobotLink(Protocol):
    """The robot's side. Every method may raise :class:`LinkError`; none blocks for longer than the link's timeout."""

    def position(self) -> Number | None:
        """
        The last batch that the link has of this robot, or has had and passed on.

        :return: its number, or None where it has none; pass it to :meth:`sb3_asym.cloud_edge.outbox.Outbox.after`
        """

    def send(self, batches: Iterable[Entry]) -> int:
        """
        Send batches in the order of their numbers, from the one after :meth:`position` on; stop at the first error, after
        which the position must be asked for again.

        :param batches: the batches
        :return: number of batches that the link has taken
        """

    def confirmed(self) -> Number | None:
        """
        The last batch that is in a checkpoint of the learner: it and all before it may be deleted.

        :return: its number, or None
        """

    def policy(self, newer_than: int) -> bytes | None:
        """
        The newest policy.

        :param newer_than: version that is known already, -1 for none
        :return: its frame, or None where there is no newer one
        """

    def learner(self) -> bytes | None:
        """
        What the learner last told of itself; it is alive where the ``beat`` of this status goes on.

        :return: the status as a frame, or None
        """

    def report(self, status: bytes) -> None:
        """
        Tell the status of this robot, in place of the former one.

        :param status: the status as a frame
        """

    def close(self) -> None:
        """Give back connections and files."""


class LearnerLink(Protocol):
    """The learner's side. Every method may raise :class:`LinkError`."""

    def receive(self, cursors: Mapping[str, Number], max_batches: int) -> Sequence[Entry]:
        """
        Batches that follow the cursors, of all robots; those of a robot without a cursor from its first one on.

        :param cursors: last batch that was received, by robot
        :param max_batches: greatest number of batches of each robot
        :return: the batches, in order for each robot; empty where there is none
        """

    def confirm(self, cursors: Mapping[str, Number]) -> None:
        """
        Tell the robots which batches are in the checkpoint, and let the link forget them.

        :param cursors: last batch in the checkpoint, by robot
        """

    def publish(self, version: int, policy: bytes) -> None:
        """
        Put a policy in place of the former one.

        :param version: its version, greater than the former one's
        :param policy: the policy as a frame
        """

    def beat(self, status: bytes) -> None:
        """
        Tell the status of the learner, in place of the former one.

        :param status: the status as a frame
        """

    def statuses(self) -> Mapping[str, bytes]:
        """
        What each robot last told of itself.

        :return: the statuses as frames, by robot
        """

    def learner(self) -> bytes | None:
        """
        What the learner last told of itself, for a program that only watches.

        :return: the status as a frame, or None
        """

    def close(self) -> None:
        """Give back connections and files."""


def check_robot(robot: str) -> None:
    """
    Refuse a name that cannot be part of a file's or a key's name.

    :param robot: name of the robot
    :raises ValueError: if it cannot be one
    """
    if not ROBOT_NAME.fullmatch(robot):
        raise ValueError(f"{robot!r} cannot be a robot's name: use up to 64 letters, digits, '_', '.' and '-'.")
