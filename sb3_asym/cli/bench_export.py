"""``sb3-asym bench-export``."""

from pathlib import Path
from typing import Annotated

import typer
from tqdm import tqdm

from sb3_asym.bench_export import bench
from sb3_asym.cli.common import JsonReport, Normalization, find_and_load_statistics, write_report
from sb3_asym.deployment import load_model


def bench_export(
    folder: Annotated[Path, typer.Argument(help="Folder that `sb3-asym export` wrote.")],
    model: Annotated[
        Path | None, typer.Option("--model", help="The agent that was exported: to measure each sub-policy and predict too.")
    ] = None,
    output: JsonReport = None,
    vec_normalize: Normalization = None,
) -> None:
    """Measure an export: time, instructions, memory and energy of a step, here and on a Cortex-M4."""
    agent = None if model is None else load_model(model)
    statistics = None if agent is None or model is None else find_and_load_statistics(agent, model, vec_normalize)
    with tqdm(unit="measurement", disable=None) as bar:
        report = bench(folder, agent, statistics, on_measured=bar.update)
    typer.echo(report)
    write_report(report, output)
