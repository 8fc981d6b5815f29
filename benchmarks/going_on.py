"""Benchmarks that go on: runs that are in their file already are not repeated."""

import json
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Future, ProcessPoolExecutor, as_completed
from multiprocessing import get_context
from pathlib import Path
from typing import Any

from tqdm import tqdm

Key = tuple[Any, ...]


def read(path: Path) -> list[dict[str, Any]]:
    """The runs that a file has so far."""
    return json.loads(path.read_text()) if path.exists() else []


def go_on(path: Path, names: Sequence[str], jobs: dict[Key, tuple[Any, ...]], run: Callable[..., dict], n_jobs: int) -> None:
    """
    Run what is missing, on one core each, and write each result as it comes.

    :param path: file with the results
    :param names: fields of a result by which runs are told apart, and sorted
    :param jobs: arguments of each run by its fields' values
    :param run: function that makes one run
    :param n_jobs: runs at a time
    """
    results = read(path)
    done = {tuple(result[name] for name in names) for result in results}
    with ProcessPoolExecutor(n_jobs, mp_context=get_context("spawn")) as pool:
        futures = [pool.submit(run, *arguments) for key, arguments in jobs.items() if key not in done]
        for result in as_they_end(futures):
            results.append(result)
            results.sort(key=lambda result: tuple(result[name] for name in names))
            path.write_text(json.dumps(results, indent=1) + "\n")


def as_they_end(futures: Sequence[Future], title: str | None = None) -> Iterator[dict[str, Any]]:
    """Results of runs in the order in which they end, under a bar of progress; the error of one comes when all have ended."""
    for future in tqdm(as_completed(futures), total=len(futures), desc=title, unit="run"):
        if future.exception() is None:
            yield future.result()
    for future in futures:
        future.result()
