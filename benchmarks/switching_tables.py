"""Tables and pictures of ``results/switching_*.json``, for ``draw.py``."""

from collections import defaultdict
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from matplotlib.figure import Figure
from scipy.stats import bootstrap, trim_mean

FIXED = {
    "sac large": "SAC, large",
    "sac small large-critic": "SAC, small actor, large critic",
    "sac small": "SAC, small",
}


def interquartile_mean(values: np.ndarray, axis: int = -1) -> np.ndarray:
    """Mean of the middle half (Agarwal et al. 2021, "Deep RL at the edge of the statistical precipice")."""
    return trim_mean(values, 0.25, axis=axis)


def interval(values: Sequence[float]) -> tuple[float, float, float]:
    """Interquartile mean over seeds and its 95 % interval, by bootstrap over the seeds."""
    middle = float(interquartile_mean(np.array(values)))
    if len(values) < 2 or np.ptp(values) == 0:
        return middle, middle, middle
    result = bootstrap((np.array(values),), interquartile_mean, n_resamples=2000, method="percentile", rng=0)
    return middle, float(result.confidence_interval.low), float(result.confidence_interval.high)


def text(values: Sequence[float]) -> str:
    """Interquartile mean and interval, for a cell."""
    middle, low, high = interval(values)
    return f"{middle:,.0f}\u00a0[{low:,.0f}, {high:,.0f}]"


def by_run(result: dict[str, Any]) -> dict[str, list[dict[str, Any]]]:
    """Rows of all seeds of each run."""
    rows = defaultdict(list)
    for row in sorted(result["rows"], key=lambda row: row["seed"]):
        rows[row["run"]].append(row)
    return dict(rows)


def points(result: dict[str, Any]) -> dict[str, list[list[dict[str, Any]]]]:
    """What the plane of return and cost shows: for each kind its points, each of which is a list over the seeds."""
    rows = by_run(result)
    found: dict[str, list[list[dict[str, Any]]]] = defaultdict(list)
    for seeds in zip(*(row["comparisons"] for row in rows.get("dial", [])), strict=True):
        kind = "dial" if seeds[0]["cost_coef"] is not None else "alone"
        if seeds[0]["name"].startswith("random switching, as"):
            kind = "random, the dial's actors"
        if seeds[0]["name"] != "random switching":
            found[kind].append(list(seeds))
    for seeds in zip(*(row["mixtures"] for row in rows.get("generalists", [])), strict=True):
        found["random, generalist actors"].append(list(seeds))
    for run, seeds in rows.items():
        if run.startswith("shared"):
            found["shared critic, DQN master"].append(seeds)
        elif run.startswith("auto"):
            found[f"budget, {run}"].append(seeds)
        elif run in FIXED:
            found[FIXED[run]].append(seeds)
    return found


def switching_table(result: dict[str, Any]) -> str:
    """Markdown: each way to act, its cost and its return."""
    lines = ["| | setting | seeds | use of large | FLOPs | return |", "|---" * 6 + "|"]
    for kind, settings in points(result).items():
        for seeds in settings:
            first = seeds[0]
            setting = first.get("name", first.get("run", "")) if kind in ("dial", "alone", "random, the dial's actors") else ""
            setting = f"λ = {first['run'].split()[1]}" if kind.startswith("shared") else setting
            if "use" in first:
                use = f"{first['use']:.0%}"
            else:
                use = text([100 * row["option_use"]["large"] for row in seeds]) + "\u00a0%" if "option_use" in first else ""
            cells = [kind, setting, str(len(seeds)), use, text([row["flops_per_inference"] for row in seeds])]
            lines.append(f"| {' | '.join([*cells, text([row['mean_reward'] for row in seeds])])} |")
    settings, versions = result["settings"], result["versions"]
    note = (
        f"{result['task']}, {settings['timesteps']:,} steps, small {settings['small']}, large {settings['large']} units. "
        f"Interquartile mean over the seeds and its 95 % bootstrap interval; a return is the mean of "
        f"{settings['n_eval_episodes']} held-out episodes. "
        f"{', '.join(f'{name} {version}' for name, version in versions.items())}."
    )
    return "\n".join([*lines, "", note])


def switching_picture(result: dict[str, Any], path: Path) -> None:
    """Return against cost, with intervals."""
    axes = Figure(figsize=(8, 5), layout="constrained").subplots()
    for (kind, settings), marker in zip(points(result).items(), "os^vDPX*<>", strict=False):
        flops = [interval([row["flops_per_inference"] for row in seeds])[0] for seeds in settings]
        returns = np.array([interval([row["mean_reward"] for row in seeds]) for seeds in settings])
        spread = np.abs(returns[:, 1:] - returns[:, :1]).T
        line = "-" if kind == "dial" or kind.startswith("random") else ""
        axes.errorbar(flops, returns[:, 0], spread, marker=marker, linestyle=line, linewidth=1, capsize=2, label=kind)
    axes.set(xlabel="FLOPs per inference", ylabel="return", xscale="log", title=result["task"])
    axes.legend(fontsize=7)
    axes.grid(alpha=0.3)
    axes.get_figure(root=True).savefig(path, dpi=110)
