"""The outbox keeps every batch until it is confirmed, and says where it cannot."""

import sqlite3
import time

import pytest
from link_faults import LAYOUT, numbered

from sb3_asym.cloud_edge.courier import SEND_FOR, Sender
from sb3_asym.cloud_edge.frames import FrameError
from sb3_asym.cloud_edge.outbox import Outbox, OutboxError, OutboxFull
from sb3_asym.cloud_edge.transitions import Number, decode_batch


def fill(outbox, n_batches, n=20):
    for _ in range(n_batches):
        outbox.append(numbered(outbox.next_transition, n))


def test_batches_are_numbered_in_order_and_outlive_the_process(tmp_path):
    outbox = Outbox(tmp_path / "outbox.sqlite", "r", LAYOUT)
    fill(outbox, 5)
    outbox.delete_through(Number(outbox.boot, 2))
    outbox = Outbox(tmp_path / "outbox.sqlite", "r", LAYOUT)
    assert (outbox.next_transition, outbox.n_batches, outbox.last.seq) == (100, 3, 5)
    entries = outbox.after(None)
    assert [entry.number.seq for entry in entries] == [3, 4, 5]
    assert [decode_batch(entry.frame, LAYOUT).transitions.first for entry in entries] == [40, 60, 80]
    assert outbox.n_bytes == sum(len(entry.frame) for entry in entries)
    assert [entry.number.seq for entry in outbox.after(entries[0].number, max_batches=1)] == [4]
    outbox.delete_through(outbox.last)
    assert (outbox.n_batches, outbox.n_bytes) == (0, 0)
    assert outbox.append(numbered(100, 20)).seq == 6


def test_full_outbox_keeps_what_it_has_and_says_so(tmp_path):
    outbox = Outbox(tmp_path / "outbox.sqlite", "r", LAYOUT, max_bytes=20_000)
    while not outbox.full:
        fill(outbox, 1)
    fill(outbox, 1)  # the episode that runs
    with pytest.raises(OutboxFull, match="Check the link"):
        fill(outbox, 20)
    kept = outbox.n_batches
    assert [entry.number.seq for entry in outbox.after(None)] == [*range(1, kept + 1)]
    outbox.delete_through(Number(outbox.boot, kept - 1))
    assert not outbox.full
    assert outbox.append(numbered(outbox.next_transition, 20)).seq == kept + 1


def test_full_disk_is_a_full_outbox(tmp_path):
    outbox = Outbox(tmp_path / "outbox.sqlite", "r", LAYOUT)
    pages = outbox._database.execute("PRAGMA page_count").fetchone()[0]
    outbox._database.execute(f"PRAGMA max_page_count={pages + 3}")
    with pytest.raises(OutboxFull, match="disk"):
        fill(outbox, 20)
    kept = outbox.n_batches
    assert len(outbox.after(None)) == kept > 0
    outbox._database.execute(f"PRAGMA max_page_count={pages + 100}")
    assert outbox.append(numbered(kept * 20, 20)).seq == kept + 1


def test_transitions_that_do_not_follow_are_not_stored(tmp_path):
    outbox = Outbox(tmp_path / "outbox.sqlite", "r", LAYOUT)
    fill(outbox, 1)
    for first in (0, 19, 21):
        with pytest.raises(ValueError, match="Transition 20 comes next"):
            outbox.append(numbered(first, 20))
    bad = numbered(20, 20)
    bad.rewards[3] = float("nan")
    with pytest.raises(FrameError):
        outbox.append(bad)
    assert outbox.append(numbered(20, 20)).seq == 2


def test_two_writers_are_found(tmp_path):
    first, second = (Outbox(tmp_path / "outbox.sqlite", "r", LAYOUT) for _ in range(2))
    fill(first, 1)
    with pytest.raises(OutboxError, match="Another process"):
        fill(second, 1)
    assert first.append(numbered(20, 20)).seq == 2


def test_an_old_copy_is_found(tmp_path):
    outbox = Outbox(tmp_path / "outbox.sqlite", "r", LAYOUT)
    fill(outbox, 2)
    for position in (Number(outbox.boot, 3), Number(outbox.boot + 1, 1)):
        with pytest.raises(OutboxError, match="old copy"):
            outbox.after(position)
        with pytest.raises(OutboxError, match="old copy"):
            outbox.delete_through(position)
    assert len(outbox.after(Number(outbox.boot - 1, 9))) == 2  # a former outbox of this robot


def test_what_is_no_outbox_is_refused(tmp_path):
    with pytest.raises(OutboxError, match="no outbox"):
        Outbox(tmp_path / "none.sqlite", "r", None)
    (tmp_path / "text").write_text("this is no database, and long enough to be sure of it" * 100)
    with pytest.raises(OutboxError, match="cannot be opened"):
        Outbox(tmp_path / "text", "r", LAYOUT)
    with pytest.raises(ValueError, match="robot's name"):
        Outbox(tmp_path / "outbox.sqlite", "../r", LAYOUT)
    outbox = Outbox(tmp_path / "outbox.sqlite", "r", LAYOUT)
    fill(outbox, 1)
    with pytest.raises(FrameError, match="other spaces"):
        Outbox(tmp_path / "outbox.sqlite", "r", LAYOUT._replace(low=(-2.0,)))
    drain = Outbox(tmp_path / "outbox.sqlite", "r", None)
    assert len(drain.after(None)) == 1
    with pytest.raises(ValueError, match="to send from it only"):
        drain.append(numbered(20, 20))


def test_each_commit_waits_for_the_disk(tmp_path):
    outbox = Outbox(tmp_path / "outbox.sqlite", "r", LAYOUT)
    assert outbox._database.execute("PRAGMA synchronous").fetchone() == (2,)
    assert sqlite3.connect(tmp_path / "outbox.sqlite").execute("PRAGMA journal_mode").fetchone() == ("wal",)


class SlowLink:
    """Takes longer for each call than a courier has for sending."""

    def __init__(self):
        self.batches = []

    def position(self):
        return self.batches[-1].number if self.batches else None

    def send(self, batches):
        time.sleep(2 * SEND_FOR)
        self.batches += batches
        return len(batches)


def test_a_backlog_is_sent_in_parts_and_what_the_link_loses_is_sent_again(tmp_path):
    """Between the parts, a courier empties the ring and fetches policies."""
    outbox = Outbox(tmp_path / "outbox.sqlite", "r", LAYOUT)
    fill(outbox, 20)
    link = SlowLink()
    sender = Sender(outbox, link)
    assert [sender.send() for _ in range(4)] == [8, 8, 4, 0]
    link.batches = link.batches[:5]
    assert sender.send() == 0  # nothing is new
    sender.doubt()
    while sender.send():
        pass
    assert [entry.number.seq for entry in link.batches] == [*range(1, 21)]
