"""Tables and pictures of ``results/cloud_edge_*.json``, for ``draw.py``."""

import json
from collections import defaultdict
from pathlib import Path
from textwrap import fill
from typing import Any

import numpy as np
from matplotlib.figure import Figure

AGENTS = ("frozen", "going on", "from nothing")
PARAMETERS = {
    "push_period": "time between policies, s",
    "latency": "latency, s",
    "bandwidth": "bandwidth, bytes/s",
    "prefill": "pre-fill, env steps",
    "freeze_actor": "actor frozen, env steps",
}


def note(result: dict[str, Any]) -> str:
    """What else ran, and versions."""
    machines = sorted({run["machine"].rpartition(", ")[2] for run in result["runs"].values()})
    installed = ", ".join(f"{name} {version}" for name, version in result["versions"].items())
    return f"{'; '.join(machines)}. {installed}."


def deadlines_table(result: dict[str, Any]) -> str:
    """Markdown: deadlines and ages of policies while training and streaming."""
    lines = [
        "| | deadlines | missed | most in a row | lateness, median | 99.9 % | greatest "
        "| longest stall of a core (stalls of 1 ms and more) | age of policies, 95 % | policies | load |",
        "|---" * 11 + "|",
    ]
    for name, run in result["runs"].items():
        if name == "swaps":
            continue
        late = run["lateness"]
        cells = [
            name,
            f"{run['deadlines']:,}",
            f"{run['missed'] / run['deadlines']:.3%}",
            str(run["most_missed_in_a_row"]),
            *(f"{1e3 * late[key]:.2f} ms" for key in ("p50", "p99.9", "max")),
            f"{1e3 * max(run['stalls']):.1f} ms" + (f" ({sum(run['n_stalls']):,})" if "n_stalls" in run else "")
            if "stalls" in run
            else "",
            f"{run['policy_age']['p95']:.2f} s",
            f"{run['swaps']:,}",
            run["machine"].split("load ")[1].partition(",")[0],
        ]
        lines.append(f"| {' | '.join(cells)} |")
    push = next(run["push_period"] for name, run in result["runs"].items() if name != "swaps")
    text = [
        f"A new policy every {push:g} s, taken at once; the learner trains on the same machine, beside others (see load). "
        "A stall is what a process of the highest priority on the same core overslept: no program ran there."
    ]
    if "swaps" in result["runs"]:
        swaps = result["runs"]["swaps"]
        text.append(
            f"Of {swaps['taken']:,} policies of {swaps['bytes'] // 1024} KiB that were taken while {swaps['written']:,} were "
            f"written as fast as can be, {swaps['torn']} were torn."
        )
    return "\n".join([*lines, "", f"{' '.join(text)} {note(result)}"])


def faults_table(result: dict[str, Any]) -> str:
    """Markdown: what was lost and doubled."""
    lines = ["| link | kills and outages | steps made | arrived | lost | doubled | minutes |", "|---" * 7 + "|"]
    for name, run in result["runs"].items():
        kills = ", ".join(f"{count} of {victim}" for victim, count in run["kills"].items())
        numbers = [f"{run[key]:,}" for key in ("made", "arrived", "lost", "doubled")]
        lines.append(f"| {name} | {kills} | {' | '.join(numbers)} | {run['seconds'] / 60:.0f} |")
    text = (
        "A step is lost where control is killed between the robot's step and its record: at most one for each such kill. The "
        f"outage lasted {max(run['outage'] for run in result['runs'].values()):.0f} s."
    )
    return "\n".join([*lines, "", f"{text} {note(result)}"])


def by_dynamics(result: dict[str, Any]) -> dict[tuple[str, str], dict[str, list[dict[str, Any]]]]:
    """Runs of each agent, by task and dynamics."""
    found: dict[tuple[str, str], dict[str, list[dict[str, Any]]]] = defaultdict(lambda: defaultdict(list))
    for run in result["runs"].values():
        found[run["task"], run["dynamics"]][run["agent"]].append(run)
    return found


def adaptation_table(result: dict[str, Any]) -> str:
    """Markdown: returns on unseen dynamics, and what the going-on agent reaches of the one that learned there from nothing."""
    lines = [
        "| task | unseen dynamics | seeds | frozen | going on | from nothing | random | reached | after steps |",
        "|---" * 9 + "|",
    ]
    for (task, dynamics), agents in by_dynamics(result).items():
        if set(AGENTS) - set(agents):
            continue
        means = {agent: float(np.mean([run["mean_reward"] for run in agents[agent]])) for agent in AGENTS}
        spreads = {agent: float(np.std([run["mean_reward"] for run in agents[agent]])) for agent in AGENTS}
        random = float(np.mean([run["random_reward"] for run in agents["frozen"]]))
        share = (means["going on"] - random) / (means["from nothing"] - random)
        settled = np.mean([value for run in agents["from nothing"] for _, value in run["curve"][-3:]])
        goal = random + 0.95 * (settled - random)
        curve = np.mean([run["curve"] for run in agents["going on"]], axis=0)
        bad = [index for index, (_, value) in enumerate(curve) if value < goal]
        reached = [int(step) for step, _ in curve[bad[-1] + 1 if bad else 0 :]]
        cells = [task, dynamics, str(len(agents["going on"]))]
        cells += [f"{means[agent]:,.0f}\u00a0±\u00a0{spreads[agent]:,.0f}" for agent in AGENTS]
        cells += [f"{random:,.0f}", f"{share:.0%}", f"{reached[0]:,}" if reached else "never"]
        lines.append(f"| {' | '.join(cells)} |")
    text = (
        "Return at the end, mean ± standard deviation over the seeds. *Reached*: return of the going-on agent over that of "
        "the one from nothing, both above random actions; *after steps*: from there on its curve, three episodes at each "
        "point, stays at 95 % of where the other one settles."
    )
    return "\n".join([*lines, "", f"{text} {note(result)}"])


def adaptation_picture(result: dict[str, Any], path: Path) -> None:
    """Learning curves on each of the unseen dynamics, lowest to highest seed."""
    found = by_dynamics(result)
    figure = Figure(figsize=(3.6 * min(len(found), 4), 3.2 * -(-len(found) // 4)), layout="constrained")
    panels = figure.subplots(-(-len(found) // 4), min(len(found), 4), squeeze=False)
    for axes, ((task, dynamics), agents) in zip(panels.flat, found.items(), strict=False):
        for agent, color in zip(AGENTS, ("tab:gray", "tab:green", "tab:blue"), strict=True):
            if agent in agents:
                curves = np.array([run["curve"] for run in agents[agent]])
                steps, values = curves[0, :, 0], curves[:, :, 1]
                if agent == "frozen":  # it stays where it is
                    steps, values = np.array([0, agents["going on"][0]["steps"]]), np.repeat(values, 2, axis=1)
                axes.plot(steps, values.mean(0), color=color, label=agent)
                axes.fill_between(steps, values.min(0), values.max(0), color=color, alpha=0.2)
        axes.set(title=fill(f"{task}: {dynamics}", 36), xlabel="env steps on it", ylabel="return")
        axes.title.set_fontsize(9)
        axes.grid(alpha=0.3)
    panels.flat[0].legend(fontsize=8)
    figure.savefig(path, dpi=110)


def changed_parameter(run: dict[str, Any], base: dict[str, Any]) -> tuple[str, Any] | None:
    """The parameter in which a run differs from the base, and its value; None for another one."""
    changed = [name for name in PARAMETERS if run[name] != base[name]]
    if run["dynamics"] != base["dynamics"]:
        return "friction", run["changes"]["friction"]
    return (changed[0], run[changed[0]]) if changed else None


def by_parameter(result: dict[str, Any]) -> dict[str, dict[float, list[dict[str, Any]]]]:
    """Runs by parameter and value; those of the base stand in each parameter."""
    runs = list(result["runs"].values())
    base = runs[0]
    found: dict[str, dict[float, list[dict[str, Any]]]] = defaultdict(lambda: defaultdict(list))
    for run in runs:
        changed = changed_parameter(run, base)
        if changed is None:
            for name in PARAMETERS:
                found[name][run[name]].append(run)
        else:
            found[changed[0]][changed[1]].append(run)
    return found


def parameters_table(result: dict[str, Any]) -> str:
    """Markdown: return of the going-on agent with one parameter changed at a time."""
    lines = ["| parameter | value | seeds | return at the start | least on the way | at the end |", "|---" * 6 + "|"]
    for name, values in by_parameter(result).items():
        for value, runs in sorted(values.items()):
            curves = np.array([run["curve"] for run in runs])[:, :, 1]
            numbers = curves[:, 0], curves.min(1), curves[:, -2:].mean(1)
            cells = [PARAMETERS.get(name, name), f"{value:g}", str(len(runs))]
            cells += [f"{number.mean():,.0f}" for number in numbers]
            lines.append(f"| {' | '.join(cells)} |")
    task = next(iter(result["runs"].values()))
    text = f"{task['task']}, {task['dynamics']} unless friction is changed; {task['steps']:,} steps, three episodes a point."
    return "\n".join([*lines, "", f"{text} {note(result)}"])


def parameters_picture(result: dict[str, Any], path: Path) -> None:
    """Learning curves with one parameter changed at a time."""
    found = by_parameter(result)
    figure = Figure(figsize=(11, 3.1 * -(-len(found) // 3)), layout="constrained")
    panels = figure.subplots(-(-len(found) // 3), 3, squeeze=False)
    for axes, (name, values) in zip(panels.flat, found.items(), strict=False):
        for value, runs in sorted(values.items()):
            curves = np.array([run["curve"] for run in runs])
            axes.plot(curves[0, :, 0], curves[:, :, 1].mean(0), label=f"{value:g}")
        axes.set(title=PARAMETERS.get(name, name), xlabel="env steps", ylabel="return")
        axes.legend(fontsize=7)
        axes.grid(alpha=0.3)
    figure.savefig(path, dpi=110)


def cloud_edge_tables(folder: Path) -> dict[str, str]:
    """Tables of all results that are there, by name; pictures are drawn beside them."""
    tables = {}
    for name, table, picture in (
        ("deadlines", deadlines_table, None),
        ("faults", faults_table, None),
        ("adapt", adaptation_table, adaptation_picture),
        ("parameters", parameters_table, parameters_picture),
    ):
        path = folder / f"cloud_edge_{name}.json"
        if path.exists():
            result = json.loads(path.read_text())
            tables[f"cloud edge, {name}"] = table(result)
            if picture is not None:
                picture(result, path.with_suffix(".png"))
    return tables
