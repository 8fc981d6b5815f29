"""The courier process: from the ring into the outbox, from there over the link; and policies the other way."""

import time
from collections import deque
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from sb3_asym.acting.networks import N_RANGE_OBSERVATIONS, Packer
from sb3_asym.cloud_edge.control import EdgePlan
from sb3_asym.cloud_edge.edge_memory import Doing, quantile
from sb3_asym.cloud_edge.files import read_file, replace_file
from sb3_asym.cloud_edge.form import unknown_observations
from sb3_asym.cloud_edge.frames import Gate
from sb3_asym.cloud_edge.layout import Layout
from sb3_asym.cloud_edge.link import LinkError, RobotLink, robot_link
from sb3_asym.cloud_edge.outbox import Outbox, OutboxFull
from sb3_asym.cloud_edge.policy_frames import Policy, decode_policy
from sb3_asym.cloud_edge.statuses import RobotStatus, decode_learner_status, encode_status
from sb3_asym.cloud_edge.transitions import Transitions

BATCH_SIZE = 256
"""Greatest number of transitions in a batch."""
BATCH_BYTES = 4 << 20
"""About how many bytes they may have, half of what a frame may."""
SEND_FOR = 0.05
"""Seconds after which a backlog waits, so that the ring is emptied and policies come meanwhile."""
SEND_AT_LAST = 5.0
"""Seconds for which the end of the edge goes on sending; what is left stays in the outbox."""
FLUSH_AFTER = 0.2
"""Seconds after which a batch is stored that is not full."""
LOOK_EVERY = 0.05
"""Seconds between two looks at the link for policies and signs of life."""
REPORT_EVERY = 1.0
RETRY_AFTER = 0.5
"""Seconds between two tries while the link is down."""
ROOM_AFTER = 5.0
"""Seconds for which the end of the edge waits for room in the outbox."""
POLL = 0.005
POLICY_FILE = "policy.frame"


@dataclass(frozen=True)
class Address:
    """
    Where a robot's transitions go.

    :param url: address of the link
    :param robot: name of the robot
    :param outbox: path of the outbox
    :param outbox_bytes: greatest size of the batches in it
    """

    url: str
    robot: str
    outbox: Path
    outbox_bytes: int

    @property
    def policy_file(self) -> Path:
        """Where the policy that acts is kept, for a start while the cloud is away."""
        return self.outbox.with_name(POLICY_FILE)

    def open_outbox(self, spaces: Layout | None) -> Outbox:
        """
        The outbox.

        :param spaces: types and shapes of observations and actions; None to send from it only
        :return: the outbox
        """
        return Outbox(self.outbox, self.robot, spaces, self.outbox_bytes)


class Sender:
    """
    Sends what is in an outbox, in order, and deletes what the learner has in its checkpoint.

    :param outbox: the outbox
    :param link: the link
    """

    def __init__(self, outbox: Outbox, link: RobotLink):
        self.outbox, self.link = outbox, link
        self._is_known = False

    def send(self, seconds: float = SEND_FOR) -> int:
        """
        Send what waits.

        :param seconds: time after which the rest waits for the next call, s
        :return: number of batches that the link has taken
        :raises LinkError: if it cannot be reached
        """
        until = time.monotonic() + seconds
        if not self._is_known:
            self.sent = self.link.position()
            self._is_known = True
        n_sent = 0
        while batches := self.outbox.after(self.sent, max_batches=8):
            n_taken = self.link.send(batches)
            if n_taken:
                self.sent = batches[n_taken - 1].number
                n_sent += n_taken
            if n_taken < len(batches) or time.monotonic() > until:
                break
        return n_sent

    def doubt(self) -> None:
        """After an error of the link, which may come back without what it had: send that again."""
        self._is_known = False

    def forget_confirmed(self) -> None:
        """Delete what is in a checkpoint of the learner."""
        confirmed = self.link.confirmed()
        if confirmed is not None:
            self.outbox.delete_through(confirmed)


class Courier:
    """
    Moves transitions and policies.

    :param plan: what the processes of the edge know
    :param address: where transitions go
    """

    def __init__(self, plan: EdgePlan, address: Address):
        self.plan, self.address = plan, address
        self._ring_file, self._memory = plan.open_ring(), plan.open_memory()
        self.ring, self.state = self._ring_file.ring, self._memory.state
        self.outbox = address.open_outbox(plan.form.spaces)
        self.sender = Sender(self.outbox, robot_link(address.url, address.robot))
        self._batch_size = min(BATCH_SIZE, max(BATCH_BYTES // self.ring.record_bytes, 1))
        self.gate = Gate()
        self._packer = Packer(plan.form.precision, n_forward=N_RANGE_OBSERVATIONS)  # policies are few
        self._observations: deque[np.ndarray] = deque(maxlen=N_RANGE_OBSERVATIONS)
        self._flushed = self._looked = self._reported = 0.0
        self._retry_at = 0.0
        self._beat = -1
        self._known_version = -1
        self._refused = b""
        self._last_count = time.monotonic(), float(self.state["steps"])
        self._message = ""
        self._has_no_room = False
        self._keeps_policies = True

    def run(self, is_alone: Callable[[], bool] = lambda: False) -> None:
        """
        Move until control has ended and all of its transitions are in the outbox, or it has had no room for a while.

        :param is_alone: function that tells whether the process that started this one has died
        """
        while True:
            is_last = bool(self.state["control_gone"]) or is_alone()
            moved = self.store(is_last)
            self.visit_link()
            gives_up = self._has_no_room and time.monotonic() > self._flushed + ROOM_AFTER
            if is_last and not moved and (len(self.ring) == 0 or gives_up):
                break
            if not moved:
                time.sleep(POLL)
        self.visit_link(last=True)

    def store(self, is_last: bool = False) -> bool:
        """
        Move transitions from the ring to the outbox.

        :param is_last: whether no more will come
        :return: True if there were any
        """
        while self.ring.tail < self.outbox.next_transition and len(self.ring):  # stored just before a courier was killed
            self.ring.pop()
        n = len(self.ring)
        now = time.monotonic()
        if n == 0 or (n < self._batch_size and now < self._flushed + FLUSH_AFTER and not is_last):
            return False
        records = [self.ring.peek(index) for index in range(min(n, self._batch_size + 1))]
        batch = _whole(records, is_last=is_last and n == len(records))[: self._batch_size]
        if not batch:
            return False
        try:
            self.outbox.append(_transitions(batch, self.ring.tail))
        except OutboxFull as error:
            self._say(str(error))
            self._has_no_room = True
            self.state["outbox_full"] = self._is_full
            return False
        self._has_no_room, self._flushed = False, now
        agent = self.plan.form.weights.agent
        for record in batch:
            self.ring.pop()
            if self.plan.form.precision == "int8":
                self._observations.append(agent.flatten(_parts(record["observation"], agent.is_dict)))
        self.state["outbox_full"] = self._is_full
        return True

    @property
    def _is_full(self) -> bool:
        """Whether no new episode should start."""
        return self.outbox.full or self._has_no_room

    def visit_link(self, last: bool = False) -> None:
        """
        Send, and fetch policies and signs of life, as far as they are due; an error of the link is told and tried again.

        :param last: whether the edge ends, so that all is due
        """
        now = time.monotonic()
        if now < self._retry_at or not (last or now >= self._looked + LOOK_EVERY):
            return
        self._looked = now
        try:
            self.sender.send(SEND_AT_LAST if last else SEND_FOR)
            self._fetch()
            if last or now >= self._reported + REPORT_EVERY:
                self._reported = now
                try:
                    self.sender.forget_confirmed()
                except OutboxFull as error:  # deleting takes room too
                    self._say(str(error))
                self.state["outbox_full"] = self._is_full
                self.sender.link.report(encode_status(self.status()))
        except LinkError as error:
            self.sender.doubt()
            self._retry_at = now + RETRY_AFTER
            self._say(str(error))
        else:
            self._message = self._message if self._is_full else ""

    def _fetch(self) -> None:
        link = self.sender.link
        told = link.learner()
        status = None if told is None else self.gate(decode_learner_status, told)
        if status is not None and status.beat != self._beat:
            if self._beat >= 0:  # the first that is seen may be old
                self.state["news"] = time.monotonic_ns()
            self._beat = status.beat
        frame = link.policy(self._known_version)
        if frame is None or frame == self._refused:
            return
        policy = self.gate(self._accept, frame)
        if policy is None:
            self._refused = frame
            self.state["refused"] += 1
            self._say(f"A policy was refused: {self.gate.last}")
            return
        self.take(policy)
        try:
            replace_file(self.address.policy_file, frame)
            self._keeps_policies = True
        except OSError as error:
            if self._keeps_policies:
                print(f"{self.address.robot}: policies are not kept for a start without the cloud: {error}", flush=True)
            self._keeps_policies = False

    def _accept(self, frame: bytes) -> Policy:
        policy = decode_policy(frame, self.plan.form.spaces)
        self._known_version = policy.version
        self.plan.form.check(policy)
        return policy

    def take(self, policy: Policy) -> None:
        """
        Hand a policy to control.

        :param policy: the policy, of the form that the edge runs
        """
        form = self.plan.form
        few = len(self._observations) < 100
        observations = unknown_observations(form.spaces) if few else np.stack(self._observations)
        packed = self._packer.pack(policy.agent, observations)
        arrived, transit = time.monotonic_ns(), max(round(1e9 * (time.time() - policy.time)), 0)
        self._memory.policies.publish(lambda block: form.write(block, policy, packed, arrived, transit))
        self._known_version = policy.version
        self.state["arrivals"] += 1

    def status(self) -> RobotStatus:
        """
        What the robot tells of itself.

        :return: the status
        """
        state = self.state
        now = time.monotonic()
        made, steps = self._last_count
        rate = (float(state["steps"]) - steps) / max(now - made, 1e-3)
        self._last_count = now, float(state["steps"])
        values = {
            "rate": rate,
            "unconfirmed_batches": float(self.outbox.n_batches),
            "weights_age": (time.monotonic_ns() - int(state["weights_made"])) / 1e9 if state["weights_made"] else 0.0,
            "steps": float(state["steps"]),
            "episodes": float(state["episodes"]),
            "last_return": float(state["last_return"]),
            "deadlines": float(state["deadlines"]),
            "missed": float(state["missed"]),
            "most_missed_in_a_row": float(state["most_missed_in_a_row"]),
            "lateness_p99": quantile(state["lateness"], 0.99),
            "policy_age_p95": quantile(state["policy_age"], 0.95),
            "swaps": float(state["swaps"]),
            "torn": float(state["torn"]),
            "refused": float(state["refused"]),
            "stale": float(state["stale"]),
            "ring_fill": len(self.ring) / self.ring.capacity,
            "hz": self.plan.hz,
        }
        return RobotStatus(
            robot=self.address.robot,
            time=time.time(),
            policy_version=int(state["version"]),
            policy_age=(time.monotonic_ns() - int(state["news"])) / 1e9 if state["news"] else 0.0,
            next_transition=self.outbox.next_transition,
            sent=getattr(self.sender, "sent", None),
            outbox_bytes=self.outbox.n_bytes,
            outbox_full=self._is_full,
            values=values,
            message=self._message or Doing(int(state["doing"])).name.lower().replace("_", " "),
        )

    def _say(self, message: str) -> None:
        """Print a message once."""
        if message != self._message:
            print(f"{self.address.robot}: {message}", flush=True)
        self._message = message


def _whole(records: Sequence[np.void], is_last: bool) -> list[np.void]:
    """
    The records of which all is known: whether the episode went on is only known of those with another behind.

    An episode that a killed control process left is truncated at its last transition.
    """
    batch = []
    for record, following in zip(records, [*records[1:], None], strict=True):
        if not (record["terminated"] or record["truncated"]):
            if following is None and not is_last:
                break
            if following is None or following["life"] != record["life"]:
                record["truncated"] = True
                record["ended"] = record["option"] >= 0
        batch.append(record)
    return batch


def _transitions(batch: Sequence[np.void], first: int) -> Transitions:
    rows = np.array(batch)
    names = {"actions": "action", "rewards": "reward", "options": "option", "policy_versions": "version"}
    values = {name: rows[field] for name, field in names.items()}
    flags = {name: rows[name] for name in ("terminated", "truncated", "started", "ended")}
    breaks = flags["terminated"] | flags["truncated"]
    breaks[-1] = True
    parts = rows.dtype["observation"].names or ()
    return Transitions(
        first=first,
        observations={part: rows["observation"][part] for part in parts},
        last_observations={part: rows["next_observation"][part][breaks] for part in parts},
        **values,
        **flags,
    )


def _parts(observation: np.void, is_dict: bool) -> np.ndarray | dict[str, np.ndarray]:
    parts = {name: observation[name] for name in observation.dtype.names or ()}
    return parts if is_dict else parts["observation"]


def first_policy(link: RobotLink, spaces: Layout, kept: Path, gate: Gate) -> Policy | None:
    """
    The policy to start with: the newest, or the last one that acted, where the cloud is away.

    :param link: the link
    :param spaces: types and shapes of the robot's observations and actions
    :param kept: where the last policy is kept
    :param gate: counts frames that are refused
    :return: the policy, or None where there is none yet
    :raises FrameError: if the learner's policy does not fit the robot
    """
    try:
        frame = link.policy(-1)
    except LinkError:
        frame = None
    if frame is not None:
        policy = gate(decode_policy, frame, spaces)
        if policy is not None:
            return policy
        assert gate.last is not None
        if gate.last.reason == "spaces":
            raise gate.last
    frame = read_file(kept)
    return None if frame is None else gate(decode_policy, frame, spaces)
