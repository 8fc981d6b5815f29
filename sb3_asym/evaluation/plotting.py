"""Plots: timeline of the sub-policies, learning curves, return against cost. Needs the extra ``plots`` (matplotlib)."""

from collections.abc import Mapping, Sequence
from itertools import pairwise
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from sb3_asym.evaluation.report import EvaluationReport
from sb3_asym.evaluation.rollout import EpisodeRecord

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

# From light (cheap) to dark (expensive).
CHEAP_TO_EXPENSIVE = ("#9ecae1", "#08519c")


def option_colors(n_options: int) -> list[Any]:
    """
    Colors of the sub-policies.

    :param n_options: number of sub-policies
    :return: color of each sub-policy, from light (cheapest) to dark (most expensive)
    """
    from matplotlib.colors import LinearSegmentedColormap

    colormap = LinearSegmentedColormap.from_list("cheap to expensive", CHEAP_TO_EXPENSIVE)
    return [colormap(i / (n_options - 1)) for i in range(n_options)]


def timeline(
    record: EpisodeRecord,
    path: str | Path | None = None,
    dimensions: Sequence[int] | None = None,
    labels: Sequence[str] | None = None,
    title: str = "",
) -> "Figure":
    """
    Draw an episode with the sub-policy in force at each step (Chang et al. 2021, figures 2 and 3).

    A strip shows the sub-policies, below a plot of reward and return or of chosen observation dimensions. Pictures of the
    env are at the top, where the record has any.

    :param record: episode from :func:`sb3_asym.evaluation.record_episode`
    :param path: path of the image file to write, or None
    :param dimensions: indices of observation dimensions to plot instead of reward and return
    :param labels: names of these dimensions
    :param title: title of the figure; by default the return
    :return: the figure
    :raises ValueError: if there is no such dimension
    """
    from matplotlib.figure import Figure
    from matplotlib.patches import Patch

    n_steps, n_dimensions = len(record.options), record.observations.shape[1]
    if dimensions is not None and not all(0 <= d < n_dimensions for d in dimensions):
        raise ValueError(f"Observation dimensions go from 0 to {n_dimensions - 1}, got {list(dimensions)}.")
    ratios = {"frames": 1.0, "curve": 2.0, "strip": 0.45}
    if not record.frames:
        del ratios["frames"]
    figure = Figure(figsize=(10, 1.3 * sum(ratios.values()) + 0.6), layout="constrained")
    axes = dict(zip(ratios, figure.subplots(len(ratios), height_ratios=list(ratios.values())), strict=True))
    if record.frames:
        _draw_frames(axes["frames"], record.frames)
    colors = option_colors(len(record.option_names))
    for start, end, option in runs_of_options(record.options):
        for axis, alpha in ((axes["strip"], 1.0), (axes["curve"], 0.25)):
            axis.axvspan(start, end, color=colors[option], alpha=alpha, linewidth=0)
    if dimensions is None:
        axes["curve"].plot(np.arange(n_steps), record.rewards, color="black", linewidth=1)
        axes["curve"].set_ylabel("reward")
        return_axis = axes["curve"].twinx()
        return_axis.plot(np.arange(n_steps), record.rewards.cumsum(), color="tab:red", linewidth=1)
        return_axis.set_ylabel("return so far", color="tab:red")
    else:
        for i, dimension in enumerate(dimensions):
            label = labels[i] if labels else f"obs[{dimension}]"
            axes["curve"].plot(record.observations[:, dimension], linewidth=1, label=label)
        axes["curve"].legend(fontsize=8)
    axes["curve"].set_xlim(0, n_steps)
    axes["curve"].tick_params(labelbottom=False)
    axes["strip"].set(xlim=(0, n_steps), yticks=[], xlabel="env step", ylabel="in force")
    shares = np.bincount(record.options, minlength=len(colors)) / n_steps
    patches = [
        Patch(color=color, label=f"{name} ({share:.0%})")
        for color, name, share in zip(colors, record.option_names, shares, strict=True)
    ]
    figure.legend(handles=patches, loc="outside upper right", ncols=len(colors), frameon=False)
    figure.suptitle(title or f"return {record.rewards.sum():.1f}", x=0.01, ha="left")
    return _save(figure, path)


def runs_of_options(options: np.ndarray) -> list[tuple[int, int, int]]:
    """
    Split an episode into runs of steps with the same option.

    :param options: ``(n_steps,)`` options in force
    :return: first step, step after the last one, and option of each run
    """
    edges = [0, *(np.flatnonzero(np.diff(options)) + 1).tolist(), len(options)]
    return [(start, end, int(options[start])) for start, end in pairwise(edges)]


def learning_curves(
    curves: Mapping[str, tuple[np.ndarray, np.ndarray]],
    path: str | Path | None = None,
    title: str = "",
    axes: "Axes | None" = None,
) -> "Figure":
    """
    Draw returns over training: the mean and, with several rows, the range from the lowest to the highest.

    :param curves: timesteps ``(n_points,)`` and returns ``(n_rows, n_points)`` by label, with a row for each seed or episode
    :param path: path of the image file to write, or None
    :param title: title of the figure
    :param axes: axes to draw on; by default those of a new figure
    :return: the figure
    """
    from matplotlib.figure import Figure

    if axes is None:
        axes = Figure(figsize=(7, 4), layout="constrained").subplots()
    for label, (timesteps, returns) in curves.items():
        returns = np.atleast_2d(returns)
        (line,) = axes.plot(timesteps, returns.mean(axis=0), label=label)
        if len(returns) > 1:
            axes.fill_between(
                timesteps, returns.min(axis=0), returns.max(axis=0), color=line.get_color(), alpha=0.15, linewidth=0
            )
    axes.set(xlabel="env steps", ylabel="return", title=title)
    axes.legend(fontsize=8)
    axes.grid(alpha=0.3)
    return _save(axes.get_figure(root=True), path)


def pareto_front(
    points: Sequence[tuple[float, float]],
    best: Sequence[bool],
    alone: Mapping[str, tuple[float, float]],
    path: str | Path | None = None,
    title: str = "",
    values: tuple[str, Sequence[float]] | None = None,
) -> "Figure":
    """
    Draw return against cost of many agents, with a line through the best ones.

    :param points: FLOPs per inference and return of each agent
    :param best: True for each agent that is one of the best
    :param alone: FLOPs per inference and return of each sub-policy alone, by its name
    :param path: path of the image file to write, or None
    :param title: title of the figure
    :param values: name of the setting that differs between the agents, and its positive value for each agent, shown as colors
        on a logarithmic scale
    :return: the figure
    """
    from matplotlib.colors import LogNorm
    from matplotlib.figure import Figure

    axes = Figure(figsize=(7, 4.5), layout="constrained").subplots()
    flops, returns = np.array(points).reshape(-1, 2).T
    name, numbers = values or ("", np.ones(len(points)))
    dots = axes.scatter(flops, returns, c=numbers, norm=LogNorm(), cmap="viridis", zorder=3)
    if values is not None:
        axes.figure.colorbar(dots, label=name)
    chosen = np.flatnonzero(best)
    chosen = chosen[np.argsort(flops[chosen])]
    axes.plot(flops[chosen], returns[chosen], "-", color="gray", zorder=2)
    axes.scatter(flops[chosen], returns[chosen], s=110, facecolors="none", edgecolors="black", label="best", zorder=4)
    for (label, (x, y)), marker in zip(alone.items(), "sD^vP*X", strict=False):
        axes.scatter(x, y, marker=marker, color="tab:red", label=f"{label} alone", zorder=5)
    axes.set(xlabel="FLOPs per inference", ylabel="return", xscale="log", title=title)
    axes.legend(fontsize=8)
    axes.grid(alpha=0.3)
    return _save(axes.get_figure(root=True), path)


def switching(report: EvaluationReport, path: str | Path | None = None, title: str = "") -> "Figure":
    """
    Draw return against cost of one agent: under each λ of its dial, random switching at the same use, each sub-policy alone,
    and the Pareto front of all.

    :param report: report of :func:`sb3_asym.evaluation.evaluate`
    :param path: path of the image file to write, or None
    :param title: title of the figure
    :return: the figure
    """
    from matplotlib.figure import Figure

    kinds: dict[str, list[EvaluationReport]] = {"dial": [], "random switching": [], "alone": []}
    for other in report.comparisons:
        random = other.name.startswith("random switching")
        kinds["dial" if other.cost_coef is not None else "random switching" if random else "alone"].append(other)
    kinds["dial" if kinds["dial"] else "agent"] = kinds["dial"] or [report]
    axes = Figure(figsize=(7, 4.5), layout="constrained").subplots()
    styles = {"dial": ("o", "tab:green"), "agent": ("o", "tab:green"), "random switching": ("x", "tab:gray")}
    for kind, (marker, color) in styles.items():
        reports = sorted(kinds.get(kind, []), key=lambda r: r.flops_per_inference)
        if reports:
            flops, returns = ([getattr(r, name) for r in reports] for name in ("flops_per_inference", "mean_reward"))
            axes.plot(flops, returns, marker=marker, color=color, linewidth=1, label=kind, zorder=3)
    for other, marker in zip(kinds["alone"], "sD^vP*X", strict=False):
        axes.scatter(other.flops_per_inference, other.mean_reward, marker=marker, color="tab:red", label=other.name, zorder=4)
    front = _front([(r.flops_per_inference, r.mean_reward) for r in (report, *report.comparisons)])
    axes.step(*zip(*front, strict=True), where="post", color="black", linewidth=0.8, linestyle="--", label="Pareto front")
    axes.set(xlabel="FLOPs per inference", ylabel="return", xscale="log", title=title)
    axes.legend(fontsize=8)
    axes.grid(alpha=0.3)
    return _save(axes.get_figure(root=True), path)


def _front(points: Sequence[tuple[float, float]]) -> list[tuple[float, float]]:
    """The points than which none is both cheaper and better, from cheap to expensive."""
    best: list[tuple[float, float]] = []
    for flops, value in sorted(points, key=lambda point: (point[0], -point[1])):
        if not best or value > best[-1][1]:
            best.append((flops, value))
    return best


def _draw_frames(axis: "Axes", frames: Mapping[int, np.ndarray]) -> None:
    """Draw up to ten evenly spaced pictures of the env side by side, each with its step."""
    chosen = sorted(frames)[:: -(-len(frames) // 10)]
    width = 1 / len(chosen)
    axis.axis("off")
    for i, step in enumerate(chosen):
        inset = axis.inset_axes((i * width, 0, width * 0.96, 0.9))
        inset.imshow(frames[step])
        inset.set_title(f"step {step}", fontsize=7, pad=2)
        inset.axis("off")


def _save(figure: Any, path: str | Path | None) -> "Figure":
    """Write a figure to an image file, if there is a path, and return the figure."""
    if path is not None:
        Path(path).parent.mkdir(parents=True, exist_ok=True)
        figure.savefig(path, dpi=130)
    return figure
