"""A link with the bandwidth, the latency and the outages of a real network, for benchmarks on one machine."""

import time
from collections.abc import Callable, Iterable, Sequence
from functools import partial
from typing import TypeVar

from sb3_asym.cloud_edge.protocol import Entry, LinkError, RobotLink
from sb3_asym.cloud_edge.transitions import Number

Result = TypeVar("Result")


class EmulatedLink:
    """
    The robot's side of another link, slowed down as a network would: each call waits for the time its bytes take.

    A call goes up and comes back, which takes twice the latency, and the time of its bytes each way; batches wait for each
    other's answers.

    :param link: the link that is slowed down
    :param latency: time from one side to the other, s
    :param up: bandwidth from robot to cloud, bytes/s
    :param down: bandwidth from cloud to robot, bytes/s
    :param outages: start and end of the times in which nothing passes, s since this link was made
    :param clock: time, s
    :param sleep: waits for a number of seconds
    :raises ValueError: if latency or bandwidth is negative
    """

    def __init__(
        self,
        link: RobotLink,
        latency: float = 0.0,
        up: float = float("inf"),
        down: float = float("inf"),
        outages: Sequence[tuple[float, float]] = (),
        clock: Callable[[], float] = time.monotonic,
        sleep: Callable[[float], None] = time.sleep,
    ):
        if latency < 0 or up <= 0 or down <= 0:
            raise ValueError(f"Latency {latency} s must be 0 or more, bandwidths {up} and {down} bytes/s must be above 0.")
        self.link, self.latency, self.up, self.down, self.outages = link, latency, up, down, outages
        self._clock, self._sleep = clock, sleep
        self._start = clock()

    def position(self) -> Number | None:
        """The last batch that the link has of this robot, or None."""
        return self._pass(self.link.position)

    def send(self, batches: Iterable[Entry]) -> int:
        """Send batches one after another, at the emulated speed."""
        return sum(self._pass(partial(self.link.send, [entry]), len(entry.frame)) for entry in batches)

    def confirmed(self) -> Number | None:
        """The last batch that is in a checkpoint of the learner, or None."""
        return self._pass(self.link.confirmed)

    def policy(self, newer_than: int) -> bytes | None:
        """The newest policy, or None where there is no newer one."""
        return self._pass(partial(self.link.policy, newer_than))

    def learner(self) -> bytes | None:
        """What the learner last told of itself, or None."""
        return self._pass(self.link.learner)

    def report(self, status: bytes) -> None:
        """Tell the status of this robot."""
        self._pass(partial(self.link.report, status), len(status))

    def close(self) -> None:
        """Close the link below."""
        self.link.close()

    def _pass(self, call: Callable[[], Result], n_up: int = 0) -> Result:
        """Call the link below, with the time that its way and its answer's way take."""
        self._travel(n_up / self.up)
        result = call()
        self._travel((len(result) if isinstance(result, bytes) else 0) / self.down)
        return result

    def _travel(self, seconds: float) -> None:
        self._refuse_in_outage()
        if self.latency + seconds > 0:
            self._sleep(self.latency + seconds)
            self._refuse_in_outage()

    def _refuse_in_outage(self) -> None:
        now = self._clock() - self._start
        if any(start <= now < end for start, end in self.outages):
            raise LinkError("The emulated link is down.")
