"""The memory that the edge's processes share: the ring of transitions, the policy, and what each tells the others."""

import mmap
from enum import IntEnum
from pathlib import Path

import numpy as np

from sb3_asym.cloud_edge.form import EdgeForm, record_type
from sb3_asym.cloud_edge.layout import Layout
from sb3_asym.shared_memory import Ring, WeightBlock, aligned

N_BINS = 192
BINS_PER_OCTAVE = 8


class Doing(IntEnum):
    """What the control process does."""

    STARTING = 0
    ACTING = 1
    WAITING_FOR_ROOM = 2
    STOPPED_STALE = 3
    ENDED = 4


STATE = np.dtype(
    [
        # by control
        ("life", np.uint64),
        ("doing", np.int64),
        ("is_fifo", np.int64),
        ("steps", np.int64),
        ("episodes", np.int64),
        ("deadlines", np.int64),
        ("missed", np.int64),
        ("missed_in_a_row", np.int64),
        ("most_missed_in_a_row", np.int64),
        ("version", np.int64),
        ("weights_made", np.int64),
        ("swaps", np.int64),
        ("torn", np.int64),
        ("stale", np.int64),
        ("times_stale", np.int64),
        ("bad_steps", np.int64),
        ("worst_lateness", np.int64),
        ("last_return", np.float64),
        # by the courier
        ("news", np.int64),
        ("outbox_full", np.int64),
        ("refused", np.int64),
        ("arrivals", np.int64),
        # by the supervisor
        ("stop", np.int64),
        ("control_gone", np.int64),
        ("steps_to_do", np.int64),
        # by control: how often, in logarithmic bins
        ("lateness", np.int64, N_BINS),
        ("policy_age", np.int64, N_BINS),
    ],
    align=True,
)
"""Numbers of 8 bytes, each with one writer, so that none needs a lock. Times are of the monotonic clock, in ns."""


def bin_of(value: int) -> int:
    """
    The bin of a time.

    :param value: time, ns
    :return: index of its bin; bins are an eighth of an octave wide and begin at 1 µs
    """
    return min(int(BINS_PER_OCTAVE * np.log2(1 + max(value, 0) / 1000)), N_BINS - 1)


def quantile(bins: np.ndarray, share: float) -> float:
    """
    A quantile of times in bins.

    :param bins: how often each bin was met, ``(N_BINS,)``
    :param share: share of the times below it, in [0, 1]
    :return: upper end of the bin in which it is, s; 0 where there are no times
    """
    if bins.sum() == 0:
        return 0.0
    index = int(np.searchsorted(np.cumsum(bins), share * bins.sum()))
    return float((2 ** ((min(index, N_BINS - 1) + 1) / BINS_PER_OCTAVE) - 1) / 1e6)


class RingFile:
    """
    The ring, in a file that outlives the processes, so that those who come after them find what was not in the outbox yet.

    :param path: path of the file
    :param spaces: types and shapes of observations and actions
    :param capacity: greatest number of transitions that wait
    """

    def __init__(self, path: Path, spaces: Layout, capacity: int):
        record = record_type(spaces)
        self._memory = _map(path, Ring.size(record, capacity))
        self.ring = Ring(memoryview(self._memory), record, capacity)

    @staticmethod
    def prepare(path: Path, spaces: Layout, capacity: int, next_transition: int) -> int:
        """
        Make the file, or keep it where it goes on where the outbox ends.

        :param path: path of the file
        :param spaces: types and shapes of observations and actions
        :param capacity: greatest number of transitions that wait
        :param next_transition: number of the first transition that is not in the outbox
        :return: number of transitions in the file that are not in the outbox yet
        """
        size = Ring.size(record_type(spaces), capacity)
        if path.exists() and path.stat().st_size == size:
            ring = RingFile(path, spaces, capacity).ring
            if ring.tail <= next_transition <= ring.head:
                return ring.head - next_transition
        _make(path, size)
        RingFile(path, spaces, capacity).ring.start_at(next_transition)
        return 0


class EdgeMemory:
    """
    The policy and the state, in a file that lives as long as the edge runs.

    :param path: path of the file
    :param form: form of the policies
    :param state: what the processes tell each other, of :data:`STATE`
    """

    def __init__(self, path: Path, form: EdgeForm):
        self._memory = _map(path, self.size(form))
        self.state = np.frombuffer(self._memory, dtype=STATE, count=1)[0]
        self.policies = WeightBlock(memoryview(self._memory)[aligned(STATE.itemsize) :], form.n_bytes)

    @staticmethod
    def size(form: EdgeForm) -> int:
        """
        Bytes of the file.

        :param form: form of the policies
        :return: bytes
        """
        return aligned(STATE.itemsize) + WeightBlock.size(form.n_bytes)

    @staticmethod
    def create(path: Path, form: EdgeForm) -> "EdgeMemory":
        """
        Make the file.

        :param path: path of the file
        :param form: form of the policies
        :return: the memory
        """
        _make(path, EdgeMemory.size(form))
        return EdgeMemory(path, form)


def _make(path: Path, size: int) -> None:
    """A file of zeros, in place of any that was there."""
    path.parent.mkdir(parents=True, exist_ok=True)
    path.unlink(missing_ok=True)
    with open(path, "wb") as file:
        file.truncate(size)
    path.chmod(0o600)


def _map(path: Path, size: int) -> mmap.mmap:
    with open(path, "r+b") as file:
        return mmap.mmap(file.fileno(), size)
