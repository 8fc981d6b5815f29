"""Weights and transitions in memory that processes share."""

import multiprocessing
import threading
import time
from multiprocessing.shared_memory import SharedMemory

import numpy as np
import pytest

from sb3_asym.shared_memory import Ring, WeightBlock

N_BYTES = 1 << 18
N_SWAPS, N_PULLS = 10_000, 500
N_RECORDS = 5_000
RECORD = np.dtype([("sequence", np.uint64), ("payload", np.int64, (20,)), ("checksum", np.uint32)])


def _pull(name: str, results: multiprocessing.Queue) -> None:
    memory = SharedMemory(name=name)
    block = WeightBlock(memory.buf, N_BYTES)
    copy, last, n_torn = WeightBlock.empty_copy(N_BYTES), 0, 0
    for _ in range(N_PULLS):
        while block.version == last:
            pass
        version = block.pull(copy)
        words = copy.view(np.uint64)
        n_torn += int((words != words[0]).any() or words[0] != version or version < last)
        last = version
    results.put(n_torn)
    del block
    memory.close()


def test_no_weights_are_torn_while_they_are_swapped() -> None:
    memory = SharedMemory(create=True, size=WeightBlock.size(N_BYTES))
    try:
        block = WeightBlock(memory.buf, N_BYTES)
        context = multiprocessing.get_context("spawn")
        results = context.SimpleQueue()
        readers = [context.Process(target=_pull, args=(memory.name, results)) for _ in range(2)]
        for reader in readers:
            reader.start()
        while block.version < N_SWAPS or any(reader.is_alive() for reader in readers):
            version = block.version + 1
            assert block.publish(lambda slot, version=version: slot.view(np.uint64).fill(version)) == version
        assert [results.get() for _ in readers] == [0, 0]
        del block
    finally:
        memory.close()
        memory.unlink()


@pytest.mark.parametrize("damage", ["halves of two versions", "still being written"])
def test_torn_weights_are_not_taken(damage: str) -> None:
    buffer = bytearray(WeightBlock.size(N_BYTES))
    block = WeightBlock(buffer, N_BYTES)
    for version in (1, 2, 3):
        block.publish(lambda slot, version=version: slot.view(np.uint64).fill(version))
    slot, header = block._slots[1], block._header[2]
    if damage == "still being written":
        header[0] += 1
    slot.view(np.uint64)[: N_BYTES // 16] = 1
    copy, pulled = WeightBlock.empty_copy(N_BYTES), []
    reader = threading.Thread(target=lambda: pulled.append(block.pull(copy)))
    reader.start()
    reader.join(0.2)
    assert not pulled
    slot.view(np.uint64).fill(3)
    if damage == "still being written":
        header[0] += 1
    reader.join(10)
    assert pulled == [3]
    assert (copy.view(np.uint64) == 3).all()


def _push(name: str) -> None:
    memory = SharedMemory(name=name)
    ring = Ring(memory.buf, RECORD, 8)
    for i in range(N_RECORDS):
        while ring.is_full:
            time.sleep(0)
        ring.push((np.full(20, i),))
    del ring


def test_a_ring_hands_over_each_record_once_and_in_order() -> None:
    memory = SharedMemory(create=True, size=Ring.size(RECORD, 8))
    try:
        ring = Ring(memory.buf, RECORD, 8)
        writer = multiprocessing.get_context("spawn").Process(target=_push, args=(memory.name,))
        writer.start()
        for i in range(N_RECORDS):
            while not len(ring):
                time.sleep(0)
            record = ring.peek()
            assert int(record["sequence"]) == i
            assert (record["payload"] == i).all()
            ring.pop()
        writer.join(30)
        assert len(ring) == 0
        del ring
    finally:
        memory.close()
        memory.unlink()


def test_a_damaged_record_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("sb3_asym.shared_memory.TORN_AFTER", 0.01)
    ring = Ring(bytearray(Ring.size(RECORD, 4)), RECORD, 4)
    ring.push((np.arange(20),))
    ring._records["payload"][0, 3] = 0
    with pytest.raises(RuntimeError, match="Transition 0 of an actor is damaged"):
        ring.peek()


def test_a_half_written_record_does_not_exist() -> None:
    buffer = bytearray(Ring.size(RECORD, 4))
    ring = Ring(buffer, RECORD, 4)
    ring.push((np.arange(20),))
    ring._records["payload"][1] = 7  # what a killed writer leaves
    replacement = Ring(buffer, RECORD, 4)
    assert len(replacement) == 1
    replacement.push((np.arange(20) + 1,))
    assert [int(ring.peek(i)["payload"][0]) for i in range(2)] == [0, 1]
