"""What the learner reads: each batch once and in order, or a stop that says what is missing."""

from collections import Counter
from collections.abc import Mapping
from typing import NamedTuple

from sb3_asym.cloud_edge.frames import FrameError
from sb3_asym.cloud_edge.layout import Layout
from sb3_asym.cloud_edge.protocol import Entry, LearnerLink
from sb3_asym.cloud_edge.transitions import Batch, Number, decode_batch


class GapError(RuntimeError):
    """Batches of a robot are missing: training on would hide that they are lost."""


class Cursor(NamedTuple):
    """
    How far the batches of a robot were read.

    :param number: number of the last batch
    :param next_transition: number of the transition that follows, or None after a batch that was refused
    """

    number: Number
    next_transition: int | None


class Reader:
    """
    Reads the batches of all robots, each once and in the order of their numbers.

    Exactly once needs the help of the learner's checkpoint: store :attr:`cursors` together with the replay memory, in one
    file that is replaced as a whole; then call :meth:`confirm`; after a restart, make the reader from the cursors that the
    checkpoint has. Batches that come again are dropped by their number. A batch whose frame is refused (see
    :mod:`sb3_asym.cloud_edge.frames`) is counted and passed over, so that one broken sensor does not stop a fleet.

    :param link: the learner's side of the link
    :param layout: types and shapes of the observations and actions that the agent learns from
    :param cursors: cursors of the checkpoint, by robot
    :param join: whether a robot without a cursor may start in the middle: its former batches went to another learner
    """

    def __init__(self, link: LearnerLink, layout: Layout, cursors: Mapping[str, Cursor] | None = None, join: bool = False):
        self.link, self.layout, self.join = link, layout, join
        self.cursors: dict[str, Cursor] = dict(cursors or {})
        self.refused: Counter[str] = Counter()
        self.last_refusal: dict[str, FrameError] = {}
        self.n_duplicates = 0
        self._gap: GapError | None = None

    def read(self, max_batches: int = 64) -> list[Batch]:
        """
        Read what has come since the last call.

        :param max_batches: greatest number of batches of each robot
        :return: the batches; those of a robot are in order
        :raises GapError: if batches are missing; those before the gap were returned by the call before
        :raises LinkError: if the link is down; nothing was read
        """
        if self._gap is not None:
            raise self._gap
        batches = []
        for entry in self.link.receive({robot: cursor.number for robot, cursor in self.cursors.items()}, max_batches):
            try:
                batch = self._take(entry)
            except GapError as gap:
                self._gap = gap
                break
            if batch is not None:
                batches.append(batch)
        if self._gap is not None and not batches:
            raise self._gap
        return batches

    def confirm(self, cursors: Mapping[str, Cursor] | None = None) -> None:
        """
        Let robots and link forget what is in the checkpoint. Call it when the checkpoint is on the disk.

        :param cursors: cursors in the checkpoint; the present ones by default
        """
        cursors = self.cursors if cursors is None else cursors
        self.link.confirm({robot: cursor.number for robot, cursor in cursors.items()})

    def _take(self, entry: Entry) -> Batch | None:
        """The batch of an entry, or None where it came before or is refused."""
        cursor = self.cursors.get(entry.robot)
        if cursor is not None and entry.number <= cursor.number:
            self.n_duplicates += 1
            return None
        joins = cursor is None and self.join
        same_outbox = cursor is not None and entry.number.boot == cursor.number.boot
        expected = cursor.number.seq + 1 if cursor is not None and same_outbox else 1
        if entry.number.seq != expected and not joins:
            raise GapError(_missing(entry, expected, cursor))
        try:
            batch = decode_batch(entry.frame, self.layout)
            if (batch.robot, batch.number) != entry[:2]:
                raise FrameError("number", f"The batch {entry.number} of {entry.robot} says {batch.number} of {batch.robot}.")
        except FrameError as error:
            self.refused[error.reason] += 1
            self.last_refusal[entry.robot] = error
            self.cursors[entry.robot] = Cursor(entry.number, None)
            return None
        first = (cursor.next_transition if cursor is not None and same_outbox else 0) if not joins else None
        if first is not None and batch.transitions.first != first:
            raise GapError(
                f"The batch {entry.number} of {entry.robot} starts with transition {batch.transitions.first}, "
                f"but {first} comes next."
            )
        self.cursors[entry.robot] = Cursor(entry.number, batch.transitions.first + len(batch.transitions))
        return batch


def _missing(entry: Entry, expected: int, cursor: Cursor | None) -> str:
    text = f"Batches {expected} to {entry.number.seq - 1} of {entry.robot} (outbox {entry.number.boot}) are missing"
    if cursor is None:
        return f"{text}: another learner has read them. Go on from its checkpoint, or join without them (join=True)."
    return (
        f"{text}: the link has lost or already deleted them. Was the learner started from an older checkpoint than its last? "
        "Start it from the last one; or leave them out with a checkpoint of your own and join=True."
    )
