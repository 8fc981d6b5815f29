"""Tables and pictures of ``results/switching_*.json``, for ``draw.py``."""

import json
from collections import defaultdict
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from matplotlib.figure import Figure
from scipy.stats import bootstrap, trim_mean

RESULTS = Path(__file__).parent / "results"
USES = (0.02, 0.05, 0.1, 0.2, 0.5)
"""Shares of the steps with the large network for which curves are compared."""
FIXED = {
    "sac large": "SAC, large",
    "sac large small-critic": "SAC, large actor, small critic",
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


def measured_before(task: str) -> list[dict[str, Any]]:
    """
    Stock SAC and the agents of release 0.1.0 on HalfCheetah-v5, whose starts are all but the same, as ``returns.py`` measured
    them: on other starts.
    """
    path = RESULTS / f"returns_{task}.json"
    if task != "HalfCheetah-v5" or not path.exists():
        return []
    labels = {label.replace(" ", "_").replace("-", "_"): label for label in FIXED}
    rows = json.loads(path.read_text())["rows"]
    return [{**row, "run": labels.get(row["run"], row["run"].replace("_", " "))} for row in rows]


def by_run(result: dict[str, Any]) -> dict[str, list[dict[str, Any]]]:
    """Rows of all seeds of each run."""
    shared = [f"shared {cost_coef:g}" for cost_coef in result["settings"]["shared"]]
    rows = {(row["run"], row["seed"]): row for row in measured_before(result["task"]) if row["run"] in [*shared, *FIXED]}
    rows |= {(row["run"], row["seed"]): row for row in result["rows"]}
    found = defaultdict(list)
    for (run, _), row in sorted(rows.items()):
        found[run].append(row)
    return dict(found)


def along(row: dict[str, Any], kind: str) -> list[dict[str, Any]]:
    """Measured points of a run, from the least use of the large network to the most."""
    alone = [point for point in row["comparisons"] if point["name"].endswith("alone")]
    under = [point for point in row["comparisons"] if point["cost_coef"] is not None]
    random = [point for point in row["comparisons"] if point["name"].startswith("random switching, as")]
    if kind == RANDOM[1]:
        found = [*alone, *({**point, "option_use": {"large": point["use"]}} for point in row["mixtures"])]
    else:
        found = under if kind == "dial" else [*alone, *random]
    return sorted(found, key=lambda point: point["option_use"]["large"])


def at(row: dict[str, Any], kind: str, use: float) -> dict[str, float]:
    """
    Return and FLOPs where the large network is in force for a share of the steps, or as near as the run comes to it. Between
    two points of a curve lies what taking one or the other by chance, episode by episode, returns: where the episodes of one
    are longer, fewer of them make up its share of the steps.
    """
    curve = along(row, kind)
    uses = [point["option_use"]["large"] for point in curve]
    use = float(np.clip(use, uses[0], uses[-1]))
    right = min(int(np.searchsorted(uses, use)), len(curve) - 1)
    left = max(right - 1, 0)
    low, high = curve[left], curve[right]
    steps = (use - uses[left]) / (uses[right] - uses[left]) if uses[right] > uses[left] else 1.0
    # Lengths of mixtures of generalists were not noted at first: then as if they were equal.
    known = "mean_length" in low and "mean_length" in high
    lengths = (low["mean_length"], high["mean_length"]) if known else (1.0, 1.0)
    episodes = (steps / lengths[1]) / ((1 - steps) / lengths[0] + steps / lengths[1])
    return {
        "use": use,
        "mean_reward": (1 - episodes) * low["mean_reward"] + episodes * high["mean_reward"],
        "flops_per_inference": (1 - steps) * low["flops_per_inference"] + steps * high["flops_per_inference"],
    }


def within(row: dict[str, Any], budget: float = 0.4) -> dict[str, Any]:
    """The λ that ``set_budget`` begins with, of a dial's curve, but fixed."""
    large = next(point for point in row["comparisons"] if point["name"] == "large alone")["flops_per_inference"]
    under = sorted((p for p in row["comparisons"] if p["cost_coef"] is not None), key=lambda point: point["cost_coef"])
    return next(point for point in under if point["flops_per_inference"] <= budget * large)


RANDOM = ("random, the dial's actors", "random, generalist actors")
BUDGET = "budget, auto_0.4"
WITHIN = "dial, least λ within 40 %"
SHARED = "shared critic, DQN master"
CURVES = {"dial": "dial", RANDOM[0]: "dial", RANDOM[1]: "generalists"}
"""Ways to switch, each with the run that it was measured in."""
STYLES = {
    "dial": ("o", "tab:blue"),
    RANDOM[0]: ("s", "tab:orange"),
    RANDOM[1]: ("^", "tab:green"),
    WITHIN: ("v", "tab:cyan"),
    "the dial's small alone": ("<", "tab:blue"),
    "the dial's large alone": (">", "tab:blue"),
    BUDGET: ("X", "tab:red"),
    FIXED["sac large"]: ("P", "black"),
    FIXED["sac large small-critic"]: ("h", "tab:pink"),
    FIXED["sac small large-critic"]: ("*", "tab:brown"),
    FIXED["sac small"]: ("D", "tab:gray"),
    SHARED: ("p", "tab:purple"),
}
"""Marker and color of each kind in the pictures of all tasks."""


def points(result: dict[str, Any]) -> dict[str, dict[str, list[dict[str, Any]]]]:
    """What the plane of return and cost shows: for each kind its settings, each of which is a list over the seeds."""
    rows = by_run(result)
    found: dict[str, dict[str, list[dict[str, Any]]]] = defaultdict(dict)
    for kind, run in CURVES.items():
        if run in rows:
            found[kind] = {f"{use:.0%}": [at(row, kind, use) for row in rows[run]] for use in USES}
    if "dial" in rows:
        found[WITHIN][""] = [within(row) for row in rows["dial"]]
    for seeds in zip(*(row["comparisons"] for row in rows.get("dial", [])), strict=True):
        if seeds[0]["name"].endswith("alone"):
            found[f"the dial's {seeds[0]['name']}"][""] = list(seeds)
    for run, seeds in rows.items():
        if run.startswith("shared"):
            found[SHARED][f", λ = {run.split()[1]}"] = seeds
        elif run.startswith("auto"):
            found[BUDGET][""] = seeds
        elif run in FIXED:
            found[FIXED[run]][""] = seeds
    return found


def gain(ours: Sequence[float], others: Sequence[float], same_agents: bool) -> str:
    """How much more one way to act returns than another, with its 95 % interval over the seeds of both."""
    if min(len(ours), len(others)) < 2:
        return ""

    def difference(ours: np.ndarray, others: np.ndarray, axis: int = -1) -> np.ndarray:
        return interquartile_mean(ours, axis) - interquartile_mean(others, axis)

    samples = np.array(ours), np.array(others)
    found = bootstrap(samples, difference, n_resamples=2000, method="percentile", paired=same_agents, rng=0)
    bounds = found.confidence_interval
    return f"{difference(*samples):+,.0f}\u00a0[{bounds.low:+,.0f}, {bounds.high:+,.0f}]"


def gains(result: dict[str, Any], kind: str, setting: str) -> list[str]:
    """What agents with a dial or a budget return more than random switching at the same use, with either actors."""
    rows = by_run(result)

    def returns(kind: str, uses: Sequence[float]) -> list[float]:
        return [at(row, kind, use)["mean_reward"] for row, use in zip(rows.get(CURVES[kind], []), uses, strict=False)]

    if kind == "dial":
        own = [at(row, kind, float(setting.rstrip("%")) / 100) for row in rows["dial"]]
        uses = [point["use"] for point in own]  # where a dial does not come so far, chance is compared there
        rewards = [point["mean_reward"] for point in own]
        return [gain(rewards, returns(other, uses), CURVES[other] == "dial") for other in RANDOM]
    if kind != BUDGET:
        return ["", ""]
    own = [row["mean_reward"] for row in rows["auto_0.4"]]
    same = [
        point["mean_reward"] for row in rows["auto_0.4"] for point in row["comparisons"] if point["name"] == "random switching"
    ]
    mean_use = float(np.mean([row["option_use"]["large"] for row in rows["auto_0.4"]]))
    return [gain(own, same, True), gain(own, returns(RANDOM[1], [mean_use] * len(own)), False)]


def rises(result: dict[str, Any]) -> str:
    """By how much the use of the large network ever rises with λ."""
    steps = []
    for row in by_run(result).get("dial", []):
        under = sorted((p for p in row["comparisons"] if p["cost_coef"] is not None), key=lambda point: point["cost_coef"])
        steps.append(float(max(0.0, np.diff([point["option_use"]["large"] for point in under]).max())))
    if not steps:
        return ""
    return f"Greatest rise of its use from one λ to the next, by seed: {', '.join(f'{step:.1%}' for step in steps)}. "


def switching_table(result: dict[str, Any]) -> str:
    """Markdown: each way to act, its cost and its return."""
    lines = [
        "| | use of large | seeds | FLOPs | return | more than random, same actors | more than random, generalist actors |",
        "|---" * 7 + "|",
    ]
    for kind, settings in points(result).items():
        for setting, seeds in settings.items():
            label, uses = (kind, setting) if kind in CURVES else (kind + setting, "")
            if "option_use" in seeds[0]:
                uses = text([100 * row["option_use"]["large"] for row in seeds]) + "\u00a0%"
            cells = [label, uses, str(len(seeds)), text([row["flops_per_inference"] for row in seeds])]
            cells.append(text([row["mean_reward"] for row in seeds]))
            cells += gains(result, kind, setting)
            lines.append(f"| {' | '.join(cells)} |")
    settings, versions = result["settings"], result["versions"]
    own = {(row["run"], row["seed"]) for row in result["rows"]}
    imported = sorted(
        {row["seed"] for rows in by_run(result).values() for row in rows if (row["run"], row["seed"]) not in own}
    )
    before = ""
    if imported:
        seeds = ", ".join(map(str, imported))
        before = f"SAC and the shared critic, seeds {seeds}: by `returns.py` with sb3_asym 0.1.0, episodes from seed 0. "
    note = (
        f"{result['task']}, {settings['timesteps']:,} steps, small {settings['small']}, large {settings['large']} units. "
        f"Interquartile mean over the seeds and its 95 % bootstrap interval; a return is the mean of "
        f"{settings['n_eval_episodes']} held-out episodes; returns at a use lie between those that were measured. "
        f"{rises(result)}{before}"
        f"{', '.join(f'{name} {version}' for name, version in versions.items())}."
    )
    return "\n".join([*lines, "", note])


def switching_picture(result: dict[str, Any], path: Path) -> None:
    """Return against cost, with intervals. A kind that is far below all others is only named."""
    figure = Figure(figsize=(9.5, 5), layout="constrained")
    axes = figure.subplots()
    kinds = points(result)
    means = {
        kind: [interval([row["mean_reward"] for row in seeds])[0] for seeds in settings.values()]
        for kind, settings in kinds.items()
    }
    for kind in FIXED.values():
        others = [mean for other, values in means.items() if other != kind for mean in values]
        if kind in kinds and max(means[kind]) < 1.5 * min(others) - 0.5 * max(others):
            del kinds[kind]
            axes.plot([], [], " ", label=f"{kind}: {means[kind][0]:,.0f}, below")
    for kind, settings in kinds.items():
        marker, color = STYLES[kind]
        flops = [interval([row["flops_per_inference"] for row in seeds])[0] for seeds in settings.values()]
        returns = np.array([interval([row["mean_reward"] for row in seeds]) for seeds in settings.values()])
        spread = np.abs(returns[:, 1:] - returns[:, :1]).T
        line = "-" if kind in CURVES else ""
        axes.errorbar(
            flops, returns[:, 0], spread, marker=marker, color=color, linestyle=line, linewidth=1, capsize=2, label=kind
        )
    axes.set(xlabel="FLOPs per inference", ylabel="return", xscale="log", title=result["task"])
    axes.grid(alpha=0.3)
    figure.legend(fontsize=7, loc="outside right center")
    figure.savefig(path, dpi=110)


def switching_summary(results: list[dict[str, Any]], use: float = 0.1) -> str:
    """Markdown: each task at one use of the large network."""
    lines = [
        f"| task | seeds | large alone | dial, {use:.0%} large | random, same actors | random, generalists | small alone |",
        "|---" * 7 + "|",
    ]
    for result in results:
        rows, found = by_run(result), points(result)
        if len(rows.get("dial", [])) < 3:
            continue
        ways = (found["the dial's large alone"][""], *(found[kind][f"{use:.0%}"] for kind in CURVES))
        cells = [text([row["mean_reward"] for row in seeds]) for seeds in (*ways, found["the dial's small alone"][""])]
        lines.append(f"| {' | '.join([result['task'], str(len(rows['dial'])), *cells])} |")
    return "\n".join([*lines, "", "Interquartile mean over the seeds and its 95 % bootstrap interval; details on the page."])


def budget_table(results: list[dict[str, Any]]) -> str:
    """Markdown: what agents with a budget spend, and what they return."""
    lines = [
        "| task | spent, by seed | under the least λ | return | large alone | small alone | more than random, same actors "
        "| more than random, generalists |",
        "|---" * 8 + "|",
    ]
    for result in results:
        rows = by_run(result).get("auto_0.4", [])
        compared = [{point["name"]: point for point in row["comparisons"]} for row in rows]
        if len(rows) < 2:
            continue
        least = [next(point for point in row["comparisons"] if point["cost_coef"]) for row in rows]
        cells = [
            result["task"],
            ", ".join(f"{row['budget_share']:.2f}" for row in rows),
            ", ".join(f"{1 - point['flops_reduction']:.2f}" for point in least),
            text([row["mean_reward"] for row in rows]),
            *(text([named[f"{name} alone"]["mean_reward"] for named in compared]) for name in ("large", "small")),
            *gains(result, BUDGET, ""),
        ]
        lines.append(f"| {' | '.join(cells)} |")
    return "\n".join(lines)
