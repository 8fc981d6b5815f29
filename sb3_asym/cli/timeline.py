"""``sb3-asym timeline``."""

from pathlib import Path
from typing import Annotated

import typer

from sb3_asym.cli.common import Env, EnvKwargs, Model, Normalization, Seed, load_agent, make_normalized_env
from sb3_asym.evaluation import record_episode


def timeline(
    model: Model,
    env: Env,
    output: Annotated[Path, typer.Option("--output", "-o", help="Picture to write.")] = Path("timeline.png"),
    dimension: Annotated[list[int] | None, typer.Option("--dimension", "-d", help="Observation dimensions to plot.")] = None,
    seed: Seed = 0,
    env_kwargs: EnvKwargs = "{}",
    vec_normalize: Normalization = None,
) -> None:
    """Draw one episode: which sub-policy acted at which step."""
    from sb3_asym.evaluation.plotting import timeline as draw_timeline

    agent = load_agent(model)
    vec_env, n_frames = make_normalized_env(env, env_kwargs, model, vec_normalize), 10
    try:
        vec_env.reset()
        vec_env.render()
    except Exception as error:  # each env and each GL library has its own
        typer.echo(f"No pictures of the env, as it cannot render here ({error}).", err=True)
        vec_env, n_frames = make_normalized_env(env, env_kwargs, model, vec_normalize), 0
    record = record_episode(agent, vec_env, seed, n_frames)
    draw_timeline(record, output, dimension, title=f"{env}: return {record.rewards.sum():.1f}")
    typer.echo(f"Timeline: {output}")
