"""``sb3-asym edge``: what runs on the robot."""

from functools import partial
from pathlib import Path
from typing import Annotated, Literal

import typer

from sb3_asym.cli.cloud import History, Url
from sb3_asym.cli.common import EnvKwargs, as_bad_input, parse_env_kwargs, write_report

edge = typer.Typer(help="Cloud-edge training, the edge: run a robot, and send what it left.", no_args_is_help=True)

Robot = Annotated[str, typer.Option(help="Name of the robot, unlike those of others on the link.")]


@edge.command()
def run(
    env: Annotated[str, typer.Argument(help="Gymnasium id of the robot; custom_envs.py in this folder may register it.")],
    url: Url,
    hz: Annotated[float, typer.Option(help="Control steps per second; 0 without deadlines, in simulation.")] = 50,
    robot: Robot = "robot",
    on_stale: Annotated[Literal["hold", "stop"], typer.Option(help="While the learner is silent.")] = "hold",
    max_age: Annotated[float, typer.Option(help="Seconds without a sign of life after which it counts as silent.")] = 1.0,
    swap: Annotated[Literal["episode", "step"], typer.Option(help="When to take new policies.")] = "episode",
    precision: Annotated[Literal["fp32", "fp16", "int8"], typer.Option(help="Precision of the networks.")] = "fp32",
    history: History = 0,
    in_process: Annotated[
        bool, typer.Option("--robot-process", help="Let the simulated robot run in real time, in a process of its own.")
    ] = False,
    steps: Annotated[int | None, typer.Option(help="Control steps to run for; by default until it is stopped.")] = None,
    priority: Annotated[int, typer.Option(help="Real-time priority (SCHED_FIFO), 1 to 99; 0 for none.")] = 50,
    outbox_mb: Annotated[int, typer.Option(help="Room for transitions on disk, MB.")] = 1024,
    deterministic: Annotated[bool, typer.Option("--deterministic", help="Act without exploration.")] = False,
    output: Annotated[Path | None, typer.Option("--output", "-o", help="File for the report as JSON.")] = None,
    seed: Annotated[int | None, typer.Option(help="Seed of env and exploration.")] = None,
    env_kwargs: EnvKwargs = "{}",
) -> None:
    """Run a robot with the policies of a learner, and send it all transitions. Ctrl-C ends it; nothing is lost."""
    from sb3_asym.cloud_edge import EdgeRunner, make_robot
    from sb3_asym.cloud_edge.edge import EdgeFailure
    from sb3_asym.cloud_edge.outbox import OutboxError

    if in_process and hz <= 0:
        raise ValueError("A robot in real time (--robot-process) needs --hz above 0.")
    runner = EdgeRunner(
        partial(make_robot, env, history, hz if in_process else 0, **parse_env_kwargs(env_kwargs)),
        url,
        hz=hz,
        robot=robot,
        on_stale=on_stale,
        max_age=max_age,
        swap=swap,
        precision=precision,
        deterministic=deterministic,
        priority=priority,
        outbox_bytes=outbox_mb << 20,
        seed=seed,
    )
    with as_bad_input(EdgeFailure, OutboxError):
        report = runner.run(total_steps=steps)
    typer.echo(report)
    write_report(report, output)
    if report.in_outbox:
        typer.echo(f"{report.in_outbox} batches are not confirmed yet: sb3-asym edge drain --url {url} --robot {robot}")


@edge.command()
def drain(
    url: Url,
    robot: Robot = "robot",
    seconds: Annotated[float | None, typer.Option(help="Seconds after which to give up; by default never.")] = None,
) -> None:
    """Send what is left in a robot's outbox, until the learner has confirmed all of it."""
    from sb3_asym.cloud_edge import drain as drain_outbox
    from sb3_asym.cloud_edge.outbox import OutboxError

    with as_bad_input(OutboxError):
        left = drain_outbox(url, robot, seconds)
    typer.echo("The outbox is empty." if left == 0 else f"{left} batches are not confirmed yet.")
    if left:
        raise typer.Exit(1)
