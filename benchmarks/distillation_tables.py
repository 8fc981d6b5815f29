"""The table and the picture of ``results/distillation.json``, for ``draw.py``."""

from collections import defaultdict
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
from matplotlib.figure import Figure

from sb3_asym.distillation import Candidate
from sb3_asym.distillation.choice import choose, switching_gain
from sb3_asym.distillation.report import surely_kept

KEEP = (0.95, 0.98)
BUDGETS = (0.05, 0.08, 0.1, 0.25)
TIE = 0.002


def by_agent(results: list[dict[str, Any]], method: str) -> dict[str, list[dict[str, Any]]]:
    """Runs of all seeds of each teacher."""
    runs = defaultdict(list)
    for result in results:
        if result["method"] == method:
            runs[result["agent"]].append(result)
    return dict(sorted(runs.items()))


def of_kind(run: dict[str, Any], *kinds: str) -> list[dict[str, Any]]:
    """Agents of these kinds, cheapest first."""
    return [candidate for candidate in run["candidates"] if candidate["kind"] in kinds]


def taken(run: dict[str, Any], keep: float = 1.0, budget: float | None = None) -> Candidate | None:
    """The agent that ``distill`` takes to keep a share of the return, or for a budget of FLOPs."""
    return choose([Candidate(**candidate) for candidate in run["candidates"]], keep, budget)[0]


def distillation_table(results: list[dict[str, Any]], keeps: tuple[float, ...] = KEEP) -> str:
    """Markdown: what ``distill`` takes for each teacher to keep 95 and 98 %, by other episodes than those reported."""
    heads = ["teacher", "seeds", "return", "FLOPs"]
    for keep in keeps:
        heads += [f"{keep:.0%}: FLOPs", "of the teacher", "that switch", "kept, held out"]
    lines = [f"| {' | '.join([*heads, 'minutes'])} |", "|" + "---|" * (len(heads) + 1)]
    for name, runs in by_agent(results, "dagger").items():
        teachers = [of_kind(run, "teacher")[0] for run in runs]
        rewards = [teacher["mean_reward"] for teacher in teachers]
        flops = teachers[0]["flops_per_inference"]
        cells = [name.replace("_", " "), str(len(runs)), f"{np.mean(rewards):,.0f}", f"{flops:,.0f}"]
        for keep in keeps:
            agents = [agent for agent in (taken(run, keep) for run in runs) if agent is not None]
            if len(agents) < len(runs):
                cells += [f"in {len(agents)} of {len(runs)}", "", "", ""]
                continue
            spent = np.median([agent.flops_per_inference for agent in agents])
            n_switching = sum(agent.kind == "switching" for agent in agents)
            cells += [f"{spent:,.0f}", f"{spent / flops:.2%}", str(n_switching), mean_and_least([a.kept for a in agents])]
        minutes = np.mean([run["seconds"] for run in runs]) / 60
        lines.append(f"| {' | '.join([*cells, f'{minutes:.1f}'])} |")
    versions = results[0]["versions"]
    installed = ", ".join(f"{name} {version}" for name, version in versions.items())
    n_episodes = sorted({result["n_episodes"] for result in results})
    note = (
        "Default settings; minutes on a machine of two cores that other work kept busy too. FLOPs: medians over the seeds; "
        f"kept: mean and least over the seeds, of {n_episodes[0]} to {n_episodes[-1]} held-out episodes each. {installed}."
    )
    return "\n".join([*lines, "", note])


def budget_table(results: list[dict[str, Any]]) -> str:
    """Markdown: what ``distill`` takes for at most some shares of a teacher's FLOPs, by other episodes than those reported."""
    lines = [
        f"| teacher | {' | '.join(f'at most {share:.0%}: kept' for share in BUDGETS)} |",
        "|---" * (len(BUDGETS) + 1) + "|",
    ]
    for name, runs in by_agent(results, "dagger").items():
        cells = [name.replace("_", " ")]
        for share in BUDGETS:
            kept = []
            for run in runs:
                (teacher,) = of_kind(run, "teacher")
                best = taken(run, budget=share * teacher["flops_per_inference"])
                assert best is not None
                kept.append(best.kept)
            cells.append(mean_and_least(kept))
        lines.append(f"| {' | '.join(cells)} |")
    return "\n".join(lines)


def switching_table(results: list[dict[str, Any]]) -> str:
    """Markdown: what the best agent that switches, by other episodes than those reported, keeps beyond its baselines."""
    lines = ["| teacher | seeds | gain, mean | least | seeds above |", "|---|---|---|---|---|"]
    for name, runs in by_agent(results, "dagger").items():
        found = []
        for run in runs:
            gain = switching_gain([Candidate(**candidate) for candidate in run["candidates"]])
            if gain is not None:
                found.append(gain[1])
        if found:
            above = sum(gain > TIE for gain in found)
            cells = [name.replace("_", " "), str(len(found)), f"{np.mean(found):+.1%}", f"{min(found):+.1%}", str(above)]
            lines.append(f"| {' | '.join(cells)} |")
    return "\n".join(lines)


def chosen_student(run: dict[str, Any]) -> dict[str, Any]:
    """The cheapest fixed student that surely keeps 98 %; where there is none, the largest."""
    (teacher,) = of_kind(run, "teacher")
    students = of_kind(run, "student")
    enough = (student for student in students if surely_kept(Candidate(**student), Candidate(**teacher)) >= 0.98)
    return next(enough, students[-1])


def mean_and_least(kept: list[float]) -> str:
    """Mean and least, over the seeds."""
    return f"{np.mean(kept):.1%}, least {min(kept):.1%}" if kept else ""


def methods_table(results: list[dict[str, Any]]) -> str:
    """Markdown: the baselines at the same sizes, seeds and env steps."""
    lines = ["| teacher | DAgger, of those seeds | behavioural cloning | seeds | DAgger, of those seeds | GAIL | seeds |"]
    lines.append("|" + "---|" * 7)
    for name, runs in by_agent(results, "dagger").items():
        by_seed = {run["seed"]: run for run in runs}
        cells = [name.replace("_", " ")]
        for method in ("bc", "gail"):
            others = by_agent(results, method).get(name, [])
            kept = [chosen_student(by_seed[run["seed"]])["kept"] for run in others]
            cells += [
                mean_and_least(kept),
                mean_and_least([of_kind(run, "student")[0]["kept"] for run in others]),
                str(len(others)),
            ]
        if any(cells[1:3] + cells[4:6]):
            lines.append(f"| {' | '.join(cells)} |")
    return "\n".join(lines)


def int8_table(results: list[dict[str, Any]]) -> str:
    """Markdown: the chosen students in fp32 and in int8, with their bytes."""
    lines = ["| teacher | fp32: bytes | kept | int8: bytes | kept |", "|---|---|---|---|---|"]
    for name, runs in by_agent(results, "dagger").items():
        pairs = []
        for run in runs:
            student = chosen_student(run)
            pairs += [(student, other) for other in of_kind(run, "int8") if other["name"] == f"{student['name']}, int8"]
        if pairs:
            cells = [name.replace("_", " ")]
            for forms in zip(*pairs, strict=True):
                cells += [
                    f"{np.median([form['n_bytes'] for form in forms]):,.0f}",
                    mean_and_least([form["kept"] for form in forms]),
                ]
            lines.append(f"| {' | '.join(cells)} |")
    return "\n".join(lines)


def distillation_tables(results: list[dict[str, Any]]) -> dict[str, str]:
    """All tables, by their marks in the docs."""
    short = partial(distillation_table, keeps=(0.98,))
    tables = {
        "": distillation_table,
        ", short": short,
        ", budgets": budget_table,
        ", methods": methods_table,
        ", int8": int8_table,
        ", switching": switching_table,
    }
    return {f"distillation{mark}": table(results) for mark, table in tables.items()}


def distillation_picture(results: list[dict[str, Any]], path: Path) -> None:
    """Kept share of the return against the share of the FLOPs, a panel for each teacher."""
    runs_by_agent = by_agent(results, "dagger")
    n_columns = min(4, len(runs_by_agent))
    n_rows = -(-len(runs_by_agent) // n_columns)
    figure = Figure(figsize=(3.2 * n_columns, 2.7 * n_rows), layout="constrained")
    panels = figure.subplots(n_rows, n_columns, squeeze=False).ravel()
    for axes, (name, runs) in zip(panels, runs_by_agent.items(), strict=False):
        for run in runs:
            (teacher,) = of_kind(run, "teacher")
            for kind, mark in (("student", "o-"), ("switching", "D")):
                found = of_kind(run, kind)
                shares = [agent["flops_per_inference"] / teacher["flops_per_inference"] for agent in found]
                color = "tab:blue" if kind == "student" else "tab:red"
                axes.plot(shares, [100 * agent["kept"] for agent in found], mark, color=color, alpha=0.6, markersize=3)
        axes.axhline(98, linestyle=":", color="gray")
        axes.set(title=name.replace("_", " "), xscale="log", ylim=(70, 112))
        axes.grid(alpha=0.3)
    for axes in panels[len(runs_by_agent) :]:
        axes.axis("off")
    figure.supxlabel("share of the teacher's FLOPs (blue: students, red: switching; a line for each seed)")
    figure.supylabel("% of the return kept")
    figure.savefig(path, dpi=110)
