"""Draws the pictures and writes the tables of the results: ``python benchmarks/draw.py`` (or ``make docs``).

From ``benchmarks/results/*.json`` come ``returns_<task>.png`` beside them, and the tables in the README between its
``<!-- results … -->`` marks. ``demo.json`` is the report that ``make demo`` writes.
"""

import json
import re
from collections import defaultdict
from pathlib import Path
from typing import Any

import numpy as np
from matplotlib.figure import Figure

from sb3_asym.plotting import learning_curves

ROOT = Path(__file__).parent
RESULTS = ROOT / "results"
README = ROOT.parent / "README.md"
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
    """Mean and standard deviation over the seeds."""
    return f"{np.mean(values):{number}} ± {np.std(values):{number}}"


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


def table(result: dict[str, Any]) -> str:
    """Markdown: each agent, what its parts reach alone, and random switching at the same use."""
    lines = [
        "| agent | seeds | return | large drives | FLOPs | reduction | small alone | large alone | random switching |",
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
            cells += [f"{spread(uses)} %", spread(flops), reduction, *others]
        lines.append(f"| {' | '.join(cells)} |")
    settings, versions = result["settings"], result["versions"]
    sizes = f"small {settings['small']}, large {settings['large']} units"
    note = (
        f"{result['task']}, {settings['timesteps']:,} steps, {sizes}. Mean ± standard deviation over the seeds; a return is "
        f"the mean of {settings['n_eval_episodes']} episodes; FLOPs per inference; reduction against the large actor alone. "
        f"{', '.join(f'{name} {version}' for name, version in versions.items())}."
    )
    return "\n".join([*lines, "", note])


def picture(result: dict[str, Any], path: Path) -> None:
    """Return against cost on the left, learning curves on the right."""
    figure = Figure(figsize=(12, 4.2), layout="constrained")
    plane, curves = figure.subplots(1, 2)
    for run, rows in by_run(result).items():
        flops, returns = ([row[key] for row in rows] for key in ("flops_per_inference", "mean_reward"))
        marker = {"sac": "s", "shared": "o", "separate": "^"}[run.split("_")[0]]
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


def demo_table(report: dict[str, Any]) -> str:
    """Markdown: the report that ``make demo`` writes."""
    names = list(report["option_use"])
    lines = [
        f"| who drives | return | {' | '.join(f'{name} drives' for name in names)} | FLOPs per inference | reduction |",
        "|---" * (4 + len(names)) + "|",
    ]
    for row in (report, *report["comparisons"]):
        uses = " | ".join(f"{row['option_use'][name]:.0%}" for name in names)
        score = f"{row['mean_reward']:.0f} ± {row['std_reward']:.0f}"
        lines.append(
            f"| {row['name']} | {score} | {uses} | {row['flops_per_inference']:,.0f} | {row['flops_reduction']:.0%} |"
        )
    return "\n".join([*lines, "", f"Mean ± standard deviation over {report['n_episodes']} episodes, one seed."])


def overhead_table(result: dict[str, Any]) -> str:
    """Markdown: time as multiples of stock SAC's."""
    lines = ["| time ÷ stock SAC of the large size | shared critic | separate critics |", "|---|---|---|"]
    for name, key, update in (
        ("`predict`", "predict_time_over_sac", "plain"),
        ("`learn`, plain update", "learn_time_over_sac", "plain"),
        ("`learn`, compiled update", "learn_time_over_sac", "compiled"),
    ):
        shared, separate = (result[key][f"{critic}, {update}"] for critic in ("shared", "separate"))
        lines.append(f"| {name} | {shared:.2f} | {separate:.2f} |")
    return "\n".join(lines)


def main() -> None:
    """Draw everything."""
    readme = README.read_text()
    tables = {}
    for path in sorted(RESULTS.glob("returns_*.json")):
        result = json.loads(path.read_text())
        picture(result, path.with_suffix(".png"))
        tables[f"returns {result['task']}"] = table(result)
    tables["demo"] = demo_table(json.loads((RESULTS / "demo.json").read_text()))
    tables["overhead"] = overhead_table(json.loads((RESULTS / "overhead.json").read_text()))
    for name, text in tables.items():
        start, end = f"<!-- results {name} -->", f"<!-- end {name} -->"
        readme = re.sub(f"{start}.*?{end}", lambda _, a=start, b=end, t=text: f"{a}\n{t}\n{b}", readme, flags=re.DOTALL)
    README.write_text(readme)
    print(f"Drawn: {', '.join(tables)}")


if __name__ == "__main__":
    main()
