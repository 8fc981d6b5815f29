"""Actors as processes of this machine, which share memory with the learner."""

import multiprocessing
import os
import shutil
import signal
import sys
import tempfile
import threading
import time
from collections.abc import Callable
from contextlib import suppress
from multiprocessing.connection import Connection
from multiprocessing.shared_memory import SharedMemory
from pathlib import Path

import cloudpickle
import numpy as np
import torch as th

from sb3_asym.acting.kernels import compile_kernel
from sb3_asym.actorq.actor import PARTS, Actor, record_type
from sb3_asym.actorq.engine import Crew, check_deaths, failure
from sb3_asym.shared_memory import CACHE_LINE, Ring, WeightBlock, aligned

POLL, LONGEST_POLL = 0.0005, 0.005
"""Seconds between two looks at shared memory, at first and after a while."""
STOP_TIMEOUT = 5.0


class _Shared:
    """The parts of the shared memory: a word that ends the actors, the weights, and times and ring of each actor."""

    def __init__(self, memory: SharedMemory, crew: Crew):
        buffer = memory.buf
        assert buffer is not None
        record = record_type(crew.form.observation_space, crew.form.action_space)
        n_bytes, n_actors = crew.form.layout.n_bytes, len(crew.env_fns)
        self.stop = np.frombuffer(buffer, dtype=np.uint64, count=1)
        offset = CACHE_LINE
        self.spent = np.frombuffer(buffer, dtype=np.int64, count=n_actors * len(PARTS), offset=offset).reshape(n_actors, -1)
        offset += aligned(self.spent.nbytes)
        self.weights = WeightBlock(buffer[offset:], n_bytes)
        offset += WeightBlock.size(n_bytes)
        self.rings = []
        for _ in crew.env_fns:
            self.rings.append(Ring(buffer[offset:], record, crew.ring_size))
            offset += Ring.size(record, crew.ring_size)

    @staticmethod
    def size(crew: Crew) -> int:
        record = record_type(crew.form.observation_space, crew.form.action_space)
        n_actors = len(crew.env_fns)
        rings = n_actors * Ring.size(record, crew.ring_size)
        return CACHE_LINE + aligned(8 * n_actors * len(PARTS)) + WeightBlock.size(crew.form.layout.n_bytes) + rings


class Processes:
    """
    Engine of spawned processes: one block of weights under a sequence lock, and a ring of transitions for each actor.

    :param crew: the actors
    """

    def __init__(self, crew: Crew):
        self._crew = crew
        self._context = multiprocessing.get_context("spawn")
        self._folder = tempfile.TemporaryDirectory(prefix="actorq-")
        is_c = crew.form.kernel == "c"
        self._library = compile_kernel(crew.form.source, Path(self._folder.name)) if is_c else None
        self._pickled = [cloudpickle.dumps((crew.form, env_fn)) for env_fn in crew.env_fns]
        self.n_replaced = 0
        n_actors = len(crew.env_fns)
        self._lives, self._idle_deaths, self._heads = [0] * n_actors, [0] * n_actors, [0] * n_actors
        self._memory = SharedMemory(create=True, size=_Shared.size(crew))
        self._shared: _Shared | None = _Shared(self._memory, crew)
        self._spent = self._shared.spent.copy()

    @property
    def lanes(self) -> list[Ring]:
        """Transitions of each actor."""
        return [] if self._shared is None else self._shared.rings

    @property
    def pids(self) -> list[int]:
        """Process ids of the actors."""
        return [] if self._shared is None else [int(process.pid or 0) for process, _ in self._actors]

    def start(self) -> None:
        """Start the actors."""
        self._actors = [self._spawn(actor, self._crew.n_random) for actor in range(len(self._pickled))]

    def _spawn(self, actor: int, n_random: int) -> tuple[multiprocessing.process.BaseProcess, Connection]:
        errors, send = self._context.Pipe(duplex=False)
        life = self._lives[actor]
        seed = self._crew.seed_of(actor, life)
        geometry = len(self._pickled), self._crew.ring_size
        name, pickled = self._memory.name, self._pickled[actor]
        arguments = (name, geometry, pickled, actor, life, seed, n_random, self._library, send)
        process = self._context.Process(target=_run, args=arguments, name=f"actor-{actor}", daemon=True)
        process.start()
        send.close()
        return process, errors

    def publish(self, write: Callable[[np.ndarray], None]) -> int:
        """Hand new weights to the actors."""
        assert self._shared is not None
        return self._shared.weights.publish(write)

    def check(self, n_random: int) -> None:
        """Replace actors that died."""
        assert self._shared is not None
        for actor, (process, errors) in enumerate(self._actors):
            if process.is_alive():
                continue
            with suppress(EOFError):
                if errors.poll():
                    raise failure(actor, *errors.recv())
            head = self._shared.rings[actor].head
            self._idle_deaths[actor] = 1 if head > self._heads[actor] else self._idle_deaths[actor] + 1
            self._heads[actor] = head
            check_deaths(actor, self._idle_deaths[actor], f"exit code {process.exitcode}")
            process.join()
            errors.close()
            self._lives[actor] += 1
            self.n_replaced += 1
            self._actors[actor] = self._spawn(actor, n_random)

    def spent(self) -> np.ndarray:
        """Time of the actors, ns."""
        return self._spent if self._shared is None else self._shared.spent.copy()

    def stop(self) -> None:
        """End all actors and free the memory."""
        if self._shared is None:
            return
        self._shared.stop[0] = 1
        given_up = time.monotonic() + STOP_TIMEOUT
        for process, errors in getattr(self, "_actors", []):
            process.join(max(given_up - time.monotonic(), 0.1))
            if process.is_alive():
                process.kill()
                process.join()
            errors.close()
        self._spent = self._shared.spent.copy()
        self._shared.rings.clear()  # views of the memory, which the stream has too
        self._shared = None
        self._memory.unlink()
        with suppress(BufferError):
            self._memory.close()
        self._folder.cleanup()


def _run(
    memory_name: str,
    geometry: tuple[int, int],
    pickled: bytes,
    index: int,
    life: int,
    seed: int,
    n_random: int,
    library: Path | None,
    errors: Connection,
) -> None:
    """The process of an actor."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C ends the learner, and that the actors
    threading.Thread(target=_end_with_learner, args=(library,), daemon=True).start()
    th.set_num_threads(1)
    code = 0
    try:
        memory = SharedMemory(name=memory_name)
        form, env_fn = cloudpickle.loads(pickled)
        n_actors, ring_size = geometry
        shared = _Shared(memory, Crew(form, [env_fn] * n_actors, 0, 0, ring_size))
        actor = Actor(form, env_fn, seed, n_random, life, Path(), library)  # nothing is compiled here
        actor.spent = shared.spent[index]
        _act(actor, shared, shared.rings[index])
        actor.env.close()
    except Exception as error:
        code = 1
        with suppress(OSError):
            errors.send((type(error).__name__, str(error)))
    sys.stdout.flush()
    os._exit(code)  # views of the shared memory still exist, which its own clean-up would complain of


def _end_with_learner(library: Path | None) -> None:
    """End this process as soon as the learner's has ended, however that happened, and leave nothing of it."""
    learner = multiprocessing.parent_process()
    assert learner is not None
    learner.join()
    if library is not None:
        shutil.rmtree(library.parent, ignore_errors=True)
    os._exit(1)


def _act(actor: Actor, shared: _Shared, ring: Ring) -> None:
    """Act until the learner says stop."""
    copy = WeightBlock.empty_copy(actor.form.layout.n_bytes)
    steps_to_pull = 0
    pause = POLL
    while not shared.stop[0]:
        has_to_wait = ring.is_full or (actor.n_random == 0 and shared.weights.version == 0)
        if has_to_wait:
            start = time.perf_counter_ns()
            time.sleep(pause)
            actor.spend("wait", start)
            pause = min(2 * pause, LONGEST_POLL)
            continue
        pause = POLL
        if actor.n_random == 0:
            if steps_to_pull <= 0:
                steps_to_pull = actor.form.pull_every
                if shared.weights.version != actor.version:
                    start = time.perf_counter_ns()
                    version = shared.weights.pull(copy)
                    actor.spend("pull", start)
                    actor.load(copy, version)
            steps_to_pull -= 1
        values = actor.step()
        start = time.perf_counter_ns()
        ring.push(values)
        actor.spend("push", start)
