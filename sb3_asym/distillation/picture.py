"""The picture of a distillation: return against FLOPs. Needs the extra ``plots`` (matplotlib)."""

from pathlib import Path
from typing import TYPE_CHECKING

from sb3_asym.distillation.report import DistillationReport

if TYPE_CHECKING:
    from matplotlib.figure import Figure

MARKS = {
    "teacher": ("*", "black", 180),
    "student": ("o", "tab:blue", 40),
    "int8": ("s", "tab:cyan", 22),
    "switching": ("D", "tab:red", 36),
    "random switching": ("x", "tab:gray", 36),
}
"""Marker, color and size of each kind of agent."""


def draw_report(report: DistillationReport, keep: float | None = None, path: str | Path | None = None) -> "Figure":
    """
    Return against FLOPs per inference of all agents, with the Pareto front and the chosen one.

    :param report: the report
    :param keep: share of the teacher's return that was to be kept, for a line
    :param path: file to write, if any
    :return: the figure
    """
    from matplotlib.figure import Figure

    figure = Figure(figsize=(7.5, 4.8), layout="constrained")
    axes = figure.subplots()
    for kind, (marker, color, size) in MARKS.items():
        found = [candidate for candidate in report.candidates if candidate.kind == kind]
        if not found:
            continue
        flops, rewards = [c.flops_per_inference for c in found], [c.mean_reward for c in found]
        axes.scatter(flops, rewards, marker=marker, c=color, s=size, label=kind, zorder=3)
        if kind in ("student", "teacher"):
            errors = [candidate.std_reward for candidate in found]
            axes.errorbar(flops, rewards, yerr=errors, fmt="none", ecolor=color, alpha=0.3, zorder=2)
    front = [candidate for candidate in report.candidates if candidate.on_front]
    flops, rewards = [c.flops_per_inference for c in front], [c.mean_reward for c in front]
    axes.plot(flops, rewards, "-", color="tab:blue", alpha=0.5, zorder=1)
    teacher = report.teacher
    if keep is not None:
        kept = teacher.mean_reward - (1 - keep) * abs(teacher.mean_reward)
        axes.axhline(kept, linestyle=":", color="gray", label=f"{100 * keep:g}% of the teacher's return")
    best = report.best
    if best is not None:
        axes.scatter(
            best.flops_per_inference, best.mean_reward, s=170, facecolors="none", edgecolors="black", label="chosen", zorder=4
        )
        share = best.flops_per_inference / teacher.flops_per_inference
        label = f"{best.name}\n{share:.1%} of the FLOPs"
        at = (best.flops_per_inference, best.mean_reward)
        side = "right" if share > 0.03 else "left"
        axes.annotate(label, at, (-8, -30), textcoords="offset points", ha=side, fontsize=8)
    axes.set(xlabel="FLOPs per inference", ylabel="return", xscale="log", title=report.env)
    axes.legend(fontsize=8)
    axes.grid(alpha=0.3)
    if path is not None:
        figure.savefig(path, dpi=130)
    return figure
