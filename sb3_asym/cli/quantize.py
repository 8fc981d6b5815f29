"""``sb3-asym quantize``."""

from functools import partial
from pathlib import Path
from typing import Annotated

import typer

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
from sb3_asym.envs import env_file_name, make_env
from sb3_asym.quantization import sweep as sweep_agent
from sb3_asym.quantization.schemes import EXPORTED

quantize_app = typer.Typer(help="Agents in fewer bits.", no_args_is_help=True)


@quantize_app.callback()
def quantize() -> None:
    """Agents in fewer bits."""


@quantize_app.command()
def sweep(
    model: Annotated[
        Path, typer.Argument(help="The agent: a zip file of AsymSAC, SAC, TD3, DDPG, TQC, DQN, QRDQN, PPO or A2C.")
    ],
    env: Env,
    output: Annotated[
        Path | None, typer.Option("--output", "-o", help="Folder to write to, new or empty; outputs/quantize/ENV by default.")
    ] = None,
    schemes: Annotated[
        list[str] | None,
        typer.Option(
            "--scheme",
            help="fp16, or bits as int8, w4 or w4a8, with -tensor, -affine or -gptq; once each. Many by default.",
        ),
    ] = None,
    tolerance: Annotated[float, typer.Option(help="Relative error of the return allowed to the smallest form.")] = 0.025,
    seed: Annotated[int, typer.Option(help="Seed of the first episode.")] = 0,
    episodes: Annotated[int, typer.Option("--episodes", "-n", help="Episodes of each form, with the same seeds.")] = 20,
    env_kwargs: EnvKwargs = "{}",
    vec_normalize: Normalization = None,
) -> None:
    """Measure an agent in many precisions, and name the smallest form that keeps its return."""
    agent = load_model(model)
    kwargs = parse_env_kwargs(env_kwargs)
    folder = output or Path("outputs") / "quantize" / env_file_name(env)
    with StageBar() as bar:
        report = sweep_agent(
            agent,
            partial(make_env, env, **kwargs) if kwargs else env,
            schemes,
            output=folder,
            tolerance=tolerance,
            vec_normalize=find_and_load_statistics(agent, model, vec_normalize),
            seed=seed,
            n_eval_episodes=episodes,
            on_progress=bar,
        )
    typer.echo(report)
    typer.echo(f"Report and picture: {folder}")
    precision = {scheme: precision for precision, scheme in EXPORTED.items()}.get(report.smallest_exported, "fp32")
    if precision != "fp32":
        options = ["--env", env, "--precision", precision, "-o", "robot"]
        say_next("export", model, *options, env_kwargs=env_kwargs, vec_normalize=vec_normalize)
