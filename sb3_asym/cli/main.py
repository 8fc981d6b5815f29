"""The commands together, and what becomes of errors."""

import io
import sys
from typing import Annotated

import gymnasium as gym
import typer

from sb3_asym.cli.actorq import actorq_app
from sb3_asym.cli.bench_export import bench_export
from sb3_asym.cli.cloud import cloud
from sb3_asym.cli.distill import distill
from sb3_asym.cli.edge import edge
from sb3_asym.cli.evaluate import evaluate
from sb3_asym.cli.export import export
from sb3_asym.cli.quantize import quantize_app
from sb3_asym.cli.timeline import timeline
from sb3_asym.cli.tune import tune
from sb3_asym.cli.zoo import add_zoo_commands
from sb3_asym.versions import __version__

app = typer.Typer(
    help="Agents that switch between a cheap and an expensive policy: train, tune, evaluate, distill, quantize, export them.",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
)
for _command in (evaluate, timeline, tune, distill, export, bench_export):
    app.command()(_command)
app.add_typer(cloud, name="cloud")
app.add_typer(edge, name="edge")
app.add_typer(quantize_app, name="quantize")
app.add_typer(actorq_app, name="actorq")
add_zoo_commands(app)


@app.callback(invoke_without_command=True)
def options(version: Annotated[bool, typer.Option("--version", help="Show the version and exit.")] = False) -> None:
    """Options that need no command."""
    if version:
        typer.echo(__version__)
        raise typer.Exit


def main() -> None:
    """Run the command line. Bad input ends with one line and exit code 2."""
    if "" not in sys.path:
        sys.path.insert(0, "")  # as with `python -m`, so that a user's own envs are found
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):
            stream.reconfigure(errors="replace")  # a terminal of another code page has no λ
    try:
        app()
    except (ValueError, TypeError, OSError, ImportError, gym.error.Error) as error:
        typer.echo(f"sb3-asym: {error}", err=True)
        sys.exit(2)
