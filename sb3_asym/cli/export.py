"""``sb3-asym export``."""

from pathlib import Path
from typing import Annotated, Any, Literal

import typer
from tqdm import tqdm

from sb3_asym.cli.common import EnvKwargs, Normalization, find_and_load_statistics, parse_env_kwargs
from sb3_asym.deployment import load_model
from sb3_asym.envs import make_env
from sb3_asym.export import export_c, export_onnx


def export(
    model: Annotated[
        Path, typer.Argument(help="The agent: a zip file of AsymSAC, SAC, TD3, DDPG, TQC, DQN, QRDQN, PPO or A2C.")
    ],
    output: Annotated[Path, typer.Option("--output", "-o", help="Folder to write to: a new or an empty one.")],
    target: Annotated[Literal["c", "onnx"], typer.Option("--format", help="C99 without dependencies, or ONNX.")] = "c",
    env: Annotated[
        str | None, typer.Option("--env", help="Gymnasium id: to calibrate int8 and to measure the export.")
    ] = None,
    precision: Annotated[
        str, typer.Option(help="fp32, fp16, int8, or by network: large=int8,small=fp32,master=int8.")
    ] = "fp32",
    prefix: Annotated[str, typer.Option(help="Prefix of the names in C.")] = "asym",
    episodes: Annotated[int, typer.Option("--episodes", "-n", help="Episodes to measure the exported agent over.")] = 20,
    env_kwargs: EnvKwargs = "{}",
    vec_normalize: Normalization = None,
) -> None:
    """Export to C99 or ONNX, and measure the exported agent in the loop."""
    agent = load_model(model)
    rollout_env = None if env is None else make_env(env, **parse_env_kwargs(env_kwargs))
    statistics = find_and_load_statistics(agent, model, vec_normalize)
    more = {"prefix": prefix} if target == "c" else {}
    with tqdm(unit="episode", disable=None) as bar:
        write: Any = export_c if target == "c" else export_onnx
        report = write(
            agent,
            output,
            rollout_env,
            precision,
            vec_normalize=statistics,
            n_eval_episodes=episodes,
            on_episode=bar.update,
            **more,
        )
    typer.echo(report)
    typer.echo(f"Exported to {output}")
