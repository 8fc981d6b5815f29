"""Cloud-edge training: deadlines while it learns, faults, adaptation to unseen dynamics, and the paper's parameters.

    python benchmarks/cloud_edge.py deadlines|faults|adapt|parameters [--help]

Each writes ``benchmarks/results/cloud_edge_<name>.json`` as results come; what is there already is not repeated. Needs the
extras ``cloud`` and ``mujoco``; ``faults`` with a broker needs ``redis-server`` or ``valkey-server``, and ``deadlines`` the
right to a real-time priority (SCHED_FIFO).
"""

import argparse
import json
import os
import platform
import sys
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import gymnasium
import numpy as np
import stable_baselines3
import torch as th
from tqdm import tqdm

from sb3_asym import __version__

sys.path.insert(0, str(Path(__file__).parents[1] / "tests"))

from cloud_edge_adaptation import Run, adapt_runs, parameter_runs, run_of
from cloud_edge_real_time import deadline_run, fault_run, swap_run

RESULTS = Path(__file__).parent / "results"


def versions() -> dict[str, str]:
    """What was installed."""
    return {
        "sb3-asym": __version__,
        "stable-baselines3": stable_baselines3.__version__,
        "gymnasium": gymnasium.__version__,
        "torch": th.__version__,
        "numpy": np.__version__,
        "Python": platform.python_version(),
    }


def machine() -> str:
    """Cores, and the mean number of processes that wanted one during the last minute, ours included."""
    return f"{os.cpu_count()} cores, load {os.getloadavg()[0]:.1f}, {platform.system()} {platform.release()}"


def go_on(name: str, wanted: dict[str, Callable[[], dict[str, Any]]]) -> None:
    """Run what is missing in a file of results, and write it after each run."""
    path = RESULTS / f"cloud_edge_{name}.json"
    results = json.loads(path.read_text()) if path.exists() else {"versions": versions(), "runs": {}}
    missing = {key: run for key, run in wanted.items() if key not in results["runs"]}
    for key, run in tqdm(missing.items(), desc=name):
        results["runs"][key] = {**run(), "machine": machine()}
        path.write_text(json.dumps(results, indent=2) + "\n")
    print(f"{path}: {len(results['runs'])} runs, {len(missing)} of them new")


def deadlines(arguments: argparse.Namespace) -> None:
    """Deadlines and ages of policies, and many swaps."""
    wanted: dict[str, Callable[[], dict[str, Any]]] = {}
    for hz in arguments.hz:
        for priority in (50, 0):
            name = f"{hz:g} Hz, {'real-time priority, memory locked' if priority else 'normal priority'}"
            wanted[name] = lambda hz=hz, priority=priority: deadline_run(hz, priority, 60 * arguments.minutes)
    wanted["swaps"] = lambda: swap_run(arguments.swaps)
    go_on("deadlines", wanted)


def faults(arguments: argparse.Namespace) -> None:
    """Kills of all parts over numbered transitions."""
    wanted: dict[str, Callable[[], dict[str, Any]]] = {}
    for link in arguments.link:
        wanted[link] = lambda link=link: fault_run(link, arguments.kills, arguments.transitions, arguments.outage)
    go_on("faults", wanted)


def adapt(arguments: argparse.Namespace) -> None:
    """The going-on agent, the frozen one, and one that learns from nothing, on unseen dynamics."""
    go_on_with("adapt", adapt_runs(arguments.task, arguments.seeds, arguments.steps), arguments)


def parameters(arguments: argparse.Namespace) -> None:
    """The paper's parameters: latency, bandwidth, pre-fill, freeze, friction."""
    go_on_with("parameters", parameter_runs(arguments.task, arguments.seeds, arguments.steps), arguments)


def go_on_with(name: str, runs: Iterator[Run], arguments: argparse.Namespace) -> None:
    """Runs of learning, each of which pretrains its agent where that is missing."""
    folder = arguments.agents or Path(tempfile.gettempdir()) / "sb3-asym-cloud-edge"
    folder.mkdir(parents=True, exist_ok=True)
    go_on(name, {str(run): lambda run=run: run_of(run, folder) for run in runs})


def main() -> None:
    """Run what is missing."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    commands = parser.add_subparsers(required=True)
    command = commands.add_parser("deadlines", help=deadlines.__doc__)
    command.add_argument("--hz", type=float, nargs="+", default=[50, 100])
    command.add_argument("--minutes", type=float, default=10)
    command.add_argument("--swaps", type=int, default=10_000)
    command.set_defaults(run=deadlines)
    command = commands.add_parser("faults", help=faults.__doc__)
    command.add_argument("--link", nargs="+", default=["one machine", "broker"], choices=["one machine", "broker"])
    command.add_argument("--kills", type=int, default=20, help="of each part")
    command.add_argument("--transitions", type=int, default=100_000)
    command.add_argument("--outage", type=float, default=600, help="seconds")
    command.set_defaults(run=faults)
    for name, function, seeds in (("adapt", adapt, 5), ("parameters", parameters, 3)):
        command = commands.add_parser(name, help=function.__doc__)
        command.add_argument("--task", default="pendulum", choices=["pendulum", "cart-pole"])
        command.add_argument("--seeds", type=int, default=seeds)
        command.add_argument("--steps", type=int, default=20_000, help="env steps on the unseen dynamics")
        command.add_argument("--agents", type=Path, help="folder of the agents from simulation")
        command.set_defaults(run=function)
    arguments = parser.parse_args()
    arguments.run(arguments)


if __name__ == "__main__":
    main()
