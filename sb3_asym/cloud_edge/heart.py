"""What the learner tells of itself while it learns, and what can be read of it."""

import threading
import time
from collections.abc import Callable
from contextlib import suppress

import numpy as np

from sb3_asym.cloud_edge.link import learner_link
from sb3_asym.cloud_edge.protocol import LearnerLink, LinkError
from sb3_asym.cloud_edge.statuses import (
    LearnerStatus,
    RobotStatus,
    decode_learner_status,
    decode_robot_status,
    encode_status,
)

BEAT_EVERY = 0.25
"""Seconds between two signs of life."""
RATE_OVER = 5.0


class Rates:
    """How many env steps come and are trained for in a second, over the last seconds."""

    def __init__(self) -> None:
        self._started, self._counts = time.monotonic(), np.zeros(2)
        self._last = (0.0, 0.0)

    def count(self, received: int, trained: int) -> None:
        """
        Count env steps.

        :param received: env steps that came
        :param trained: env steps that were trained for
        """
        self._counts += received, trained
        passed = time.monotonic() - self._started
        if passed > RATE_OVER:
            self._last = tuple((self._counts / passed).tolist())
            self._started, self._counts = time.monotonic(), np.zeros(2)

    def per_second(self) -> tuple[float, float]:
        """
        The rates.

        :return: env steps that come, and that are trained for, in a second
        """
        if any(self._last):
            return self._last
        return tuple((self._counts / max(time.monotonic() - self._started, 1e-3)).tolist())


class Heart:
    """
    Tells that the learner is alive, from a thread, so that long updates and callbacks do not look like its death.

    :param url: address of the link
    :param status: function of the beat that returns the learner's status
    """

    def __init__(self, url: str, status: Callable[[int], LearnerStatus]):
        self._status, self._link = status, learner_link(url)
        self._stopping = threading.Event()
        self._thread = threading.Thread(target=self._run, daemon=True)

    def start(self) -> None:
        """Begin to beat."""
        self._thread.start()

    def stop(self) -> None:
        """Stop, as the learner does."""
        self._stopping.set()
        if self._thread.is_alive():
            self._thread.join()
        self._link.close()

    def _run(self) -> None:
        beat = time.time_ns()
        while not self._stopping.wait(BEAT_EVERY):
            beat += 1
            with suppress(LinkError):
                self._link.beat(encode_status(self._status(beat)))


def read_statuses(link: LearnerLink) -> tuple[LearnerStatus | None, dict[str, RobotStatus]]:
    """
    What learner and robots last told, for a program that only watches.

    :param link: the learner's side of the link
    :return: status of the learner, or None, and of the robots by name
    :raises FrameError: if a status is damaged
    :raises LinkError: if the link cannot be reached
    """
    told = link.learner()
    robots = {name: decode_robot_status(frame) for name, frame in link.statuses().items()}
    return None if told is None else decode_learner_status(told), robots
