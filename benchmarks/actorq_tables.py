"""The tables and the picture of ``results/actorq.json`` and ``results/actorq_faults.json``, for ``draw.py``."""

from pathlib import Path
from typing import Any

import numpy as np
from matplotlib.figure import Figure

NAMES = {
    ("c", "int8"): "our C, int8",
    ("c", "fp32"): "our C, fp32",
    ("c", "fp16"): "our C, fp16",
    ("onnx", "fp32"): "ONNX Runtime, fp32",
    ("torch", "fp32"): "torch, fp32",
}


def medians(bench: dict[str, Any]) -> dict[str, float]:
    """Env steps per second of processor time, by contender."""
    return {NAMES[row["kernel"], row["precision"]]: float(np.median(row["steps_per_cpu_second"])) for row in bench["rows"]}


def actors_table(result: dict[str, Any]) -> str:
    """Markdown: speed of actors by width of the policy."""
    benches = sorted(result["actors"], key=lambda bench: -bench["net_arch"][0])
    lines = [
        "| three layers of | " + " | ".join(NAMES.values()) + " | int8 ÷ torch | int8 ÷ best fp32 | pull and load | packing |"
    ]
    lines.append("|---" * (len(NAMES) + 5) + "|")
    for bench in benches:
        speeds = medians(bench)
        int8 = speeds["our C, int8"]
        best = max(speed for name, speed in speeds.items() if name.endswith("fp32"))
        row = bench["rows"][0]
        cells = [str(bench["net_arch"][0]), *(f"{speeds[name]:,.0f}" if name in speeds else "" for name in NAMES.values())]
        cells += [f"{int8 / speeds['torch, fp32']:.2f}", f"{int8 / best:.2f}", f"{row['pull_and_load']:.2%}"]
        cells.append(f"{row['pack_ms'] + row['publish_ms']:.1f} ms")
        lines.append(f"| {' | '.join(cells)} |")
    n_rounds = len(benches[0]["rows"][0]["steps_per_cpu_second"])
    installed = ", ".join(f"{name} {version}" for name, version in result["versions"].items())
    note = (
        f"{benches[0]['env']}: env steps of an actor per second of processor time, medians of {n_rounds} rounds that alternate "
        f"between the columns, new weights every {benches[0]['pull_every']:,} steps; two cores that other processes were busy "
        f"on too. Pull and load, and packing, are int8's. {installed}."
    )
    return "\n".join([*lines, "", note])


def learning_table(result: dict[str, Any]) -> str:
    """Markdown: time to the goal with int8 and fp32 actors."""
    lines = ["| actors | seeds | seconds to the goal | env steps per second | best return |", "|---|---|---|---|---|"]
    for precision in ("int8", "fp32"):
        runs = [run for run in result["learning"] if run["precision"] == precision]
        if not runs:
            continue
        seconds = [run["seconds_to_goal"] for run in runs]
        reached = ", ".join("not reached" if s is None else f"{s:,.0f}" for s in seconds)
        speed = np.mean([run["steps_per_second"] for run in runs])
        best = np.mean([max(reward for _, _, reward in run["curve"]) for run in runs])
        lines.append(f"| {precision} | {len(runs)} | {reached} | {speed:,.0f} | {best:,.0f} |")
    return "\n".join(lines)


def faults_table(result: dict[str, Any]) -> str:
    """Markdown: what became of killed actors and learners."""
    actors, learner = result["actors"], result["learner"]
    seconds = learner["seconds_until_actors_ended"]
    return "\n".join(
        [
            "| killed with SIGKILL | times | what was found |",
            "|---|---|---|",
            f"| an actor | {actors['kills']} | {actors['transitions']:,} transitions, {actors['doubled']} twice, "
            f"{actors['lost']} lost of those that were in flight, {actors['episodes_truncated']} episodes truncated |",
            f"| the learner | {learner['kills']} | actors ended within {seconds['greatest']:.1f} s (median "
            f"{seconds['median']:.1f} s), {learner['shared_memory_left']} blocks of shared memory left |",
        ]
    )


def actors_picture(result: dict[str, Any], path: Path) -> None:
    """Bars of the speed of actors, a panel for each width."""
    benches = sorted(result["actors"], key=lambda bench: -bench["net_arch"][0])
    figure = Figure(figsize=(4 * len(benches), 2.6), layout="constrained")
    for axes, bench in zip(figure.subplots(1, len(benches), squeeze=False)[0], benches, strict=True):
        speeds = medians(bench)
        colors = ["tab:red" if name.endswith("int8") else "tab:blue" for name in speeds]
        axes.barh(list(speeds), list(speeds.values()), color=colors)
        axes.invert_yaxis()
        axes.set(title=f"three layers of {bench['net_arch'][0]}", xlabel="env steps per CPU second")
    figure.savefig(path, dpi=110)
