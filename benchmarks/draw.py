"""Draws the pictures and writes the tables of the results: ``python benchmarks/draw.py`` (or ``make pictures``).

From ``benchmarks/results/*.json`` come the pictures beside them, and the tables in README and docs/ between their
``<!-- results … -->`` marks. ``demo.json`` is the report that ``make demo`` writes.
"""

import json
import re
from pathlib import Path
from typing import Any

import numpy as np
from actorq_tables import actors_picture, actors_table, faults_table, learning_picture, learning_table
from cloud_edge_run_tables import cloud_edge_tables
from cloud_edge_tables import link_table
from critic_target_tables import critic_target_table
from distillation_tables import distillation_picture, distillation_tables
from matplotlib.figure import Figure
from quantization_aware_tables import aware_picture, aware_table
from quantization_tables import quantization_picture, quantization_summary, quantization_table, short_summary, width_text
from returns_tables import returns_picture, returns_table
from switching_tables import budget_table, switching_picture, switching_summary, switching_table

ROOT = Path(__file__).parent
RESULTS = ROOT / "results"
DOCS = ROOT.parent / "docs"
TEXTS = (ROOT.parent / "README.md", DOCS / "index.md", *(DOCS / "guide").glob("*.md"), *(DOCS / "modules").glob("*.md"))


def demo_table(report: dict[str, Any]) -> str:
    """Markdown: the report that ``make demo`` writes."""
    names = list(report["option_use"])
    lines = [
        f"| | return | {' | '.join(f'use of {name}' for name in names)} | FLOPs per inference | reduction |",
        "|---" * (4 + len(names)) + "|",
    ]
    for row in (report, *report["comparisons"]):
        uses = " | ".join(f"{row['option_use'][name]:.0%}" for name in names)
        score = f"{row['mean_reward']:.0f} ± {row['std_reward']:.0f}"
        lines.append(
            f"| {row['name']} | {score} | {uses} | {row['flops_per_inference']:,.0f} | {row['flops_reduction']:.1%} |"
        )
    return "\n".join([*lines, "", f"Mean ± standard deviation over {report['n_episodes']} episodes, one seed on one machine."])


def overhead_table(result: dict[str, Any]) -> str:
    """Markdown: time as multiples of stock SAC's."""
    heads = ("time ÷ stock SAC of the large size", "critic of options", "shared critic", "separate critics")
    lines = [f"| {' | '.join(heads)} |", "|---" * len(heads) + "|"]
    for name, key, update in (
        ("`predict`", "predict_time_over_sac", "plain"),
        ("`learn`, plain update", "learn_time_over_sac", "plain"),
        ("`learn`, compiled update", "learn_time_over_sac", "compiled"),
    ):
        ratios = (f"{result[key][f'{critic}, {update}']:.2f}" for critic in ("option", "shared", "separate"))
        lines.append(f"| {name} | {' | '.join(ratios)} |")
    return "\n".join(lines)


def speed_table(result: dict[str, Any], n_envs: tuple[int, ...], n_options: tuple[int, ...]) -> str:
    """Markdown: training speed as multiples of others', for some numbers of envs and of sub-policies."""
    columns = {
        "over_sac": "SB3 SAC, largest alone",
        "over_all_sac": "SB3, all one after the other",
        "over_SBX": "SBX SAC, largest alone",
        "over_RLtools": "RLtools SAC, largest alone",
        "over_all_RLtools": "RLtools, all one after the other",
    }
    present = [key for key in columns if any(key in row for part in result["speed"] for row in part["rows"])]
    ratios = " | ".join(f"÷ {columns[key]}" for key in present)
    lines = [
        f"| nets | critic | envs | {ratios} | time ÷ K = 2 | time ÷ shared critic |",
        "|---" * (5 + len(present)) + "|",
    ]
    for part in result["speed"]:
        for row in part["rows"]:
            if part["n_envs"] not in n_envs or len(row["units"]) not in n_options:
                continue
            ratios = " | ".join(f"{row[key]:.2f}" if key in row else "" for key in present)
            nets = ", ".join(map(str, row["units"]))
            lines.append(
                f"| {nets} | {row['critic']} | {part['n_envs']} | {ratios} | {row['time_over_two']:.2f} "
                f"| {row['time_over_shared']:.2f} |"
            )
    versions = ", ".join(f"{name} {version}" for name, version in result["versions"].items())
    rates, memory = result["sgemm_gflops_per_second"], result["peak_memory_mb"]
    speeds = {part["largest"]: part["steps_per_second"] for part in result["speed"] if part["n_envs"] == 1}
    shares = [
        f"{speeds[d['units'][-1]]['AsymSAC 2 option'] / d['limit_steps_per_second']:.0%} at {tuple(d['units'])}"
        for d in result["details"]
        if len(d["units"]) == 2 and d["critic"] == "option"
    ]
    note = (
        f"{result['task']}, batch 256, one update per env step, medians of {result['rounds']} interleaved rounds; large "
        f"matrix products at {rates['compiled']:.0f} GFLOP/s (torch's own: {rates['torch']:.0f}): at that rate the "
        f"arithmetic of the update with the critic of options would take {' and '.join(shares)} of a step. Peak memory, "
        f"compiled ÷ plain update, (32, 256): {memory['fast'] / memory['plain']:.2f}. {versions}."
    )
    return "\n".join([*lines, "", note])


def measurements(bench: dict[str, Any]) -> dict[tuple[str, str], dict[str, Any]]:
    """What was measured, by runtime and subject (which version 0.1.0 called the driver)."""
    return {(row["runtime"], row.get("subject", row.get("driver"))): row for row in bench["measurements"]}


def deployment_table(result: dict[str, Any]) -> str:
    """Markdown: what exported agents take."""
    host, m4 = next(iter(result["agents"].values()))["bench"]["footprint"]
    lines = [
        "| env, units | use of large | `predict` ÷ C | SAC's `predict` ÷ C | `predict` ÷ ONNX | SAC's `predict` ÷ ONNX "
        f"| instructions ÷ predicted, {host} | with vectors | {m4} | code, {host} | {m4} |",
        "|---" * 11 + "|",
    ]
    ratios = ("predict over c", "SAC's predict over c", "predict over onnx", "SAC's predict over onnx")
    for agent in result["agents"].values():
        bench = agent["bench"]
        over = bench["instructions_over_predicted"]
        cells = [f"{agent['env']}, {agent['small']} and {agent['large']}", f"{bench['option_use']['large']:.0%}"]
        cells += [f"{agent['time_ratios'][name]:.1f}" for name in ratios]
        cells += [f"{value:.2f}" for value in (over[host], agent["vectorized_over_predicted"], over[m4])]
        cells += [f"{bench['footprint'][processor]['code']:,} bytes" for processor in (host, m4)]
        lines.append(f"| {' | '.join(cells)} |")
    note = (
        "Time of a step at batch 1 on one thread, medians; *predicted* is what the FLOPs say, by a straight line through the "
        "instructions of the sub-policies exported alone; *code* is without the networks' numbers and without libm."
    )
    return "\n".join([*lines, "", note, "", deployment_note(result)])


def deployment_summary(result: dict[str, Any]) -> str:
    """Markdown: the figures that a reader of the README wants."""
    lines = [
        "| env, units | use of large | `predict` ÷ C | the same, large alone | `predict` ÷ ONNX "
        "| Cortex-M4: instructions ÷ what the FLOPs predict | flash | RAM | large in int8 (C) ÷ fp32 bytes |",
        "|---" * 9 + "|",
    ]
    for agent in result["agents"].values():
        bench = agent["bench"]
        memory = bench["footprint"]["Cortex-M4"]
        int8 = next(report for report in agent["precision"] if report["precision"]["large"] == "int8")
        medians = {where: row["median_ns"] for where, row in measurements(bench).items()}
        alone = medians["predict", "large alone"] / medians["C", "large alone"]
        cells = [f"{agent['env']}, {agent['small']} and {agent['large']}", f"{bench['option_use']['large']:.0%}"]
        over = (agent["time_ratios"]["predict over c"], alone, agent["time_ratios"]["predict over onnx"])
        cells += [f"{ratio:.1f}" for ratio in over]
        cells.append(f"{bench['instructions_over_predicted']['Cortex-M4']:.2f}")
        cells += [f"{memory[kind] / 1000:,.1f} kB" for kind in ("flash", "ram")]
        cells.append(f"{int8['n_bytes']['large'] / int8['fp32_bytes']['large']:.2f}")
        lines.append(f"| {' | '.join(cells)} |")
    return "\n".join(lines)


def precision_table(result: dict[str, Any]) -> str:
    """Markdown: what precision does to exported agents."""
    lines = [
        "| env, units | format | precision | large's bytes ÷ fp32 | return | before | choices as in fp32 | action error "
        "| time ÷ fp32 |",
        "|---" * 9 + "|",
    ]
    for agent in result["agents"].values():
        for report in agent["precision"]:
            precision, ratio = report["precision"]["large"], report["n_bytes"]["large"] / report["fp32_bytes"]["large"]
            cells = [f"{agent['env']}, {agent['small']} and {agent['large']}", report["format"], precision, f"{ratio:.3f}"]
            returns = [f"{report[f'{who}mean_reward']:,.0f} ± {report[f'{who}std_reward']:,.0f}" for who in ("", "model_")]
            # Of an agent that was only trained for a moment, the return says nothing.
            cells += returns if agent["timesteps"] >= 10_000 else ["", ""]
            cells += [f"{report['choice_agreement']:.1%}", f"{report['mean_action_error']:.1e}"]
            cells.append("" if report["time_over_fp32"] is None else f"{report['time_over_fp32']:.2f}")
            lines.append(f"| {' | '.join(cells)} |")
    return "\n".join(lines)


def fidelity_table(result: dict[str, Any]) -> str:
    """Markdown: how near exported agents are to ``predict``."""
    lines = ["| fp32 beside `predict` | steps | other options, C | ONNX | greatest action error, C | ONNX |", "|---" * 6 + "|"]
    for row in result["fidelity"]:
        cells = [f"{row['env']}, {row['kind']}", f"{row['steps']:,}"]
        cells += [str(row[target]["other_options"]) for target in ("c", "onnx")]
        cells += [f"{row[target]['max_action_error']:.1e}" for target in ("c", "onnx")]
        lines.append(f"| {' | '.join(cells)} |")
    return "\n".join([*lines, "", deployment_note(result)])


def deployment_note(result: dict[str, Any]) -> str:
    """Markdown: seed, flags and versions."""
    flags = "; ".join(
        f"{name}: {' '.join(f'`{flag}`' for flag in flags if flag.startswith('-'))}" for name, flags in result["flags"].items()
    )
    versions = ", ".join(f"{name} {version}" for name, version in result["versions"].items())
    return f"Seed {result['seed']}, medians of {result['rounds']} interleaved rounds. {flags}. {versions}."


def speed_picture(result: dict[str, Any], path: Path) -> None:
    """Env steps per second of AsymSAC and of SACs of its largest size, with one env; the arithmetic limit; time by part."""
    figure = Figure(figsize=(13, 4.6), layout="constrained")
    parts = [part for part in result["speed"] if part["n_envs"] == 1]
    *panels, shares = figure.subplots(1, len(parts) + 1)
    for axes, part in zip(panels, parts, strict=True):
        everyone = part["steps_per_second"]
        shown = [name for name in everyone if name.startswith("AsymSAC") or name.endswith(f" {part['largest']}")]
        speeds = {name: everyone[name] for name in sorted(shown, key=everyone.__getitem__)}
        limits = {
            f"AsymSAC {len(d['units'])} {d['critic']}": d["limit_steps_per_second"]
            for d in result["details"]
            if d["units"][-1] == part["largest"]
        }
        colors = ["tab:green" if name.startswith("AsymSAC") else "tab:gray" for name in speeds]
        axes.barh(list(speeds), list(speeds.values()), color=colors)
        axes.plot(list(limits.values()), list(limits), "k|", markersize=10, label="arithmetic limit of the update")
        axes.set(xlabel="env steps per second", title=f"largest net {part['largest']} units")
    figure.legend(*panels[0].get_legend_handles_labels(), fontsize=8, loc="outside lower left")
    profiles = [d for d in result["details"] if d["time_by_part"]]
    names = [f"{tuple(d['units'])} {d['critic']}" for d in profiles]
    left = np.zeros(len(profiles))
    for name in profiles[0]["time_by_part"]:
        values = np.array([100 * d["time_by_part"][name] for d in profiles])
        shares.barh(names, values, left=left, label=name)
        left += values
    shares.set(xlabel="% of the time", title="where the time goes")
    shares.legend(fontsize=7, ncols=3, loc="upper center")
    shares.set_ylim(-0.6, len(profiles) + 0.6)
    figure.savefig(path, dpi=110)


def deployment_picture(result: dict[str, Any], path: Path) -> None:
    """Time of a step in each runtime, and instructions against FLOPs on the Cortex-M4."""
    figure = Figure(figsize=(12, 4.2), layout="constrained")
    times, counts = figure.subplots(1, 2)
    runtimes = ["predict", "TorchScript", "ONNX Runtime", "C"]
    width = 0.8 / len(result["agents"])
    for index, agent in enumerate(result["agents"].values()):
        name = f"{agent['env']}, {agent['small']} and {agent['large']} units"
        rows = measurements(agent["bench"])
        medians = [rows[runtime, "agent"]["median_ns"] / 1e3 for runtime in runtimes]
        times.bar(np.arange(len(runtimes)) + index * width, medians, width, label=name)
        instructions = {subject: row["instructions"] for (runtime, subject), row in rows.items() if runtime == "C"}
        alone = [instructions[f"{part} alone"]["Cortex-M4"] for part in agent["bench"]["option_use"]]
        flops = agent["bench"]["flops_per_inference"]
        between = np.geomspace(*agent["flops_alone"])
        (line,) = counts.plot(between, np.interp(between, agent["flops_alone"], alone), label=f"{name}: predicted")
        counts.plot(flops, instructions["agent"]["Cortex-M4"], "o", color=line.get_color(), label="the agent")
    times.set_xticks(np.arange(len(runtimes)) + 0.4 - width / 2, runtimes)
    times.set(ylabel="µs", yscale="log", title="median time of a step, switching")
    counts.set(xlabel="FLOPs per inference", ylabel="instructions per step", xscale="log", yscale="log", title="Cortex-M4")
    for axes in (times, counts):
        axes.legend(fontsize=7)
        axes.grid(alpha=0.3)
    figure.savefig(path, dpi=110)


def actorq_tables() -> dict[str, str]:
    """Tables of ActorQ, whose pictures are drawn."""
    tables = {}
    if (RESULTS / "actorq.json").exists():
        result = json.loads((RESULTS / "actorq.json").read_text())
        actors_picture(result, RESULTS / "actorq.png")
        learning_picture(result, RESULTS / "actorq_learning.png")
        tables = {"actorq, actors": actors_table(result), "actorq, learning": learning_table(result)}
    if (RESULTS / "actorq_faults.json").exists():
        tables["actorq, faults"] = faults_table(json.loads((RESULTS / "actorq_faults.json").read_text()))
    return tables


def master_tables() -> dict[str, str]:
    """Tables of what switching is worth, whose pictures are drawn, and of the critics that it is learned with."""
    tables = {}
    switching = [json.loads(path.read_text()) for path in sorted(RESULTS.glob("switching_*.json"))]
    for result in switching:
        switching_picture(result, RESULTS / f"switching_{result['task']}.png")
        tables[f"switching {result['task']}"] = switching_table(result)
    tables["switching, short"] = switching_summary(switching)
    tables["switching, budgets"] = budget_table(switching)
    if critics := [json.loads(path.read_text()) for path in sorted(RESULTS.glob("critic_target_*.json"))]:
        tables["critic target"] = critic_target_table(critics)
    return tables


def main() -> None:
    """Draw everything."""
    tables = {}
    for path in sorted(RESULTS.glob("returns_*.json")):
        result = json.loads(path.read_text())
        returns_picture(result, path.with_suffix(".png"))
        tables[f"returns {result['task']}"] = returns_table(result)
    tables |= master_tables()
    for path in sorted(RESULTS.glob("training_speed*.json")):
        result = json.loads(path.read_text())
        speed_picture(result, path.with_suffix(".png"))
        tables[f"{path.stem}, short"] = speed_table(result, n_envs=(1,), n_options=(2,))
        tables[path.stem] = speed_table(result, n_envs=(1, 8), n_options=(2, 3, 4))
    for name, make in (("demo", demo_table), ("overhead", overhead_table)):
        tables[name] = make(json.loads((RESULTS / f"{name}.json").read_text()))
    if (RESULTS / "deployment.json").exists():
        result = json.loads((RESULTS / "deployment.json").read_text())
        deployment_picture(result, RESULTS / "deployment.png")
        makers = {
            "": deployment_table,
            ", precision": precision_table,
            ", fidelity": fidelity_table,
            ", short": deployment_summary,
        }
        tables.update({f"deployment{part}": make(result) for part, make in makers.items()})
    if (RESULTS / "distillation.json").exists():
        runs = json.loads((RESULTS / "distillation.json").read_text())
        distillation_picture(runs, RESULTS / "distillation.png")
        tables |= distillation_tables(runs)
    if (RESULTS / "quantization_aware.json").exists():
        runs = json.loads((RESULTS / "quantization_aware.json").read_text())
        aware_picture(runs, RESULTS / "quantization_aware.png")
        tables["quantization_aware"] = aware_table(runs)
    if (RESULTS / "cloud_edge_link.json").exists():
        tables["cloud_edge_link"] = link_table(json.loads((RESULTS / "cloud_edge_link.json").read_text()))
    tables |= cloud_edge_tables(RESULTS)
    if (RESULTS / "quantization.json").exists():
        runs = json.loads((RESULTS / "quantization.json").read_text())
        quantization_picture(runs, RESULTS / "quantization.png")
        quantized = {"": quantization_summary, ", short": short_summary, ", agents": quantization_table, ", width": width_text}
        tables |= {f"quantization{part}": make(runs) for part, make in quantized.items()}
    tables |= actorq_tables()
    for path in TEXTS:
        text = path.read_text()
        for name, content in tables.items():
            start, end = f"<!-- results {name} -->", f"<!-- end {name} -->"
            text = re.sub(f"{start}.*?{end}", lambda _, a=start, b=end, t=content: f"{a}\n{t}\n{b}", text, flags=re.DOTALL)
        path.write_text(text)
    print(f"Drawn: {', '.join(tables)}")


if __name__ == "__main__":
    main()
