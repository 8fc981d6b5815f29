"""What the processes of one machine share: a block of weights under a sequence lock, and a ring of transitions per actor.

Neither has a lock that a killed process could leave locked. Both prove what they hand out: a copy of the weights is taken
only if the sequence number did not change meanwhile *and* its checksum is right, a record only if its number and its checksum
are, so that processors which reorder stores are covered too.
"""

import time
import zlib
from collections.abc import Callable

import numpy as np

CACHE_LINE = 64
TORN_AFTER = 1.0
"""Seconds after which a record that is still damaged counts as lost memory, rather than as stores on their way."""
_VERSION_FACTOR = np.uint64(0x9E3779B97F4A7C15)


def aligned(n_bytes: int) -> int:
    """
    Bytes up to the next cache line.

    :param n_bytes: bytes
    :return: the least multiple of a cache line that holds them
    """
    return -(-n_bytes // CACHE_LINE) * CACHE_LINE


class WeightBlock:
    """
    The weights that actors run: two slots, written in turn, each under a sequence lock.

    The sequence number of a slot is odd while it is written. A reader copies the newest slot, and takes the copy only if the
    sequence number is even and as before, and the copy's checksum, into which the version is mixed, is the slot's. With two
    slots, a reader is disturbed only by a writer that publishes twice during one copy; it then copies again.

    :param buffer: shared memory of :meth:`size` bytes, zeros at first
    :param n_bytes: bytes of the weights
    """

    def __init__(self, buffer: memoryview | bytearray, n_bytes: int):
        self._header = np.frombuffer(buffer, dtype=np.uint64, count=3 * CACHE_LINE // 8).reshape(3, -1)
        self._latest = self._header[0]
        slot_bytes = aligned(n_bytes)
        self._slots = [
            np.frombuffer(buffer, dtype=np.uint8, count=slot_bytes, offset=3 * CACHE_LINE + slot * slot_bytes)
            for slot in range(2)
        ]

    @staticmethod
    def size(n_bytes: int) -> int:
        """
        Bytes of shared memory that a block needs.

        :param n_bytes: bytes of the weights
        :return: bytes of the block
        """
        return 3 * CACHE_LINE + 2 * aligned(n_bytes)

    @staticmethod
    def empty_copy(n_bytes: int) -> np.ndarray:
        """
        Memory for a copy of the weights.

        :param n_bytes: bytes of the weights
        :return: zeros, uint8, aligned as the slots are
        """
        memory = np.zeros(aligned(n_bytes) + CACHE_LINE, dtype=np.uint8)
        start = -memory.ctypes.data % CACHE_LINE
        return memory[start : start + aligned(n_bytes)]

    @property
    def version(self) -> int:
        """Version of the newest weights; 0 before the first."""
        return int(self._latest[0])

    def publish(self, write: Callable[[np.ndarray], None]) -> int:
        """
        Write new weights. There is one writer.

        :param write: function that writes the weights into the memory it is given, uint8
        :return: their version
        """
        version = self.version + 1
        header, slot = self._header[1 + version % 2], self._slots[version % 2]
        header[0] |= np.uint64(1)  # odd already where a writer was killed here
        write(slot)
        header[1], header[2] = version, _checksum(slot, version)
        header[0] += 1
        self._latest[0] = version
        return version

    def pull(self, copy: np.ndarray) -> int:
        """
        Copy the newest weights, as often as it takes.

        :param copy: memory that :meth:`empty_copy` made
        :return: version of the weights in the copy
        """
        while True:
            version = self.try_pull(copy)
            if version is not None:
                return version

    def try_pull(self, copy: np.ndarray) -> int | None:
        """
        Copy the newest weights once.

        :param copy: memory that :meth:`empty_copy` made
        :return: version of the weights in the copy, or None where they were written meanwhile
        """
        version = self.version
        header, slot = self._header[1 + version % 2], self._slots[version % 2]
        before = int(header[0])
        np.copyto(copy, slot)
        found, checksum = int(header[1]), header[2]
        whole = before % 2 == 0 and before == int(header[0]) and found > 0
        return found if whole and _checksum(copy, found) == checksum else None


def _checksum(weights: np.ndarray, version: int) -> np.uint64:
    """Sum of the weights as 8-byte words, with the version mixed in: halves of two versions do not have it."""
    with np.errstate(over="ignore"):
        return weights.view(np.uint64).sum(dtype=np.uint64) + np.uint64(version) * _VERSION_FACTOR


class Ring:
    """
    Transitions on their way from one actor to the learner, in the order in which they were made.

    Two numbers only grow: ``head``, of records that the actor has written, and ``tail``, of records that the learner has
    taken. A record is written first and counted after, so one that a killed actor has left half-written does not exist; the
    actor that replaces it goes on at ``head``.

    :param buffer: shared memory of :meth:`size` bytes, zeros at first
    :param record: type of a record, with the fields ``sequence`` (uint64) first and ``checksum`` (uint32) last
    :param capacity: greatest number of records that wait
    """

    def __init__(self, buffer: memoryview | bytearray, record: np.dtype, capacity: int):
        self.capacity = capacity
        indices = np.frombuffer(buffer, dtype=np.uint64, count=2 * CACHE_LINE // 8).reshape(2, -1)
        self._head, self._tail = indices[0, :1], indices[1, :1]
        self._records = np.frombuffer(buffer, dtype=record, count=capacity, offset=2 * CACHE_LINE)
        n_summed = record.itemsize - 4
        rows = self._records.view(np.uint8).reshape(capacity, record.itemsize)
        self._summed = [memoryview(row[:n_summed]) for row in rows]  # type: ignore[arg-type]

    @staticmethod
    def size(record: np.dtype, capacity: int) -> int:
        """
        Bytes of shared memory that a ring needs.

        :param record: type of a record
        :param capacity: greatest number of records that wait
        :return: bytes
        """
        return 2 * CACHE_LINE + aligned(record.itemsize * capacity)

    def __len__(self) -> int:
        return int(self._head[0]) - int(self._tail[0])

    @property
    def record_bytes(self) -> int:
        """Bytes of a record."""
        return self._records.itemsize

    @property
    def head(self) -> int:
        """Number of records that were written."""
        return int(self._head[0])

    @property
    def tail(self) -> int:
        """Number of records that were taken."""
        return int(self._tail[0])

    def start_at(self, number: int) -> None:
        """
        Begin with another number than 0, before the first record.

        :param number: number of the first record
        """
        self._head[0] = self._tail[0] = number

    @property
    def is_full(self) -> bool:
        """Whether the actor has to wait."""
        return len(self) >= self.capacity

    def push(self, values: tuple) -> None:
        """
        Write a record. There is one writer, and room.

        :param values: its fields, without the first and the last
        """
        head = int(self._head[0])
        place = head % self.capacity
        self._records[place] = (head, *values, 0)
        self._records["checksum"][place] = zlib.crc32(self._summed[place])
        self._head[0] = head + 1

    def peek(self, index: int = 0) -> np.void:
        """
        A record that waits.

        :param index: 0 for the oldest
        :return: copy of the record
        :raises RuntimeError: if it is damaged
        """
        number = int(self._tail[0]) + index
        place = number % self.capacity
        given_up = time.monotonic() + TORN_AFTER
        while True:
            record = self._records[place].copy()
            if int(record["sequence"]) == number and int(record["checksum"]) == zlib.crc32(record.tobytes()[:-4]):
                return record
            if time.monotonic() > given_up:
                raise RuntimeError(f"Transition {number} of an actor is damaged: something wrote into the shared memory.")

    def pop(self) -> None:
        """Give the oldest record's place free."""
        self._tail[0] = int(self._tail[0]) + 1
