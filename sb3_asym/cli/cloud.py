"""``sb3-asym cloud``: what runs where there is time to learn."""

import time
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from sb3_asym.cli.common import EnvKwargs, as_bad_input, parse_env_kwargs, say_next
from sb3_asym.text_table import text_table

if TYPE_CHECKING:
    from sb3_asym.cloud_edge.statuses import LearnerStatus, RobotStatus

cloud = typer.Typer(help="Cloud-edge training, the cloud: learn from robots, and see how they are.", no_args_is_help=True)

Url = Annotated[
    str, typer.Option("--url", help="The link: a folder on this machine, or rediss://host:6379?keys=FOLDER of a broker.")
]
History = Annotated[int, typer.Option(help="Number of last actions that observations carry.")]


@cloud.command()
def learn(
    model: Annotated[Path, typer.Argument(help="The agent from simulation: a zip file of AsymSAC, SAC, TD3 or DDPG.")],
    url: Url,
    steps: Annotated[int, typer.Option(help="Env steps of the robots to learn from, those before a restart too.")] = 20_000,
    folder: Annotated[
        Path | None, typer.Option(help="Folder of the checkpoint; cloud/ in the link's folder by default.")
    ] = None,
    ratio: Annotated[float | None, typer.Option(help="Gradient steps per env step; by default the model's own.")] = None,
    prefill: Annotated[int, typer.Option(help="Env steps before the first gradient step.")] = 1000,
    freeze_actor: Annotated[int, typer.Option(help="Env steps after that for which only critics learn.")] = 0,
    push_period: Annotated[float, typer.Option(help="Seconds between two policies.")] = 1.0,
    output: Annotated[Path | None, typer.Option("--output", "-o", help="File for the agent at the end.")] = None,
    tensorboard: Annotated[Path | None, typer.Option(help="Folder of TensorBoard's logs.")] = None,
    vec_normalize: Annotated[Path | None, typer.Option(help="Statistics of VecNormalize, if the model has some.")] = None,
    device: Annotated[str, typer.Option(help="Torch device.")] = "auto",
) -> None:
    """Learn from robots; start it again after whatever has happened, and it goes on."""
    from sb3_asym.cloud_edge import CloudLearner
    from sb3_asym.cloud_edge.reader import GapError

    learner = CloudLearner.load(
        model,
        url,
        folder=folder,
        vec_normalize=vec_normalize,
        device=device,
        ratio=ratio,
        prefill=prefill,
        freeze_actor=freeze_actor,
        push_period=push_period,
        model_kwargs={"tensorboard_log": None if tensorboard is None else str(tensorboard), "verbose": 1},
    )
    if learner.model.num_timesteps:
        typer.echo(f"Going on from the checkpoint in {learner.folder}: {learner.model.num_timesteps:,} env steps are there.")
    try:
        with as_bad_input(GapError, FloatingPointError):
            learner.learn(steps, progress_bar=True)
    except KeyboardInterrupt:
        typer.echo(f"Stopped; the checkpoint is in {learner.folder}.")
    if output is not None:
        learner.model.save(output)
        typer.echo(f"Saved as {output}")
    learner.close()


@cloud.command()
def status(
    url: Url,
    watch: Annotated[float, typer.Option(help="Seconds between two looks; 0 for a single one.")] = 0.0,
) -> None:
    """Show robots, rates, lag, and the version and age of policies."""
    from sb3_asym.cloud_edge.heart import read_statuses
    from sb3_asym.cloud_edge.link import learner_link

    link = learner_link(url)
    while True:
        typer.echo(_table(*read_statuses(link)))
        if watch <= 0:
            break
        time.sleep(watch)
    link.close()


@cloud.command("pretrain")
def pretrain_command(
    env: Annotated[str, typer.Argument(help="Gymnasium id of the simulated robot, such as ChangedPendulum-v0.")],
    output: Annotated[Path, typer.Option("--output", "-o", help="File for the agent.")],
    steps: Annotated[int, typer.Option(help="Env steps.")] = 20_000,
    algorithm: Annotated[str, typer.Option("--algo", help="AsymSAC, SAC, TD3 or DDPG.")] = "SAC",
    history: History = 0,
    randomize: Annotated[
        list[str] | None,
        typer.Option(help="Dynamics drawn for each episode, such as mass=0.7:1.3; once for each argument of the env."),
    ] = None,
    seed: Annotated[int, typer.Option(help="Seed.")] = 0,
    env_kwargs: EnvKwargs = "{}",
) -> None:
    """Train an agent in simulation, to go on with it on a robot."""
    from sb3_asym.cloud_edge import pretrain

    ranges = dict(_parse_range(text) for text in randomize or [])
    kwargs = parse_env_kwargs(env_kwargs)
    pretrain(env, steps, output, algorithm, history, ranges, kwargs, seed, progress_bar=True)
    typer.echo(f"Saved as {output}")
    say_next("cloud", "learn", output, "--url", "FOLDER")
    say_next("edge", "run", env, "--url", "FOLDER", env_kwargs=env_kwargs, history=history or None)


def _parse_range(text: str) -> tuple[str, tuple[float, float]]:
    """Name and bounds, such as "mass=0.7:1.3"; whole numbers stay whole."""
    name, equals, bounds = text.partition("=")
    low, colon, high = bounds.partition(":")
    try:
        if not equals or not colon:
            raise ValueError
        numbers = [float(bound) if "." in bound or "e" in bound else int(bound) for bound in (low, high)]
    except ValueError:
        raise ValueError(f"--randomize takes an argument and its bounds, such as mass=0.7:1.3, got {text!r}.") from None
    return name, (numbers[0], numbers[1])


def _table(learner: "LearnerStatus | None", robots: "dict[str, RobotStatus]") -> str:
    """Learner and robots, for people."""
    now = time.time()
    if learner is None:
        line = "There was no learner here yet."
    else:
        told = learner.values
        alive = "" if now - learner.time < 2 else f", silent for {now - learner.time:.0f} s"
        line = (
            f"Learner: {learner.num_timesteps:,} env steps, {told.get('steps_per_second', 0):.1f} per second, "
            f"{told.get('steps_due', 0):,.0f} to train for; policy {learner.policy_version}{alive}"
        )
    rows = []
    for name, robot in sorted(robots.items()):
        values = robot.values
        silent = now - robot.time
        rows.append(
            (
                name,
                robot.message if silent < 5 else f"silent for {silent:.0f} s",
                f"{robot.next_transition:,}",
                f"{values.get('rate', 0):.1f}",
                "" if learner is None else f"{learner.values.get(f'lag_of_{name}', 0):,.0f}",
                str(robot.policy_version),
                f"{values.get('weights_age', 0):.1f} s",
                f"{values.get('missed', 0):,.0f} of {values.get('deadlines', 0):,.0f}",
                f"{robot.outbox_bytes / 1e6:.1f} MB",
            )
        )
    head = ("robot", "does", "steps", "per second", "lag", "policy", "its age", "missed deadlines", "outbox")
    return f"{line}\n{text_table(head, rows, n_left=2)}"
