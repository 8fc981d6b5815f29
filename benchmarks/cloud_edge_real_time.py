"""Edge and learner in their real processes: deadlines, swaps of policies, and faults. For ``cloud_edge.py``."""

import multiprocessing
import os
import signal
import tempfile
import time
from collections import Counter
from pathlib import Path
from typing import Any

import numpy as np
from cloud_cases import CountingRobot, LearnerProcess, make_model, run_while, stored
from link_faults import Broker, wait_for
from stable_baselines3 import SAC

from sb3_asym.cloud_edge import EdgeRunner, drain
from sb3_asym.cloud_edge.link import learner_link
from sb3_asym.shared_memory import WeightBlock

PUSH_PERIOD = 0.5
LONG_STALL = 0.001
FAULTS_HZ = 200
MEMORY = 1_000_000
BLOCK = 1 << 16


def deadline_run(hz: float, priority: int, seconds: float) -> dict[str, Any]:
    """A pendulum at a fixed rate while the learner trains beside it and both stream, on one machine."""
    with tempfile.TemporaryDirectory() as folder, Stalls() as stalls:
        SAC("MlpPolicy", "Pendulum-v1", policy_kwargs=dict(net_arch=[64, 64])).save(Path(folder) / "sim.zip")
        url = str(Path(folder) / "link")
        arguments = dict(ratio=1.0, prefill=256, push_period=PUSH_PERIOD, checkpoint_period=30.0)
        with LearnerProcess(Path(folder) / "sim.zip", url, 1 << 30, **arguments):
            report = EdgeRunner("Pendulum-v1", url, hz=hz, priority=priority, swap="step").run(seconds=seconds)
    return {**report.to_dict(), "push_period": PUSH_PERIOD, "stalls": stalls.longest, "n_stalls": stalls.counts}


class Stalls:
    """
    The longest times for which each core ran nothing at all: a process on each, at the highest real-time priority, sleeps for
    1 ms again and again, and what it oversleeps is not the program's fault but that of the kernel or of the virtual machine.
    """

    def __enter__(self) -> "Stalls":
        context = multiprocessing.get_context("spawn")
        cores = os.sched_getaffinity(0)
        self._gaps, self._counts = (context.Array(kind, [0] * (1 + max(cores))) for kind in "dq")
        self._processes = [
            context.Process(target=_watch_for_stalls, args=(core, self._gaps, self._counts), daemon=True) for core in cores
        ]
        for process in self._processes:
            process.start()
        return self

    def __exit__(self, *_: object) -> None:
        for process in self._processes:
            process.kill()

    @property
    def longest(self) -> list[float]:
        """Longest stall of each core, s."""
        return list(self._gaps)

    @property
    def counts(self) -> list[int]:
        """Number of stalls of more than ``LONG_STALL`` of each core."""
        return list(self._counts)


def _watch_for_stalls(core: int, gaps: Any, counts: Any) -> None:
    os.sched_setaffinity(0, {core})
    os.sched_setscheduler(0, os.SCHED_FIFO, os.sched_param(99))
    last = time.monotonic()
    while True:
        time.sleep(0.001)
        now = time.monotonic()
        gaps[core] = max(gaps[core], now - last - 0.001)
        counts[core] += now - last - 0.001 > LONG_STALL
        last = now


def swap_run(n_swaps: int) -> dict[str, Any]:
    """Policies that are written as fast as they can be and taken meanwhile; each has one number in all of its bytes."""
    with tempfile.TemporaryDirectory(dir="/dev/shm" if Path("/dev/shm").is_dir() else None) as folder:
        path = Path(folder) / "block"
        path.write_bytes(bytes(WeightBlock.size(BLOCK)))
        writer = multiprocessing.get_context("spawn").Process(target=_write, args=(str(path),), daemon=True)
        writer.start()
        block, copy = WeightBlock(np.memmap(path, mode="r+").data, BLOCK), WeightBlock.empty_copy(BLOCK)
        counts: Counter[str] = Counter()
        last = 0
        try:
            while counts["taken"] < n_swaps:
                version = block.try_pull(copy) if block.version != last else last
                if version is None:
                    counts["left for later"] += 1
                elif version != last:
                    counts["taken"] += 1
                    counts["torn"] += not (copy[:BLOCK] == version % 251).all()
                    last = version
        finally:
            writer.kill()
    return {"torn": 0, **counts, "written": block.version, "bytes": BLOCK}


def _write(path: str) -> None:
    block = WeightBlock(np.memmap(path, mode="r+").data, BLOCK)
    while True:
        block.publish(lambda slot: slot.fill((block.version + 1) % 251))


def fault_run(link: str, n_kills: int, n_transitions: int, outage: float) -> dict[str, Any]:
    """Kill each part again and again while a robot counts its steps."""
    started = time.monotonic()
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        os.environ["XDG_STATE_HOME"] = name
        # The learner's checkpoint keeps as many transitions as the replay memory: more than will come.
        make_model(folder / "sim.zip", CountingRobot(folder / "other"), buffer_size=MEMORY)
        broker = Broker(folder / "broker", "--appendfsync", "everysec") if link == "broker" else None
        url = str(folder) if broker is None else broker.url
        learner = LearnerProcess(folder / "sim.zip", url, 1 << 30, folder=folder / "cloud", checkpoint_period=2.0)
        edge = EdgeRunner(lambda path=folder / "count": CountingRobot(path), url, hz=FAULTS_HZ, priority=0, kernel="c")
        kills: Counter[str] = Counter()

        def kill_all() -> None:
            victims = ["courier", "learner", "control", *(["broker"] if broker else [])]
            plan = [victim for _ in range(n_kills) for victim in victims]
            for index, victim in enumerate(plan):
                _wait_for_steps(folder, n_transitions * (index + 1) // (len(plan) + 1))
                if victim == "learner":
                    learner.kill()
                    learner.start()
                elif victim == "broker":
                    broker.kill()
                else:
                    os.kill(edge.pids[victim], signal.SIGKILL)
                kills[victim] += 1
            if broker is not None:
                _fill(broker)
                kills["broker out of memory"] += 1
                broker.stop()
                time.sleep(outage)
                broker.start()
            else:
                learner.kill()
                time.sleep(outage)
                learner.start()
            kills["outage"] += 1
            _wait_for_steps(folder, n_transitions)

        try:
            report = run_while(edge, kill_all)
            left = drain(url, seconds=600)
            _wait_for_journal(folder)
        finally:
            learner.kill()
            if broker is not None:
                broker.stop()
        after = [batch.next_observations()["observation"][:, 0] for batch in stored(folder)]
        arrived = Counter(np.concatenate(after).astype(int).tolist())
        made = int(CountingRobot(folder / "count").counts[0])
        assert made <= MEMORY, f"{made} transitions came, and the checkpoint keeps {MEMORY}."
        return {
            "kills": dict(kills),
            "made": made,
            "arrived": len(arrived),
            "lost": made - len(arrived),
            "doubled": sum(count - 1 for count in arrived.values()),
            "not_confirmed": left,
            "hz": FAULTS_HZ,
            "outage": outage,
            "seconds": time.monotonic() - started,
            "restarts": report.restarts,
        }


def _wait_for_steps(folder: Path, n: int) -> None:
    robot = CountingRobot(folder / "count")
    while robot.counts[0] < n:
        time.sleep(0.01)


def _wait_for_journal(folder: Path) -> None:
    """Wait until the learner has stored all that was confirmed, which it has before it confirms."""
    time.sleep(1.0)


def _fill(broker: Broker) -> None:
    """Take the broker's memory away for a while."""
    import redis

    wait_for(learner_link(broker.url))
    client = redis.Redis.from_url(broker.url)
    client.config_set("maxmemory-policy", "noeviction")
    client.config_set("maxmemory", 1 << 20)
    time.sleep(10)
    client.config_set("maxmemory", 0)
