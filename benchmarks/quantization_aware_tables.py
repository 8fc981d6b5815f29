"""The table and the picture of ``results/quantization_aware.json``, for ``draw.py``."""

from collections import defaultdict
from pathlib import Path
from typing import Any

import numpy as np
from matplotlib.figure import Figure

FULL = "fp32"
METHODS = {
    "ptq {}": "after training, to the nearest",
    "ptq {}-gptq": "after training, rounded in turn",
    "qat {}": "in training",
}


def by_task(results: list[dict[str, Any]]) -> dict[str, list[dict[str, Any]]]:
    """Runs of all seeds of each task."""
    runs = defaultdict(list)
    for result in results:
        runs[result["task"]].append(result)
    return dict(runs)


def means(runs: list[dict[str, Any]], name: str) -> np.ndarray:
    """Mean return of an agent in each run, ``(n_seeds,)``."""
    return np.array([np.mean(run["returns"][name]) for run in runs])


def spread(returns: np.ndarray) -> str:
    """Mean and standard deviation over the seeds, on one line."""
    return f"{returns.mean():,.0f}\u00a0±\u00a0{returns.std():,.0f}"


def schemes_of(runs: list[dict[str, Any]]) -> list[str]:
    """The schemes, most bits first."""
    return [name.removeprefix("qat ") for name in runs[0]["returns"] if name.startswith("qat")]


def loss(runs: list[dict[str, Any]], name: str) -> float:
    """Share of the return in fp32 that is lost, of the means over all seeds."""
    full = means(runs, FULL).mean()
    return float((full - means(runs, name).mean()) / abs(full))


def aware_table(results: list[dict[str, Any]]) -> str:
    """Markdown: returns of agents quantized after and in training."""
    lines = [f"| task | scheme | {' | '.join(METHODS.values())} |", "|---" * (2 + len(METHODS)) + "|"]
    for task, runs in by_task(results).items():
        lines.append(f"| {task} | fp32 |{f' {spread(means(runs, FULL))} |' * len(METHODS)}")
        for scheme in schemes_of(runs):
            cells = []
            for method in METHODS:
                name = method.format(scheme)
                cells.append(f"{spread(means(runs, name))} ({-loss(runs, name):+.1%})")
            lines.append(f"| {task} | {scheme} | {' | '.join(cells)} |")
    settings = [
        f"{task}: {runs[0]['settings']['full_precision']:,} env steps in full precision, then {runs[0]['settings']['more']:,} "
        f"more, {len(runs)} seeds"
        for task, runs in by_task(results).items()
    ]
    first = results[0]
    note = (
        f"SAC, layers of {first['settings']['units']} units. Mean ± standard deviation over the seeds; a return is the mean "
        f"of {len(first['returns'][FULL])} held-out episodes; in brackets the difference to full precision. "
        f"{'; '.join(settings)}. "
        f"{', '.join(f'{name} {version}' for name, version in first['versions'].items())}."
    )
    return "\n".join([*lines, "", note])


def aware_picture(results: list[dict[str, Any]], path: Path) -> None:
    """Return by scheme, a panel for each task, a dot for each seed."""
    tasks = by_task(results)
    figure = Figure(figsize=(5 * len(tasks), 3.6), layout="constrained")
    for axes, (task, runs) in zip(figure.subplots(1, len(tasks), squeeze=False)[0], tasks.items(), strict=True):
        schemes = schemes_of(runs)
        full = means(runs, FULL)
        axes.axhspan(full.min(), full.max(), color="gray", alpha=0.2)
        axes.axhline(full.mean(), color="gray", linestyle=":", label=FULL)
        for index, (method, label) in enumerate(METHODS.items()):
            returns = np.array([means(runs, method.format(scheme)) for scheme in schemes])
            axes.plot(schemes, returns.mean(1), "o-", color=f"C{index}", label=label)
            axes.plot(schemes, returns, ".", color=f"C{index}", alpha=0.5)
        axes.set(title=task, ylabel="return")
        axes.grid(alpha=0.3)
        axes.legend(fontsize=7)
    figure.savefig(path, dpi=110)
