"""
The link on one machine, without a server: the learner reads the robot's outbox itself.

The folder has ``policy`` and ``learner``, and for each robot ``robots/<robot>/`` with ``outbox.sqlite``, ``status`` and
``confirmed``. Each file has one writer, and is replaced as a whole.
"""

import sqlite3
from collections.abc import Callable, Iterable, Mapping, Sequence
from contextlib import closing
from functools import wraps
from pathlib import Path
from typing import ParamSpec, TypeVar

from sb3_asym.cloud_edge.files import read_file, replace_file
from sb3_asym.cloud_edge.frames import FrameError
from sb3_asym.cloud_edge.policy_frames import policy_version
from sb3_asym.cloud_edge.protocol import Entry, LinkError
from sb3_asym.cloud_edge.transitions import Number

Given = ParamSpec("Given")
Result = TypeVar("Result")


def _links(method: Callable[Given, Result]) -> Callable[Given, Result]:
    """A method whose errors of files are those of a link."""

    @wraps(method)
    def linked(*args: Given.args, **kwargs: Given.kwargs) -> Result:
        try:
            return method(*args, **kwargs)
        except (OSError, sqlite3.Error) as error:
            raise LinkError(f"The link's folder cannot be used ({error}).") from error

    return linked


class EmbeddedRobotLink:
    """
    The robot's side of the link on one machine, a :class:`sb3_asym.cloud_edge.protocol.RobotLink`.

    :param folder: folder of the link
    :param robot: name of the robot
    """

    def __init__(self, folder: Path, robot: str):
        self.folder, self._own = folder, folder / "robots" / robot
        self._policy_state: tuple[int, int] | None = None
        self._policy_version = -1

    @_links
    def position(self) -> Number | None:
        """The last batch in the outbox, as the outbox is the queue."""
        return newest(self._own / "outbox.sqlite")

    def send(self, batches: Iterable[Entry]) -> int:
        """Nothing is left to be sent."""
        return sum(1 for _ in batches)

    @_links
    def confirmed(self) -> Number | None:
        """The last batch that is in a checkpoint of the learner, or None."""
        text = read_file(self._own / "confirmed")
        return None if text is None else Number.parse(text.decode())

    @_links
    def policy(self, newer_than: int) -> bytes | None:
        """The newest policy, or None where there is no newer one."""
        path = self.folder / "policy"
        try:
            stat = path.stat()
        except FileNotFoundError:
            return None
        state = stat.st_mtime_ns, stat.st_ino
        if state == self._policy_state and self._policy_version <= newer_than:
            return None
        frame = path.read_bytes()
        self._policy_state = state
        try:
            self._policy_version = policy_version(frame)
        except FrameError:
            self._policy_version = newer_than
            return frame  # once, so that it is refused and counted where policies are checked
        return frame if self._policy_version > newer_than else None

    @_links
    def learner(self) -> bytes | None:
        """What the learner last told of itself, or None."""
        return read_file(self.folder / "learner")

    @_links
    def report(self, status: bytes) -> None:
        """Tell the status of this robot."""
        replace_file(self._own / "status", status, durable=False)

    def close(self) -> None:
        """Nothing is open."""


class EmbeddedLearnerLink:
    """
    The learner's side of the link on one machine, a :class:`sb3_asym.cloud_edge.protocol.LearnerLink`.

    :param folder: folder of the link
    """

    def __init__(self, folder: Path):
        self.folder = folder

    @_links
    def receive(self, cursors: Mapping[str, Number], max_batches: int) -> Sequence[Entry]:
        """Batches that follow the cursors, read from the outboxes."""
        entries: list[Entry] = []
        for path in sorted(self.folder.glob("robots/*/outbox.sqlite")):
            robot = path.parent.name
            entries += batches_after(path, robot, cursors.get(robot), max_batches)
        return entries

    @_links
    def confirm(self, cursors: Mapping[str, Number]) -> None:
        """Tell the robots which batches they may delete."""
        for robot, number in cursors.items():
            replace_file(self.folder / "robots" / robot / "confirmed", str(number).encode())

    @_links
    def publish(self, version: int, policy: bytes) -> None:
        """Put a policy in place of the former one."""
        replace_file(self.folder / "policy", policy)

    @_links
    def beat(self, status: bytes) -> None:
        """Tell the status of the learner."""
        replace_file(self.folder / "learner", status, durable=False)

    @_links
    def statuses(self) -> Mapping[str, bytes]:
        """What each robot last told of itself."""
        return {path.parent.name: path.read_bytes() for path in sorted(self.folder.glob("robots/*/status"))}

    @_links
    def learner(self) -> bytes | None:
        """What the learner last told of itself, or None."""
        return read_file(self.folder / "learner")

    def close(self) -> None:
        """Nothing is open."""


def newest(path: Path) -> Number | None:
    """
    The last batch that was stored in an outbox.

    :param path: path of the outbox
    :return: its number, or None
    """
    if not path.exists():
        return None
    with closing(_open(path)) as database:
        boot, seq = database.execute("SELECT boot, seq FROM life").fetchone() or (0, 0)
    return Number(boot, seq) if seq else None


def batches_after(path: Path, robot: str, cursor: Number | None, max_batches: int) -> list[Entry]:
    """
    Batches in an outbox that follow a cursor.

    :param path: path of the outbox
    :param robot: name of the robot
    :param cursor: last batch that was read, or None
    :param max_batches: greatest number of batches
    :return: the batches, in order
    """
    with closing(_open(path)) as database:
        if not database.execute("SELECT 1 FROM sqlite_master WHERE name = 'batches'").fetchone():
            return []  # it is just being made
        database.execute("BEGIN")  # boot and batches of one moment
        boot = database.execute("SELECT boot FROM life").fetchone()
        if boot is None:
            return []
        seq = cursor.seq if cursor is not None and cursor.boot == boot[0] else 0
        rows = database.execute("SELECT seq, frame FROM batches WHERE seq > ? ORDER BY seq LIMIT ?", (seq, max_batches))
        return [Entry(robot, Number(boot[0], seq), frame) for seq, frame in rows]


def _open(path: Path) -> sqlite3.Connection:
    """An outbox, to be read only. The log beside it must be writable for readers too."""
    database = sqlite3.connect(f"{path.absolute().as_uri()}?mode=rw", uri=True, isolation_level=None)
    database.execute("PRAGMA query_only=1")
    return database
