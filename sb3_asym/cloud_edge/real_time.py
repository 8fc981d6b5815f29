"""Absolute deadlines, and what the operating system has for them."""

import ctypes
import gc
import os
import time
from contextlib import suppress

import numpy as np

from sb3_asym.cloud_edge.edge_memory import bin_of

MCL_CURRENT, MCL_ONFAULT = 1, 4  # of Linux's sys/mman.h; what is mapped later is left out, as it could then be refused
TOLERANCE = 0.1
"""Share of a period by which a command may be late before its deadline counts as missed."""


def become_real_time(priority: int) -> bool:
    """
    Put this thread before all normal ones (SCHED_FIFO), keep its memory, and take garbage collection out of the way.

    :param priority: real-time priority, 1 to 99; 0 to stay as it is
    :return: True if the thread has it; a line is printed where the system does not allow it
    """
    gc.collect()
    gc.freeze()
    gc.disable()
    if priority == 0:
        return False
    try:
        os.sched_setscheduler(0, os.SCHED_FIFO, os.sched_param(priority))
    except (AttributeError, OSError):
        print(
            "No real-time priority (SCHED_FIFO) here: deadlines are missed while the machine is busy. On Linux, allow it with "
            "CAP_SYS_NICE or LimitRTPRIO=.",
            flush=True,
        )
        return False
    _lock_memory()
    return True


def _lock_memory() -> None:
    """Keep pages once they are in memory, where the system allows it: to fetch one again can take longer than a deadline."""
    with suppress(AttributeError, OSError):
        ctypes.CDLL(None).mlockall(MCL_CURRENT | MCL_ONFAULT)


class Deadlines:
    """
    Deadlines at a fixed rate, which do not drift: each is a period after the last, whenever that was met.

    :param hz: deadlines per second; 0 for none, so that every step begins at once
    :param state: numbers to count in, see :data:`sb3_asym.cloud_edge.edge_memory.STATE`
    """

    def __init__(self, hz: float, state: np.void):
        self._period = round(1e9 / hz) if hz > 0 else 0
        self._state = state

    def start(self) -> None:
        """Set the first deadline, a period from now."""
        self._deadline = time.monotonic_ns() + self._period

    def wait(self) -> None:
        """Wait for the deadline, count how late it was met, and set the next; deadlines that have passed are missed."""
        if self._period == 0:
            return
        while (left := self._deadline - time.monotonic_ns()) > 0:
            time.sleep(left / 1e9)
        late, state = -left, self._state
        n_passed = late // self._period
        is_missed = late > TOLERANCE * self._period
        state["deadlines"] += 1 + n_passed
        state["lateness"][bin_of(late)] += 1
        state["worst_lateness"] = max(state["worst_lateness"], late)
        if is_missed:
            state["missed"] += 1 + n_passed
            state["missed_in_a_row"] += 1 + n_passed
            state["most_missed_in_a_row"] = max(state["most_missed_in_a_row"], state["missed_in_a_row"])
        else:
            state["missed_in_a_row"] = 0
        self._deadline += (1 + n_passed) * self._period
