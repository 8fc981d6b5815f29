"""The reader gives each batch once and in order, whatever the link does with them."""

import numpy as np
import pytest
from link_faults import LAYOUT, numbered

from sb3_asym.cloud_edge.link import Entry
from sb3_asym.cloud_edge.reader import Cursor, GapError, Reader
from sb3_asym.cloud_edge.transitions import Number, encode_batch

BOOT = 1000


class Entries:
    """A learner's side that hands out what it is given."""

    def __init__(self):
        self.waiting, self.confirmed = [], {}

    def receive(self, cursors, max_batches):
        entries, self.waiting = self.waiting, []
        return entries

    def confirm(self, cursors):
        self.confirmed = dict(cursors)


def entry(seq, first=None, n=3, boot=BOOT, robot="r"):
    number = Number(boot, seq)
    return Entry(robot, number, encode_batch(robot, number, numbered((seq - 1) * n if first is None else first, n), LAYOUT))


def read(reader, *entries):
    reader.link.waiting = list(entries)
    return [(batch.robot, batch.number.seq) for batch in reader.read()]


@pytest.mark.parametrize("seed", range(20))
def test_any_order_of_resending_gives_each_batch_once(seed):
    rng = np.random.default_rng(seed)
    reader, got, kept = Reader(Entries(), LAYOUT), [], {}
    sent = dict.fromkeys(("a", "b"), 1)
    while min(sent.values()) < 40:
        robot = ("a", "b")[rng.integers(2)]
        start = int(rng.integers(1, sent[robot] + 1))  # from anywhere that was sent before
        end = start + int(rng.integers(0, 12))
        sent[robot] = max(sent[robot], end)
        got += read(reader, *(entry(seq, robot=robot) for seq in range(start, end)))
        if rng.random() < 0.2:  # a checkpoint
            kept = dict(reader.cursors), list(got)
        elif kept and rng.random() < 0.1:  # a restart, after which the link hands out what follows the checkpoint
            cursors, got = kept[0], list(kept[1])
            reader = Reader(reader.link, LAYOUT, cursors)
            sent = {robot: cursors[robot].number.seq + 1 if robot in cursors else 1 for robot in sent}
    for robot, end in sent.items():
        assert [seq for name, seq in got if name == robot] == [*range(1, end)]


def test_a_gap_stops_after_what_came_before_it():
    reader = Reader(Entries(), LAYOUT)
    assert read(reader, entry(1), entry(2), entry(4)) == [("r", 1), ("r", 2)]
    for _ in range(2):
        with pytest.raises(GapError, match=r"Batches 3 to 3 of r .* are missing"):
            read(reader, entry(3))
    assert reader.cursors == {"r": Cursor(Number(BOOT, 2), 6)}


def test_transitions_that_are_missing_within_the_numbers_are_a_gap():
    reader = Reader(Entries(), LAYOUT)
    assert read(reader, entry(1)) == [("r", 1)]
    with pytest.raises(GapError, match="starts with transition 4, but 3 comes next"):
        read(reader, entry(2, first=4))


def test_a_robot_without_a_cursor_may_join_in_the_middle_only_if_asked():
    with pytest.raises(GapError, match="another learner has read them"):
        read(Reader(Entries(), LAYOUT), entry(7))
    reader = Reader(Entries(), LAYOUT, join=True)
    assert read(reader, entry(7)) == [("r", 7)]
    with pytest.raises(GapError):
        read(reader, entry(9))


def test_a_new_outbox_starts_anew_and_a_former_one_is_over():
    reader = Reader(Entries(), LAYOUT)
    assert read(reader, entry(1), entry(2), entry(1, boot=BOOT + 5), entry(3)) == [("r", 1), ("r", 2), ("r", 1)]
    assert reader.n_duplicates == 1
    with pytest.raises(GapError, match="Batches 1 to 1"):
        read(reader, entry(2, boot=BOOT + 9))


def test_a_refused_batch_is_counted_and_passed_over():
    reader = Reader(Entries(), LAYOUT)
    bad = entry(2)._replace(frame=entry(2).frame[:-1] + b"?")
    wrong = entry(4)._replace(frame=entry(5).frame)
    assert read(reader, entry(1), bad, entry(3), wrong, entry(5)) == [("r", 1), ("r", 3), ("r", 5)]
    assert reader.refused == {"checksum": 1, "number": 1}
    assert reader.last_refusal["r"].reason == "number"


def test_confirms_what_is_in_the_checkpoint():
    reader = Reader(Entries(), LAYOUT)
    read(reader, entry(1), entry(2))
    kept = dict(reader.cursors)
    read(reader, entry(3))
    reader.confirm(kept)
    assert reader.link.confirmed == {"r": Number(BOOT, 2)}
    reader.confirm()
    assert reader.link.confirmed == {"r": Number(BOOT, 3)}
