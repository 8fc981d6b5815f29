"""Actors on the machines of a Ray cluster. Needs the extra ``ray``.

Ray's messages are pickles, so whoever can send some to a cluster runs code on it: keep it on a trusted network, and turn on
its token authentication (``RAY_AUTH_MODE=token``).
"""

import os
import tempfile
import time
from collections import deque
from collections.abc import Callable
from pathlib import Path
from typing import Any

import cloudpickle
import numpy as np
import ray
import torch as th
from ray.exceptions import RayError, RayTaskError

from sb3_asym.actorq.actor import PARTS, Actor, record_type
from sb3_asym.actorq.engine import Crew, check_deaths, failure
from sb3_asym.shared_memory import WeightBlock

BATCH = 200
"""Greatest number of transitions in one message: a call for each would be a hundred times as slow."""


class RayLane:
    """
    Transitions of one actor that have arrived.

    :param poll: function that fetches what has arrived since
    """

    def __init__(self, poll: Callable[[], None]):
        self._records: deque[np.void] = deque()
        self._poll = poll
        self.n_received = 0

    def __len__(self) -> int:
        if len(self._records) < 2:
            self._poll()
        return len(self._records)

    def extend(self, records: np.ndarray) -> None:
        """
        Take a batch that has arrived.

        :param records: its records
        """
        for record in records:
            if int(record["sequence"]) != self.n_received:
                raise RuntimeError(f"Transition {self.n_received} of an actor was lost: {record['sequence']} came.")
            self.n_received += 1
            self._records.append(record)

    def peek(self, index: int = 0) -> np.void:
        """A transition that waits."""
        return self._records[index]

    def pop(self) -> None:
        """Take the oldest away."""
        self._records.popleft()


class RayActors:
    """
    Engine of Ray actors: weights go through Ray's object store, transitions come in batches, and each actor has one call
    under way.

    Ray is started on this machine, or that cluster is used to which ``ray.init`` has connected before, or ``RAY_ADDRESS``
    names.

    :param crew: the actors
    """

    def __init__(self, crew: Crew):
        self._crew = crew
        self._has_started_ray = not ray.is_initialized()
        if self._has_started_ray:
            quietly: Any = dict(log_to_driver=False, configure_logging=False)
            try:
                ray.init(num_cpus=max(len(crew.env_fns), 1), include_dashboard=False, **quietly)
            except ValueError:  # there is a cluster, whose size is not ours to set
                ray.init(**quietly)
        self._pickled = [cloudpickle.dumps((crew.form, env_fn)) for env_fn in crew.env_fns]
        n_actors = len(crew.env_fns)
        self.n_replaced = 0
        self.lanes = [RayLane(self._fetch) for _ in range(n_actors)]
        self._spent = np.zeros((n_actors, len(PARTS)), dtype=np.int64)
        self._spent_before = self._spent.copy()
        self._lives, self._idle_deaths, self._received = [0] * n_actors, [0] * n_actors, [0] * n_actors
        self._handles: list[Any] = [None] * n_actors
        self._calls: list[Any] = [None] * n_actors
        self._pids = [0] * n_actors
        self._dead: set[int] = set()
        self._weights: tuple[int, Any] = (0, None)

    @property
    def pids(self) -> list[int]:
        """Process ids of the actors, on the machines where they are."""
        return list(self._pids)

    def start(self) -> None:
        """Start the actors."""
        for actor in range(len(self._handles)):
            self._start(actor, self._crew.n_random)

    def _start(self, actor: int, n_random: int) -> None:
        life = self._lives[actor]
        form = ray.remote(num_cpus=1)(_RemoteActor)
        seed = self._crew.seed_of(actor, life)
        self._handles[actor] = form.remote(self._pickled[actor], seed, n_random, life, self.lanes[actor].n_received)
        self._calls[actor] = None
        self._call(actor)

    def _call(self, actor: int) -> None:
        """Ask an actor for as many transitions as there is room for."""
        n = min(self._crew.ring_size - len(self.lanes[actor]._records), BATCH, self._crew.form.pull_every)
        if self._calls[actor] is None and n > 0 and actor not in self._dead:
            version, weights = self._weights
            self._calls[actor] = self._handles[actor].collect.remote(n, version, weights)

    def _fetch(self) -> None:
        """Take the batches that have arrived, and ask for the next ones."""
        under_way = {call: actor for actor, call in enumerate(self._calls) if call is not None}
        arrived, _ = ray.wait(list(under_way), num_returns=len(under_way), timeout=0) if under_way else ([], [])
        for call in arrived:
            actor = under_way[call]
            self._calls[actor] = None
            try:
                records, spent, self._pids[actor] = ray.get(call)
            except RayTaskError as error:
                raise failure(actor, type(error.cause).__name__, str(error.cause)) from error
            except RayError:  # the actor, its machine or what it had made is gone
                ray.kill(self._handles[actor])
                self._dead.add(actor)
                continue
            self._spent[actor] = self._spent_before[actor] + spent
            self.lanes[actor].extend(np.frombuffer(records, dtype=self._record_type).copy())
        for actor in range(len(self._handles)):
            self._call(actor)

    @property
    def _record_type(self) -> np.dtype:
        return record_type(self._crew.form.observation_space, self._crew.form.action_space)

    def publish(self, write: Callable[[np.ndarray], None]) -> int:
        """Hand new weights to the actors."""
        block = WeightBlock.empty_copy(self._crew.form.layout.n_bytes)
        write(block)
        self._weights = (self._weights[0] + 1, ray.put(block))
        return self._weights[0]

    def check(self, n_random: int) -> None:
        """Replace actors that died."""
        self._fetch()
        for actor in sorted(self._dead):
            has_acted = self.lanes[actor].n_received > self._received[actor]
            self._received[actor] = self.lanes[actor].n_received
            self._idle_deaths[actor] = 1 if has_acted else self._idle_deaths[actor] + 1
            check_deaths(actor, self._idle_deaths[actor], "Ray says that its process died")
            self._lives[actor] += 1
            self.n_replaced += 1
            self._spent_before[actor] = self._spent[actor]
            self._dead.remove(actor)
            self._start(actor, n_random)

    def spent(self) -> np.ndarray:
        """Time of the actors, ns."""
        return self._spent.copy()

    def stop(self) -> None:
        """End all actors, and Ray where it was started here."""
        for handle in self._handles:
            if handle is not None:
                ray.kill(handle)
        self._handles, self._calls = [], []
        self._weights = (self._weights[0], None)
        if self._has_started_ray:
            ray.shutdown()
            self._has_started_ray = False


class _RemoteActor:
    """An actor in a process of Ray's. Its kernel is compiled on its machine."""

    def __init__(self, pickled: bytes, seed: int, n_random: int, life: int, sequence: int):
        th.set_num_threads(1)
        self._arguments = pickled, seed, n_random, life
        self._sequence = sequence
        self._actor: Actor | None = None

    def _made(self) -> Actor:
        """The actor, made by the first call: Ray reports an error of a call with its kind, one of a constructor without."""
        if self._actor is None:
            pickled, seed, n_random, life = self._arguments
            form, env_fn = cloudpickle.loads(pickled)
            with tempfile.TemporaryDirectory(prefix="actorq-") as folder:  # a loaded kernel needs its file no more
                self._actor = Actor(form, env_fn, seed, n_random, life, Path(folder))
            self._since = time.perf_counter_ns()
        return self._actor

    def collect(self, n_steps: int, version: int, weights: np.ndarray | None) -> tuple[bytes, np.ndarray, int]:
        """
        Act.

        :param n_steps: greatest number of env steps
        :param version: version of the weights
        :param weights: block of the newest weights, which Ray maps into this process, or None
        :return: records, time spent by part, and the id of this process
        """
        actor = self._made()
        actor.spend("wait", self._since)
        records = np.zeros(n_steps, dtype=record_type(actor.form.observation_space, actor.form.action_space))
        n = 0
        while n < n_steps:
            if actor.n_random == 0 and version > actor.version:
                assert weights is not None
                actor.load(_aligned(weights), version)
            if actor.n_random == 0 and actor.version == 0:
                break  # the random steps are over: wait for weights
            values = actor.step()
            start = time.perf_counter_ns()
            records[n] = (self._sequence, *values, 0)
            self._sequence += 1
            n += 1
            actor.spend("push", start)
        if n == 0:
            time.sleep(0.01)
        self._since = time.perf_counter_ns()
        return records[:n].tobytes(), actor.spent.copy(), os.getpid()


def _aligned(weights: np.ndarray) -> np.ndarray:
    """A copy that the vector instructions of a kernel may load from."""
    copy = WeightBlock.empty_copy(len(weights))
    np.copyto(copy, weights)
    return copy
