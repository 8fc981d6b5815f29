"""Tables and pictures of ``results/returns_*.json``, for ``draw.py``."""

from collections import defaultdict
from pathlib import Path
from typing import Any

import numpy as np
from matplotlib.figure import Figure

from sb3_asym.evaluation.plotting import learning_curves

STOCK = {
    "sac_large": "SAC, large",
    "sac_small_large_critic": "SAC, small actor, large critic",
    "sac_small": "SAC, small",
}


def label(run: str) -> str:
    """What the tables call a run."""
    if run in STOCK:
        return STOCK[run]
    critic, cost_coef = run.split("_")
    return f"AsymSAC, {critic} critic{'s' if critic == 'separate' else ''}, λ = {cost_coef}"


def spread(values: list[float], number: str = ",.0f") -> str:
    """Mean and standard deviation over the seeds, on one line."""
    return f"{np.mean(values):{number}}\u00a0±\u00a0{np.std(values):{number}}"


def by_run(result: dict[str, Any]) -> dict[str, list[dict[str, Any]]]:
    """Rows of all seeds of each run; stock SAC first, then in order of critic and λ."""
    rows = defaultdict(list)
    for row in result["rows"]:
        rows[row["run"]].append(row)
    return dict(
        sorted(
            rows.items(), key=lambda item: (item[0] not in STOCK, list(STOCK).index(item[0]) if item[0] in STOCK else item[0])
        )
    )


def returns_table(result: dict[str, Any]) -> str:
    """Markdown: each agent, what its parts reach alone, and random switching at the same use."""
    lines = [
        "| agent | seeds | return | use of large | FLOPs | reduction | small alone | large alone | random switching |",
        "|---|---|---|---|---|---|---|---|---|",
    ]
    rows_by_run = by_run(result)
    large_flops = rows_by_run["sac_large"][0]["flops_per_inference"] if "sac_large" in rows_by_run else None
    for run, rows in rows_by_run.items():
        flops = [row["flops_per_inference"] for row in rows]
        reduction = f"{1 - np.mean(flops) / large_flops:.1%}" if large_flops else ""
        cells = [label(run), str(len(rows)), spread([row["mean_reward"] for row in rows])]
        if run in STOCK:
            cells += ["", f"{flops[0]:,.0f}", reduction, "", "", ""]
        else:
            uses = [100 * row["option_use"]["large"] for row in rows]
            others = [spread([row["comparisons"][i]["mean_reward"] for row in rows]) for i in range(3)]
            cells += [f"{spread(uses)}\u00a0%", spread(flops), reduction, *others]
        lines.append(f"| {' | '.join(cells)} |")
    settings, versions = result["settings"], result["versions"]
    sizes = f"small {settings['small']}, large {settings['large']} units"
    note = (
        f"{result['task']}, {settings['timesteps']:,} steps, {sizes}. Mean ± standard deviation over the seeds; a return is "
        f"the mean of {settings['n_eval_episodes']} episodes; FLOPs per inference; reduction against the large actor alone. "
        f"{', '.join(f'{name} {version}' for name, version in versions.items())}."
    )
    return "\n".join([*lines, "", note])


def returns_picture(result: dict[str, Any], path: Path) -> None:
    """Return against cost on the left, learning curves on the right."""
    figure = Figure(figsize=(12, 4.2), layout="constrained")
    plane, curves = figure.subplots(1, 2)
    for run, rows in by_run(result).items():
        flops, returns = ([row[key] for row in rows] for key in ("flops_per_inference", "mean_reward"))
        marker = {"sac": "s", "shared": "o", "separate": "^", "option": "D"}[run.split("_")[0]]
        plane.errorbar(
            np.mean(flops), np.mean(returns), np.std(returns), np.std(flops), fmt=marker, capsize=2, label=label(run)
        )
    plane.set(xlabel="FLOPs per inference", ylabel="return", xscale="log", title=f"{result['task']}: return against cost")
    plane.legend(fontsize=7)
    plane.grid(alpha=0.3)
    lines = {label(run): np.array([row["curve"] for row in rows]) for run, rows in by_run(result).items()}
    data = {name: (rows[0, :, 0], rows[:, :, 1]) for name, rows in lines.items()}
    learning_curves(data, title="learning curves (lowest to highest seed)", axes=curves)
    curves.get_legend().remove()  # the colors are those on the left
    figure.savefig(path, dpi=110)
