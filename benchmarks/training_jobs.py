"""Trainings in processes of their own, whose rows go into a file of results: for benchmarks of returns."""

import argparse
import json
import platform
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import gymnasium as gym
import stable_baselines3
import torch as th
from going_on import as_they_end

import sb3_asym

Row = dict[str, Any]


def parse_arguments(description: str | None, tasks: Iterable[str], n_seeds: int) -> argparse.Namespace:
    """Arguments of a benchmark of trainings."""
    parser = argparse.ArgumentParser(description=description, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("task", choices=list(tasks))
    parser.add_argument("--jobs", type=int, default=1, help="trainings at a time")
    parser.add_argument("--seeds", type=int, default=n_seeds)
    parser.add_argument("--runs", nargs="+", help="these only")
    parser.add_argument("--one", nargs=3, metavar=("RUN", "SEED", "OUTPUT"), help="do this run only and write its row there")
    return parser.parse_args()


def go_on(
    arguments: argparse.Namespace,
    output: Path,
    runs: Iterable[str],
    settings: dict[str, Any],
    run_one: Callable[[str, str, int], Row],
    elsewhere: Iterable[Row] = (),
) -> None:
    """
    Do the runs that are missing; each is in the results as soon as it has ended.

    :param arguments: as from ``parse_arguments``
    :param output: file of results
    :param runs: labels of the runs of one seed
    :param settings: what the results say of the task
    :param run_one: function of task, run and seed that trains an agent and measures it
    :param elsewhere: rows that another file has, of runs that need not be done
    """
    task = arguments.task
    if arguments.one:
        run, seed, path = arguments.one
        th.set_num_threads(1)
        Path(path).write_text(json.dumps(run_one(task, run, int(seed))))
        return
    done = {(row["run"], row["seed"]) for row in [*_rows(output), *elsewhere]}
    wanted = [(run, seed) for seed in range(arguments.seeds) for run in arguments.runs or runs]
    missing = [(task, *job) for job in wanted if job not in done]
    packages = {module.__name__: module.__version__ for module in (sb3_asym, stable_baselines3, gym, th)}
    header = {"task": task, "settings": settings, "versions": {**packages, "python": platform.python_version()}}
    with ThreadPoolExecutor(arguments.jobs) as pool:
        running = [pool.submit(_in_process, job) for job in missing]
        for row in as_they_end(running, task):
            output.write_text(json.dumps({**header, "rows": [*_rows(output), row]}, indent=1) + "\n")
    print(f"Results: {output}")


def _rows(output: Path) -> list[Row]:
    """The rows that there are."""
    return json.loads(output.read_text())["rows"] if output.exists() else []


def _in_process(job: tuple[str, str, int]) -> Row:
    """One training per process, so that each has a core of its own."""
    with tempfile.NamedTemporaryFile(suffix=".json") as output:
        command = [sys.executable, sys.argv[0], job[0], "--one", job[1], str(job[2]), output.name]
        subprocess.run(command, check=True)
        return json.loads(Path(output.name).read_text())
