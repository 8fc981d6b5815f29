"""The command line ``sb3-asym``. Needs the extra ``cli`` (typer, tqdm)."""

import json
import sys
from pathlib import Path
from typing import Annotated, Any

try:
    import typer
    from tqdm import tqdm
except ImportError:  # pragma: no cover
    sys.exit("The command line needs typer and tqdm: pip install 'sb3-asym[cli]'")

import gymnasium as gym
from stable_baselines3.common.env_util import make_vec_env
from stable_baselines3.common.vec_env import VecEnv, VecNormalize

import sb3_asym
from sb3_asym.evaluation import evaluate as evaluate_agent
from sb3_asym.evaluation import n_evaluations, record_episode

app = typer.Typer(
    help="Agents that switch between a cheap and an expensive policy: evaluate them and look at them.",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
)

Model = Annotated[Path, typer.Argument(help="The agent: a zip file that AsymSAC.save wrote.")]
Env = Annotated[str, typer.Option("--env", help="Gymnasium id of the env, such as Pendulum-v1.")]
EnvKwargs = Annotated[str, typer.Option(help="Arguments of the env as JSON, such as '{\"frame_skip\": 2}'.")]
Normalization = Annotated[Path | None, typer.Option("--vec-normalize", help="Statistics that VecNormalize.save wrote.")]
Seed = Annotated[int, typer.Option(help="Seed of the env.")]


@app.callback(invoke_without_command=True)
def options(version: Annotated[bool, typer.Option("--version", help="Show the version and exit.")] = False) -> None:
    """Options that need no command."""
    if version:
        typer.echo(sb3_asym.__version__)
        raise typer.Exit


@app.command()
def evaluate(
    model: Model,
    env: Env,
    episodes: Annotated[int, typer.Option("--episodes", "-n", help="Episodes for each way to drive.")] = 10,
    seed: Seed = 0,
    stochastic: Annotated[bool, typer.Option(help="Sample actions instead of taking their mean.")] = False,
    compare: Annotated[bool, typer.Option(help="Measure each sub-policy alone and random switching too.")] = True,
    output: Annotated[Path | None, typer.Option("--output", "-o", help="Also write the report to this JSON file.")] = None,
    env_kwargs: EnvKwargs = "{}",
    vec_normalize: Normalization = None,
) -> None:
    """Measure return, use of each sub-policy and FLOPs per inference."""
    agent = sb3_asym.AsymSAC.load(model, device="cpu")
    vec_env = _make_env(env, env_kwargs, vec_normalize)
    total = episodes * (n_evaluations(agent) if compare else 1)
    with tqdm(total=total, unit="episode", disable=None) as bar:
        report = evaluate_agent(agent, vec_env, episodes, not stochastic, seed, compare, on_episode=bar.update)
    typer.echo(report)
    if output is not None:
        output.parent.mkdir(parents=True, exist_ok=True)
        output.write_text(json.dumps(report.to_dict(), indent=2) + "\n")
        typer.echo(f"Report: {output}")


@app.command()
def timeline(
    model: Model,
    env: Env,
    output: Annotated[Path, typer.Option("--output", "-o", help="Picture to write.")] = Path("timeline.png"),
    dimension: Annotated[list[int] | None, typer.Option("--dimension", "-d", help="Observation dimensions to plot.")] = None,
    seed: Seed = 0,
    env_kwargs: EnvKwargs = "{}",
    vec_normalize: Normalization = None,
) -> None:
    """Draw one episode: which sub-policy drove at which step."""
    from sb3_asym.plotting import timeline as draw_timeline

    agent = sb3_asym.AsymSAC.load(model, device="cpu")
    try:
        vec_env = _make_env(env, env_kwargs, vec_normalize, render_mode="rgb_array")
        vec_env.reset()
        vec_env.render()
    except Exception as error:  # each env and each GL library has its own
        typer.echo(f"No pictures of the env, as it cannot render here ({error}).", err=True)
        vec_env = _make_env(env, env_kwargs, vec_normalize)
    record = record_episode(agent, vec_env, seed)
    draw_timeline(record, output, dimension, title=f"{env}: return {record.rewards.sum():.1f}")
    typer.echo(f"Timeline: {output}")


def _make_env(env_id: str, env_kwargs: str, normalization: Path | None, **more: Any) -> VecEnv:
    try:
        kwargs = json.loads(env_kwargs)
    except json.JSONDecodeError as error:
        raise ValueError(f"--env-kwargs must be JSON such as '{{\"frame_skip\": 2}}', got {env_kwargs!r}.") from error
    env: VecEnv = make_vec_env(env_id, env_kwargs={**kwargs, **more})
    if normalization is not None:
        env = VecNormalize.load(str(normalization), env)
        env.training = env.norm_reward = False
    return env


def main() -> None:
    """Run the command line. Bad input ends with one line and exit code 2."""
    try:
        app()
    except (ValueError, TypeError, OSError, ImportError, gym.error.Error) as error:
        typer.echo(f"sb3-asym: {error}", err=True)
        sys.exit(2)


if __name__ == "__main__":
    main()
