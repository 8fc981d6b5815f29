"""The tables and the picture of ``results/quantization.json``, for ``draw.py``."""

from collections import defaultdict
from pathlib import Path
from typing import Any

import numpy as np
from matplotlib.figure import Figure

BITS = (8, 6, 4, 2)
FAMILIES = {
    "w{}-tensor-affine": "weights, QuaRL's",
    "w{}-gptq": "weights, GPTQ",
    "int{}": "weights and activations",
    "int{}-gptq": "weights and activations, GPTQ",
}
SCHEMES = ("fp16", *(family.format(bits) for family in FAMILIES for bits in BITS))
SHORT = ("fp16", "w8-tensor-affine", "int8", "int8-gptq", "w6-gptq", "w4-gptq")
LIMIT = 0.025
LINK = "w6-tensor-affine"


def by_agent(results: list[dict[str, Any]]) -> dict[str, list[dict[str, Any]]]:
    """Runs of all seeds of each agent."""
    runs = defaultdict(list)
    for result in results:
        runs[result["agent"]].append(result)
    return dict(sorted(runs.items()))


def form(run: dict[str, Any], scheme: str) -> dict[str, Any]:
    """An agent in a scheme."""
    return next(form for form in run["forms"] if form["scheme"] == scheme)


def error(runs: list[dict[str, Any]], scheme: str) -> float:
    """Relative error of the return, the mean over the seeds."""
    return float(np.mean([form(run, scheme)["relative_error"] for run in runs]))


def least_bits(runs: list[dict[str, Any]], family: str) -> str:
    """The fewest bits down to which the return stays within the limit."""
    kept = ""
    for bits in BITS:
        if error(runs, family.format(bits)) > LIMIT:
            break
        kept = str(bits)
    return kept or "none"


def quantization_summary(results: list[dict[str, Any]], schemes: tuple[str, ...] = SCHEMES) -> str:
    """Markdown: each scheme over all agents."""
    runs_by_agent = by_agent(results)
    lines = ["| scheme | bytes ÷ fp32 | mean error | median | agents within 2.5% | worst |", "|---" * 6 + "|"]
    for scheme in schemes:
        errors = {name: error(runs, scheme) for name, runs in runs_by_agent.items()}
        shares = [form(runs[0], scheme)["n_bytes"] / form(runs[0], "fp32")["n_bytes"] for runs in runs_by_agent.values()]
        worst = max(errors, key=errors.__getitem__)
        values = np.array(list(errors.values()))
        cells = [scheme, f"{np.mean(shares):.0%}", f"{values.mean():+.1%}", f"{np.median(values):+.1%}"]
        cells += [f"{np.count_nonzero(values <= LIMIT)} of {len(values)}", f"{worst.replace('_', ' ')} {errors[worst]:+.1%}"]
        lines.append(f"| {' | '.join(cells)} |")
    versions = ", ".join(f"{name} {version}" for name, version in results[0]["versions"].items())
    n_seeds = sorted({len(runs) for runs in runs_by_agent.values()})
    seeds = " to ".join(map(str, sorted({n_seeds[0], n_seeds[-1]})))
    note = f"{len(runs_by_agent)} agents, {seeds} seeds of {results[0]['n_episodes']} episodes each. {versions}."
    return "\n".join([*lines, "", note])


def short_summary(results: list[dict[str, Any]]) -> str:
    """Markdown: a few schemes over all agents."""
    return quantization_summary(results, SHORT)


def quantization_table(results: list[dict[str, Any]]) -> str:
    """Markdown: each agent at 8 bits, and where it falls off."""
    heads = ["agent", "return", "gap", *(family.format(8) for family in FAMILIES)]
    heads += [f"{family.format('·')} down to" for family in FAMILIES]
    lines = [f"| {' | '.join(heads)} |", "|---" * len(heads) + "|"]
    for name, runs in by_agent(results).items():
        reward = np.mean([form(run, "fp32")["mean_reward"] for run in runs])
        gap = runs[0]["gap"]
        cells = [name.replace("_", " "), f"{reward:,.0f}", "" if gap is None else f"{100 * gap:.2g}%"]
        cells += [f"{error(runs, family.format(8)):+.1%}" for family in FAMILIES]
        cells += [least_bits(runs, family) for family in FAMILIES]
        lines.append(f"| {' | '.join(cells)} |")
    return "\n".join(lines)


def width_link(results: list[dict[str, Any]]) -> tuple[list[float], list[float], list[float]]:
    """Of each agent, the width of its widest layer, the mean error of a weight, and that of the return, in one scheme."""
    widths, weights, returns = [], [], []
    for runs in by_agent(results).values():
        layers = form(runs[0], LINK)["layers"]
        widths.append(max(layer["width"] for layer in layers))
        weights.append(float(np.mean([layer["error"] for layer in layers])))
        returns.append(error(runs, LINK))
    return widths, weights, returns


def rank_correlation(first: list[float], second: list[float]) -> float:
    """Spearman's rank correlation."""
    ranks = [np.argsort(np.argsort(values)) for values in (first, second)]
    return float(np.corrcoef(*ranks)[0, 1])


def width_text(results: list[dict[str, Any]]) -> str:
    """Markdown: QuaRL's link between the width of the weights and the error."""
    widths, weights, returns = width_link(results)
    return (
        f"Over the agents, the width of the widest layer's weights goes with the mean error of a weight in {LINK} (rank "
        f"correlation {rank_correlation(widths, weights):.2f}), and with the error of the return "
        f"({rank_correlation(widths, returns):.2f})."
    )


def quantization_picture(results: list[dict[str, Any]], path: Path) -> None:
    """Every agent in every scheme; agents within the limit by bits; and the width of the weights against the errors."""
    runs_by_agent = by_agent(results)
    figure = Figure(figsize=(13, 7.5), layout="constrained")
    grid = figure.add_gridspec(2, 2, width_ratios=(1.5, 1))
    every, kept, link = figure.add_subplot(grid[:, 0]), figure.add_subplot(grid[0, 1]), figure.add_subplot(grid[1, 1])
    schemes = ["fp16", *(family.format(bits) for family in FAMILIES for bits in BITS)]
    values = np.array([[100 * error(runs, scheme) for scheme in schemes] for runs in runs_by_agent.values()])
    every.imshow(np.clip(values, 0, 20), cmap="Reds", aspect="auto")
    for (row, column), value in np.ndenumerate(values):
        text = f"{value:.0f}" if abs(value) >= 0.5 else "0"
        every.text(column, row, text, ha="center", va="center", fontsize=7, color="white" if value > 12 else "black")
    every.set_xticks(range(len(schemes)), schemes, rotation=60, ha="right", fontsize=7)
    every.set_yticks(range(len(values)), [name.replace("_", " ") for name in runs_by_agent], fontsize=8)
    every.set(title="relative error of the return, %")
    for family, name in FAMILIES.items():
        shares = [np.mean([error(runs, family.format(bits)) <= LIMIT for runs in runs_by_agent.values()]) for bits in BITS]
        kept.plot(BITS, [100 * share for share in shares], "o-", label=name)
    kept.set(xlabel="bits", ylabel="% of the agents", title="within 2.5 % of the return", xticks=BITS, ylim=(0, 103))
    kept.legend(fontsize=8)
    widths, weights, returns = width_link(results)
    lost = np.clip(100 * np.array(returns), 0, 20)
    points = link.scatter(widths, weights, c=lost, cmap="Reds", edgecolors="gray")
    figure.colorbar(points, ax=link, label="relative error of the return, %")
    link.set(
        xlabel="width of the widest layer's weights", ylabel="mean error of a weight", xscale="log", yscale="log", title=LINK
    )
    for axes in (kept, link):
        axes.grid(alpha=0.3)
    figure.savefig(path, dpi=110)
