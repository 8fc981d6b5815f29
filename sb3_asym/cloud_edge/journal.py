"""The learner's checkpoint: replay memory, cursors and agent in one file, whose changes are stored whole or not at all."""

import io
import sqlite3
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import NamedTuple

from sb3_asym.cloud_edge.layout import Layout
from sb3_asym.cloud_edge.reader import Cursor
from sb3_asym.cloud_edge.transitions import Batch, Number, decode_batch, encode_batch

SCHEMA = """
CREATE TABLE IF NOT EXISTS about (spaces TEXT NOT NULL, algorithm TEXT NOT NULL, version INTEGER NOT NULL,
    received INTEGER NOT NULL);
CREATE TABLE IF NOT EXISTS batches (id INTEGER PRIMARY KEY, n INTEGER NOT NULL, frame BLOB NOT NULL);
CREATE TABLE IF NOT EXISTS cursors (robot TEXT PRIMARY KEY, boot INTEGER NOT NULL, seq INTEGER NOT NULL,
    next_transition INTEGER);
CREATE TABLE IF NOT EXISTS agent (id INTEGER PRIMARY KEY CHECK (id = 0), num_timesteps INTEGER NOT NULL,
    trained_steps INTEGER NOT NULL, zip BLOB NOT NULL);
"""


class SavedAgent(NamedTuple):
    """
    The agent in a checkpoint.

    :param num_timesteps: transitions that it had received
    :param trained_steps: transitions that it had trained for
    :param zip: file that the model's ``save`` wrote
    """

    num_timesteps: int
    trained_steps: int
    zip: bytes

    @property
    def file(self) -> io.BytesIO:
        """The model's file."""
        return io.BytesIO(self.zip)


class Journal:
    """
    A SQLite file with every batch that came, how far each robot was read, and the agent.

    Batches and cursors are stored together, so a robot may delete what is below the cursor. The agent is stored now and
    then; what it had not trained for yet is in the batches.

    :param path: path of the file; it is made where it is missing
    :param layout: types and shapes of observations and actions
    :param algorithm: name of the agent's algorithm
    :param memory_size: number of the newest transitions to keep
    :param received: number of transitions that ever came
    :raises ValueError: if the file is of another agent, or is damaged
    """

    def __init__(self, path: Path, layout: Layout, algorithm: str, memory_size: int):
        self.path, self._layout, self._memory_size = path, layout, memory_size
        path.parent.mkdir(parents=True, exist_ok=True)
        try:
            self._database = sqlite3.connect(path, isolation_level=None, check_same_thread=False)
            self._database.execute("PRAGMA journal_mode=WAL")
            self._database.execute("PRAGMA synchronous=FULL")
            with self._transaction():
                for statement in SCHEMA.strip().split(";\n"):
                    self._database.execute(statement)
                about = self._database.execute("SELECT spaces, algorithm, version, received FROM about").fetchone()
                if about is None:
                    about = layout.fingerprint, algorithm, 0, 0
                    self._database.execute("INSERT INTO about VALUES (?, ?, ?, ?)", about)
                self.n_stored = self._database.execute("SELECT COALESCE(SUM(n), 0) FROM batches").fetchone()[0]
        except sqlite3.DatabaseError as error:
            raise ValueError(f"The checkpoint {path} cannot be read ({error}): move it away to start anew.") from error
        if about[:2] != (layout.fingerprint, algorithm):
            self._database.close()
            raise ValueError(
                f"The checkpoint {path} is of another agent ({about[1]}, other spaces or both): load it, or give another "
                "folder."
            )
        self.version, self.received = map(int, about[2:])

    def store(self, batches: Sequence[Batch], cursors: Mapping[str, Cursor]) -> None:
        """
        Store batches and how far the robots were read; it is on the disk when this returns.

        :param batches: new batches
        :param cursors: cursors after them, of all robots
        """
        rows = [(len(b.transitions), encode_batch(b.robot, b.number, b.transitions, self._layout)) for b in batches]
        with self._transaction():
            self._database.executemany("INSERT INTO batches (n, frame) VALUES (?, ?)", rows)
            values = [(robot, *cursor.number, cursor.next_transition) for robot, cursor in cursors.items()]
            self._database.executemany("INSERT OR REPLACE INTO cursors VALUES (?, ?, ?, ?)", values)
            n_new = sum(n for n, _ in rows)
            self._database.execute("UPDATE about SET received = received + ?", (n_new,))
            self.n_stored += n_new
            while rows and self.n_stored > self._memory_size:
                oldest, n = self._database.execute("SELECT id, n FROM batches ORDER BY id LIMIT 1").fetchone()
                if self.n_stored - n < self._memory_size:
                    break
                self._database.execute("DELETE FROM batches WHERE id = ?", (oldest,))
                self.n_stored -= n
        self.received += n_new

    def batches(self) -> Iterator[Batch]:
        """
        The batches, oldest first.

        :return: the batches
        """
        for (frame,) in self._database.execute("SELECT frame FROM batches ORDER BY id"):
            yield decode_batch(frame, self._layout)

    def cursors(self) -> dict[str, Cursor]:
        """
        How far the robots were read.

        :return: cursors by robot
        """
        rows = self._database.execute("SELECT robot, boot, seq, next_transition FROM cursors")
        return {robot: Cursor(Number(boot, seq), following) for robot, boot, seq, following in rows}

    def save_agent(self, agent: SavedAgent) -> None:
        """
        Store the agent in place of the former one.

        :param agent: the agent
        """
        with self._transaction():
            self._database.execute("INSERT OR REPLACE INTO agent VALUES (0, ?, ?, ?)", tuple(agent))

    def saved_agent(self) -> SavedAgent | None:
        """
        The agent.

        :return: what was stored last, or None
        """
        row = self._database.execute("SELECT num_timesteps, trained_steps, zip FROM agent").fetchone()
        return None if row is None else SavedAgent(*row)

    def next_version(self, at_least: int = 0) -> int:
        """
        A version that no policy had, which is remembered before it is published.

        :param at_least: version that the link knows
        :return: the version
        """
        self.version = max(self.version, at_least) + 1
        with self._transaction():
            self._database.execute("UPDATE about SET version = ?", (self.version,))
        return self.version

    def close(self) -> None:
        """Close the file."""
        self._database.close()

    @contextmanager
    def _transaction(self) -> Iterator[None]:
        self._database.execute("BEGIN IMMEDIATE")
        try:
            yield
        except BaseException:
            self._database.execute("ROLLBACK")
            raise
        self._database.execute("COMMIT")
