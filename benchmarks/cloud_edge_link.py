"""What the link between edge and cloud survives: kills of all parts, an outage, a broker without memory, damaged frames.

    python benchmarks/cloud_edge_link.py

writes ``benchmarks/results/cloud_edge_link.json``. Needs the extra ``cloud`` and ``redis-server`` or ``valkey-server``. Every
transition tells its own number, by which the learner finds those that are lost or doubled; its checkpoint is a list in memory.
"""

import argparse
import json
import os
import platform
import subprocess
import sys
import tempfile
import time
from collections import Counter
from pathlib import Path

import msgspec
import numpy as np
import redis
from tqdm import tqdm, trange

from sb3_asym import __version__

sys.path.insert(0, str(Path(__file__).parents[1] / "tests"))

from frame_fuzz import accepted, damaged, forged, use, valid_frames
from link_faults import SERVER, Broker, Learner, Sender

OUTPUT = Path(__file__).parent / "results" / "cloud_edge_link.json"
N_KILLS = 20
BATCH_SIZE = 50


def run(url: str, path: Path, n_transitions: int, events: list) -> dict:
    """
    Send numbered transitions through a link, and let things go wrong at even distances.

    :param url: address of the link
    :param path: path of the outbox
    :param n_transitions: number of transitions
    :param events: functions of sender and learner
    :return: what arrived
    """
    learner = Learner(url, every=10)
    sender = Sender(url, path, n_transitions, BATCH_SIZE)
    start = time.monotonic()
    try:
        for i, event in enumerate(tqdm(events, desc=str(path.parent.name))):
            learner.run_until((i + 1) * n_transitions // (len(events) + 1))
            event(sender, learner)
        learner.run_until(n_transitions)
        while sender.process.is_alive():
            learner.step()
    finally:
        sender.process.kill()
    counts = Counter(learner.numbers)
    return {
        "transitions": n_transitions,
        "events": len(events),
        "lost": n_transitions - len(counts),
        "doubled": sum(count - 1 for count in counts.values()),
        "duplicates that the reader dropped": learner.n_duplicates + learner.reader.n_duplicates,
        "out of order": int((np.diff(learner.numbers) < 0).sum()),
        "seconds": round(time.monotonic() - start, 1),
    }


def kills(broker: Broker | None) -> list:
    """Twenty kills of each part, in turn."""
    events = [lambda sender, _: sender.kill(), lambda _, learner: learner.kill()]
    if broker is not None:
        events.append(lambda *_: broker.kill())
    return events * N_KILLS


def outage(broker: Broker, seconds: float) -> list:
    """The broker is away for a while."""

    def away(*_) -> None:
        broker.stop()
        time.sleep(seconds)
        broker.start()

    return [away]


def full_memory(broker: Broker, seconds: float) -> list:
    """The broker's memory is full for a while, as nobody reads; it refuses, and the outbox keeps."""
    refusals = []

    def wait(*_) -> None:
        admin = redis.Redis.from_url(broker.url)
        admin.config_set("maxmemory", admin.info("memory")["used_memory"] + 200_000)
        admin.config_set("maxmemory-policy", "noeviction")
        time.sleep(seconds)
        refusals.append(admin.info("errorstats").get("errorstat_OOM", {}).get("count", 0))
        admin.config_set("maxmemory", 0)

    wait.refusals = refusals
    return [wait]


def fuzz(n_frames: int) -> dict:
    """Damaged frames, and forged ones, whose checksum is right; what crashes stops the benchmark."""
    frames, result = valid_frames(), {}
    rng = np.random.default_rng(0)
    n = sum(bool(accepted(damaged(frames, rng))) for _ in trange(n_frames, desc="damaged frames"))
    result["damaged"] = {"frames": n_frames, "crashes": 0, "accepted": n}
    n = sum(use(*forged(frames, rng)) for _ in trange(n_frames, desc="forged frames"))
    result["forged, checksum right"] = {"frames": n_frames, "crashes": 0, "valid all the same": n}
    return result


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--transitions", type=int, default=100_000, help="transitions of each run")
    parser.add_argument("--outage", type=float, default=20.0, help="length of the outage, s")
    parser.add_argument("--frames", type=int, default=100_000, help="damaged frames, and as many forged ones")
    parser.add_argument("--output", type=Path, default=OUTPUT)
    arguments = parser.parse_args()
    n, results = arguments.transitions, {}
    if SERVER is None:
        raise SystemExit("The benchmark needs redis-server or valkey-server: apt-get install redis-server")
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        for fsync in ("always", "everysec"):
            with Broker(folder / fsync, "--appendfsync", fsync) as broker:
                results[f"kill -9 of sender, learner and broker, appendfsync {fsync}"] = run(
                    broker.url, folder / fsync / "outbox.sqlite", n, kills(broker)
                )
        path = folder / "embedded/robots/robot-1/outbox.sqlite"
        results["kill -9 of sender and learner, embedded"] = run(str(folder / "embedded"), path, n, kills(None))
        with Broker(folder / "outage") as broker:
            events = outage(broker, arguments.outage)
            results[f"outage of {arguments.outage:g} s"] = run(broker.url, folder / "outage/outbox.sqlite", n // 5, events)
        with Broker(folder / "memory") as broker:
            events = full_memory(broker, 5)
            results["broker out of memory for 5 s"] = run(broker.url, folder / "memory/outbox.sqlite", n // 5, events)
            results["broker out of memory for 5 s"]["refused appends"] = events[0].refusals[0]
    results |= fuzz(arguments.frames)
    server = subprocess.run([SERVER, "--version"], capture_output=True, text=True).stdout.split(" sha=")[0]
    machine = {
        "python": platform.python_version(),
        "cores": os.cpu_count(),
        "load at the end, 1 min": os.getloadavg()[0],
        "sb3-asym": __version__,
        "redis": redis.__version__,
        "msgspec": msgspec.__version__,
        "server": server,
    }
    arguments.output.parent.mkdir(exist_ok=True)
    arguments.output.write_text(json.dumps({"machine": machine, "results": results}, indent=2) + "\n")
    print(json.dumps(results, indent=2))


if __name__ == "__main__":
    main()
