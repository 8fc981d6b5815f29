"""The outbox: batches of transitions on the robot's disk until the learner has them in a checkpoint."""

import sqlite3
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from sb3_asym.cloud_edge.layout import Layout
from sb3_asym.cloud_edge.protocol import Entry, check_robot
from sb3_asym.cloud_edge.transitions import Number, Transitions, encode_batch

RESERVE = 0.1
SCHEMA = """
CREATE TABLE IF NOT EXISTS life (boot INTEGER, seq INTEGER, next_transition INTEGER, spaces TEXT);
CREATE TABLE IF NOT EXISTS batches (seq INTEGER PRIMARY KEY, frame BLOB NOT NULL);
"""


class OutboxFull(RuntimeError):
    """Nothing more fits: the batch was not stored, so keep it, and send what is there."""


class OutboxError(RuntimeError):
    """The outbox cannot be the one that this robot has sent from, or it cannot be read."""


class Outbox:
    """
    Batches in a SQLite file, numbered in order, and deleted only when the learner has confirmed them.

    Numbers are given within the transaction that stores a batch, so a process that is killed anywhere leaves a batch
    stored with its number or not at all. A number must never be given twice, not even after a power cut, because the link
    may already have the first batch of that number; so each commit waits for the disk (``synchronous=FULL``; with NORMAL,
    a write-ahead log may lose its last commits).

    It is full before nothing fits, so that the episode that runs can be stored to its end.

    :param path: path of the file; it is made where it is missing
    :param robot: name of the robot
    :param layout: types and shapes of observations and actions; None opens an existing outbox to send from it only
    :param max_bytes: greatest size of the batches, bytes
    :raises OutboxError: if the file is damaged, or holds batches of other spaces
    """

    boot: int
    next_transition: int
    n_batches: int
    n_bytes: int
    _seq: int

    def __init__(self, path: str | Path, robot: str, layout: Layout | None, max_bytes: int = 1 << 30):
        check_robot(robot)
        self.path, self.robot, self.layout, self.max_bytes = Path(path), robot, layout, max_bytes
        if layout is None and not self.path.is_file():
            raise OutboxError(f"There is no outbox {path}.")
        self.path.parent.mkdir(parents=True, exist_ok=True)
        try:
            self._database = sqlite3.connect(path, isolation_level=None)
            self._database.execute("PRAGMA journal_mode=WAL")
            self._database.execute("PRAGMA synchronous=FULL")
            self._open()
        except sqlite3.DatabaseError as error:
            raise OutboxError(f"The outbox {path} cannot be opened ({error}).") from error

    @property
    def last(self) -> Number:
        """Number of the last batch that was stored; its ``seq`` is 0 where none ever was."""
        return Number(self.boot, self._seq)

    @property
    def full(self) -> bool:
        """Whether no new episode should start; some room is left for the one that runs."""
        return self.n_bytes >= (1 - RESERVE) * self.max_bytes

    def append(self, transitions: Transitions) -> Number:
        """
        Store a batch; it is on the disk when this returns.

        :param transitions: the transitions that follow those stored before; the first has the number :attr:`next_transition`
        :return: number of the batch
        :raises OutboxFull: if it does not fit; nothing was stored
        :raises FrameError: if the transitions are not finite or do not fit the layout; nothing was stored
        :raises ValueError: if they do not follow those stored before
        """
        if self.layout is None:
            raise ValueError("This outbox was opened without a layout, to send from it only.")
        if transitions.first != self.next_transition:
            raise ValueError(f"Transition {self.next_transition} comes next in {self.path}, not {transitions.first}.")
        number = Number(self.boot, self._seq + 1)
        frame = encode_batch(self.robot, number, transitions, self.layout)
        if self.n_bytes + len(frame) > self.max_bytes:
            raise OutboxFull(
                f"The outbox {self.path} is full: {self.n_bytes} of {self.max_bytes} bytes wait to be sent. "
                "Check the link, or give it more room."
            )
        next_transition = transitions.first + len(transitions)
        with self._transaction():
            updated = self._database.execute(
                "UPDATE life SET seq = ?, next_transition = ? WHERE seq = ?", (number.seq, next_transition, self._seq)
            )
            if updated.rowcount != 1:
                raise OutboxError(f"Another process writes to the outbox {self.path}: a robot has only one.")
            self._database.execute("INSERT INTO batches VALUES (?, ?)", (number.seq, frame))
        self._seq, self.next_transition = number.seq, next_transition
        self.n_batches += 1
        self.n_bytes += len(frame)
        return number

    def after(self, position: Number | None, max_batches: int = 64) -> list[Entry]:
        """
        Batches that the link does not have yet.

        :param position: last batch that the link has, or None
        :param max_batches: greatest number of batches
        :return: the batches, in order
        :raises OutboxError: if the link has batches that were never in this outbox
        """
        seq = self._seq_of(position)
        rows = self._database.execute(
            "SELECT seq, frame FROM batches WHERE seq > ? ORDER BY seq LIMIT ?", (seq, max_batches)
        ).fetchall()
        return [Entry(self.robot, Number(self.boot, seq), frame) for seq, frame in rows]

    def delete_through(self, confirmed: Number | None) -> None:
        """
        Delete the batches that are in a checkpoint of the learner.

        :param confirmed: the last of them, or None
        :raises OutboxError: if the learner has batches that were never in this outbox
        """
        seq = self._seq_of(confirmed)
        with self._transaction():
            self._database.execute("DELETE FROM batches WHERE seq <= ?", (seq,))
            self._count()

    def close(self) -> None:
        """Close the file."""
        self._database.close()

    def _seq_of(self, number: Number | None) -> int:
        """Sequence number in this outbox, 0 for a batch of a former one."""
        if number is None or number.boot < self.boot:
            return 0
        if number > self.last:
            raise OutboxError(
                f"The link has batch {number} of {self.robot}, but the outbox {self.path} ends at {self.last}: it is an old "
                "copy, or the clock was wrong when it was made. Set the clock, move the file away and start anew."
            )
        return number.seq

    def _open(self) -> None:
        with self._transaction():
            for statement in SCHEMA.strip().split(";\n"):
                self._database.execute(statement)
            life = self._database.execute("SELECT boot, seq, next_transition, spaces FROM life").fetchone()
            if life is None:
                assert self.layout is not None
                life = time.time_ns() // 1_000_000, 0, 0, self.layout.fingerprint
                self._database.execute("INSERT INTO life VALUES (?, ?, ?, ?)", life)
            self._count()
        self.boot, self._seq, self.next_transition, spaces = life
        if self.layout is not None:
            self.layout.check(spaces, f"The outbox {self.path}")

    def _count(self) -> None:
        query = "SELECT COUNT(*), COALESCE(SUM(LENGTH(frame)), 0) FROM batches"
        self.n_batches, self.n_bytes = self._database.execute(query).fetchone()

    @contextmanager
    def _transaction(self) -> Iterator[None]:
        """All or nothing; a disk without room counts as a full outbox."""
        try:
            self._database.execute("BEGIN IMMEDIATE")
            yield
            self._database.execute("COMMIT")
        except BaseException as error:
            if self._database.in_transaction:
                self._database.execute("ROLLBACK")
            if isinstance(error, sqlite3.OperationalError) and "full" in str(error):
                raise OutboxFull(f"The disk of the outbox {self.path} is full.") from error
            raise
