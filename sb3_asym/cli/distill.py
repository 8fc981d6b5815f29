"""``sb3-asym distill``."""

from functools import partial
from pathlib import Path
from typing import Annotated, Any, Literal

import typer

from sb3_asym.baselines import behavioural_cloning, gail
from sb3_asym.cli.common import (
    Env,
    EnvKwargs,
    Normalization,
    StageBar,
    find_and_load_statistics,
    parse_env_kwargs,
    say_next,
)
from sb3_asym.deployment import load_model
from sb3_asym.distillation import DistillationSettings
from sb3_asym.distillation import distill as distill_agent
from sb3_asym.envs import env_file_name, make_env

N_COTRAINING_UPDATES = 4_000


def distill(
    model: Annotated[Path, typer.Argument(help="The teacher: a zip file of SAC, TD3, DDPG, TQC, PPO, A2C, DQN or QRDQN.")],
    env: Env,
    output: Annotated[
        Path | None, typer.Option("--output", "-o", help="Folder to write to, new or empty; outputs/distill/ENV by default.")
    ] = None,
    sizes: Annotated[
        list[str] | None,
        typer.Option(help="Hidden layers of a student, such as 32,32 or linear; once for each size. A ladder by default."),
    ] = None,
    keep: Annotated[float, typer.Option(help="Share of the teacher's return to keep.")] = 0.98,
    budget: Annotated[float | None, typer.Option(help="FLOPs per inference that may be spent, in place of --keep.")] = None,
    loss: Annotated[
        Literal["robust", "mse", "critic", "both"], typer.Option(help="Loss of students of continuous actions.")
    ] = "robust",
    method: Annotated[
        Literal["dagger", "bc", "gail"], typer.Option(help="dagger; or a baseline: behavioural cloning, or GAIL.")
    ] = "dagger",
    int8: Annotated[bool, typer.Option("--int8", help="Measure the students in int8 too.")] = False,
    cotrain: Annotated[
        bool,
        typer.Option("--cotrain", help="Where agents switch, the smaller student learns on where the master lets it act."),
    ] = False,
    seed: Annotated[int, typer.Option(help="Seed of students, envs and masters.")] = 0,
    episodes: Annotated[
        int | None,
        typer.Option("--episodes", "-n", help="Held-out episodes, and as many to select by; 20 by default, more if short."),
    ] = None,
    env_kwargs: EnvKwargs = "{}",
    vec_normalize: Normalization = None,
) -> None:
    """Distill a trained agent into the cheapest one that keeps its return."""
    if cotrain and method != "dagger":
        raise ValueError(f"--cotrain goes with --method dagger, got {method}: no agents switch there.")
    teacher = load_model(model)
    kwargs = parse_env_kwargs(env_kwargs)
    folder = output or Path("outputs") / "distill" / env_file_name(env)
    run: Any = {"dagger": distill_agent, "bc": behavioural_cloning, "gail": gail}[method]
    losses = {} if method == "gail" else {"loss": loss}
    with StageBar() as bar:
        report = run(
            teacher,
            partial(make_env, env, **kwargs) if kwargs else env,
            sizes=None if sizes is None else [_parse_size(size) for size in sizes],
            keep=keep,
            budget=budget,
            output=folder,
            vec_normalize=find_and_load_statistics(teacher, model, vec_normalize),
            int8=int8,
            seed=seed,
            n_eval_episodes=episodes,
            settings=DistillationSettings(n_cotraining_updates=N_COTRAINING_UPDATES if cotrain else 0),
            on_progress=bar,
            **losses,
        )
    typer.echo(report)
    typer.echo(f"Report, picture and agents: {folder}")
    if report.best is not None:
        say_next("export", folder / report.best.file, "--env", env, "-o", "robot", env_kwargs=env_kwargs)


def _parse_size(text: str) -> list[int]:
    """Hidden layers, such as "32,32"; "linear" has none."""
    try:
        return [] if text == "linear" else [int(width) for width in text.split(",")]
    except ValueError as error:
        raise ValueError(f"--sizes takes hidden layers such as 32,32 or linear, got {text!r}.") from error
