"""The picture of a sweep: return against bytes, and the width of weights against their error. Needs the extra ``plots``."""

from collections import defaultdict
from pathlib import Path
from typing import TYPE_CHECKING

from sb3_asym.quantization.report import Form, SweepReport
from sb3_asym.quantization.schemes import Scheme

if TYPE_CHECKING:
    from matplotlib.figure import Figure


def family(scheme: Scheme) -> str:
    """
    The schemes that differ in bits alone.

    :param scheme: scheme
    :return: name of the family, in words
    """
    if scheme.is_float:
        return "floats"
    settings = [
        "for each output" if scheme.per_output else "one grid a layer",
        *([] if scheme.symmetric else ["affine"]),
        *(["GPTQ"] if scheme.gptq else []),
    ]
    kind = "weights" if scheme.activation_bits is None else "weights and activations"
    return f"{kind}, {', '.join(settings)}"


def draw_sweep(report: SweepReport, path: str | Path | None = None) -> "Figure":
    """
    Return against bytes with the 95 % interval of the difference to fp32, and for each layer the mean error of its weights
    against the width of their distribution (QuaRL's link between them).

    :param report: the report
    :param path: file to write, if any
    :return: the figure
    """
    from matplotlib.figure import Figure

    figure = Figure(figsize=(12, 4.8), layout="constrained")
    returns, link = figure.subplots(1, 2)
    families: dict[str, list[Form]] = defaultdict(list)
    for form in report.forms:
        families[family(Scheme.parse(form.scheme))].append(form)
    before = report.form("fp32").mean_reward
    size = max(abs(before), 1e-9)
    for name, forms in families.items():
        rewards = [form.mean_reward for form in forms]
        below = [max(0, (form.error_interval[1] - form.relative_error) * size) for form in forms]
        above = [max(0, (form.relative_error - form.error_interval[0]) * size) for form in forms]
        returns.errorbar(
            [form.n_bytes for form in forms], rewards, (below, above), fmt="o-", markersize=4, capsize=2, label=name
        )
        for form in forms:
            bits = Scheme.parse(form.scheme).weight_bits
            returns.annotate(str(bits), (form.n_bytes, form.mean_reward), (3, 3), textcoords="offset points", fontsize=7)
    returns.axhline(before - report.tolerance * size, linestyle=":", color="gray", label=f"{report.tolerance:.1%} less")
    best = report.form(report.smallest)
    returns.scatter(
        best.n_bytes, best.mean_reward, s=150, facecolors="none", edgecolors="black", label=f"smallest: {best.scheme}"
    )
    returns.set(xlabel="bytes", ylabel="return", xscale="log", title=f"{report.algorithm} {report.env}: bits of the weights")
    for form in report.forms:
        scheme = Scheme.parse(form.scheme)
        if not scheme.is_float and not scheme.needs_observations:
            layers = sorted(form.layers, key=lambda layer: layer.width)
            style = "o-" if scheme.per_output else "s--"
            widths, found = [layer.width for layer in layers], [layer.error for layer in layers]
            link.plot(widths, found, style, markersize=4, alpha=0.8, label=form.scheme)
    link.set(
        xlabel="width of a layer's weights, greatest - least", ylabel="mean error of a weight", xscale="log", yscale="log"
    )
    link.set(title="the wider a layer's weights, the coarser its grid")
    for axes in (returns, link):
        if axes.get_legend_handles_labels()[1]:
            axes.legend(fontsize=7)
        axes.grid(alpha=0.3)
    if path is not None:
        figure.savefig(path, dpi=130)
    return figure
