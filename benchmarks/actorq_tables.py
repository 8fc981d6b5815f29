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
PRECISIONS = ("int8", "fp32")
GOAL, SMOOTHED = -300, 3
"""The return that is to be reached, as a mean over so many evaluations in a row."""


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
        f"{benches[0]['env']}: env steps of an actor per second of processor time, medians of {n_rounds} rounds that "
        f"alternate between the columns, new weights every {benches[0]['pull_every']:,} steps; two cores that other "
        f"processes were busy on too. Pull and load, and packing, are int8's. {installed}."
    )
    return "\n".join([*lines, "", note])


def learning_table(result: dict[str, Any]) -> str:
    """Markdown: time to the goal with int8 and fp32 actors."""
    lines = [
        "| actors | env steps per second, by seed | seconds to the goal | env steps to the goal | last five evaluations |",
        "|---|---|---|---|---|",
    ]
    speeds, times = {}, {}
    for precision in PRECISIONS:
        runs = [run for run in result["learning"] if run["precision"] == precision]
        speeds[precision] = [run["curve"][-1][0] / run["curve"][-1][1] for run in runs]
        reached = [goal_reached(run) for run in runs]
        times[precision] = [seconds for _, seconds in reached]
        last = [np.mean([reward for *_, reward in run["curve"][-5:]]) for run in runs]
        cells = [
            precision,
            ", ".join(f"{speed:,.0f}" for speed in speeds[precision]),
            ", ".join(f"{seconds:,.0f}" for seconds in times[precision]),
            ", ".join(f"{steps:,.0f}" for steps, _ in reached),
            ", ".join(f"{reward:,.0f}" for reward in last),
        ]
        lines.append(f"| {' | '.join(cells)} |")
    speed = np.median(speeds["int8"]) / np.median(speeds["fp32"])
    time = np.median(times["fp32"]) / np.median(times["int8"])
    note = (
        f"Pendulum-v1, TD3 whose actor has three layers of 2048 units; the goal is a return of {GOAL} over {SMOOTHED} "
        "evaluations of the actors' own policy in a row, 10 episodes each. Int8 ÷ fp32, medians over the seeds: env steps per "
        f"second {speed:.2f}, seconds to the goal 1 ÷ {time:.2f}. The time of learning alone, one run after the other, on two "
        "cores whose rest other processes used."
    )
    return "\n".join([*lines, "", note])


def goal_reached(run: dict[str, Any]) -> tuple[float, float]:
    """Env steps and seconds after which the mean of some evaluations in a row reached the goal; infinite where it did not."""
    rewards = np.array([reward for *_, reward in run["curve"]])
    smooth = np.convolve(rewards, np.ones(SMOOTHED) / SMOOTHED, "valid")
    found = np.flatnonzero(smooth >= GOAL)
    return tuple(run["curve"][found[0] + SMOOTHED - 1][:2]) if len(found) else (np.inf, np.inf)


def learning_picture(result: dict[str, Any], path: Path) -> None:
    """Returns against env steps and against time, a line for each seed."""
    figure = Figure(figsize=(10, 3.2), layout="constrained")
    for axes, column, name in zip(figure.subplots(1, 2, sharey=True), (0, 1), ("env steps", "seconds"), strict=True):
        for precision, color in zip(PRECISIONS, ("tab:red", "tab:blue"), strict=True):
            for run in (run for run in result["learning"] if run["precision"] == precision):
                curve = np.array(run["curve"])
                axes.plot(curve[:, column], curve[:, 2], color=color, alpha=0.6, label=f"{precision}, seed {run['seed']}")
        axes.axhline(GOAL, linestyle=":", color="gray")
        axes.set(xlabel=name)
        axes.grid(alpha=0.3)
    figure.axes[0].set(ylabel="return")
    figure.axes[1].legend(fontsize=7)
    figure.savefig(path, dpi=110)


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
