"""The command line ``sb3-asym``. Needs the extra ``cli`` (typer, tqdm)."""

import json
import sys
from pathlib import Path
from pickle import UnpicklingError
from typing import Annotated, Any, Literal

try:
    import typer
    from tqdm import tqdm
except ImportError:  # pragma: no cover
    sys.exit("The command line needs typer and tqdm: pip install 'sb3-asym[cli]'")

import gymnasium as gym
from stable_baselines3.common.base_class import BaseAlgorithm
from stable_baselines3.common.env_util import make_vec_env
from stable_baselines3.common.vec_env import DummyVecEnv, VecEnv, VecNormalize

import sb3_asym
from sb3_asym import zoo
from sb3_asym.evaluation import evaluate as evaluate_agent
from sb3_asym.evaluation import n_evaluations, record_episode

app = typer.Typer(
    help="Agents that switch between a cheap and an expensive policy: train, tune, evaluate, look at and export them.",
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
        _write_report(report, output)


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
    vec_env, n_frames = _make_env(env, env_kwargs, vec_normalize), 10
    try:
        vec_env.reset()
        vec_env.render()
    except Exception as error:  # each env and each GL library has its own
        typer.echo(f"No pictures of the env, as it cannot render here ({error}).", err=True)
        vec_env, n_frames = _make_env(env, env_kwargs, vec_normalize), 0
    record = record_episode(agent, vec_env, seed, n_frames)
    draw_timeline(record, output, dimension, title=f"{env}: return {record.rewards.sum():.1f}")
    typer.echo(f"Timeline: {output}")


@app.command()
def tune(
    env: Env,
    output: Annotated[
        Path | None, typer.Option("--output", "-o", help="Folder of the results; outputs/tune/ENV by default.")
    ] = None,
    trials: Annotated[int, typer.Option("--n-trials", help="Trials of the study as a whole.")] = 20,
    jobs: Annotated[int, typer.Option("--n-jobs", help="Processes.")] = 1,
    timesteps: Annotated[
        int, typer.Option("--n-timesteps", "-n", help="Env steps of a training; -1: as many as the hyperparameters say.")
    ] = -1,
    seeds: Annotated[int, typer.Option(help="Trainings per trial, of which the mean counts.")] = 1,
    episodes: Annotated[int, typer.Option(help="Episodes to measure an agent.")] = 10,
    cost_coef: Annotated[tuple[float, float], typer.Option(help="Least and greatest λ.")] = (1e-3, 1.0),
    option_length: Annotated[
        tuple[int, int] | None, typer.Option(help="Search the option length too, from the least to the greatest.")
    ] = None,
    sizes: Annotated[bool, typer.Option("--sizes", help="Tune the sub-policies' sizes too.")] = False,
    budget: Annotated[float | None, typer.Option(help="Maximize the return at this share of the large one's FLOPs.")] = None,
    storage: Annotated[str | None, typer.Option(help="Optuna storage: a URL, or a file that ends in .log.")] = None,
    study_name: Annotated[str | None, typer.Option(help="Name of the study; the env's id by default.")] = None,
    conf_file: Annotated[str | None, typer.Option("--conf-file", help="Hyperparameters, as the Zoo's -conf.")] = None,
    hyperparams: Annotated[
        list[str] | None, typer.Option("--param", help="A hyperparameter that replaces the file's, as name:value.")
    ] = None,
    device: Annotated[str, typer.Option(help="torch device.")] = "cpu",
) -> None:
    """Search λ: the agents for which no other returns more and costs less, or the best within a budget."""
    try:
        from sb3_asym import tune as tuning
        from sb3_asym.plotting import pareto_front
        from sb3_asym.tune import report
        from sb3_asym.tune.settings import parse_hyperparams
    except ImportError as error:
        raise ImportError(f"Tuning needs more packages ({error}): pip install 'sb3-asym[zoo,tune,plots]'") from error
    settings = tuning.TuneSettings(
        env=env,
        output=output or Path("outputs") / "tune" / env.replace("/", "-"),
        n_trials=trials,
        n_timesteps=timesteps,
        n_seeds=seeds,
        n_eval_episodes=episodes,
        cost_coef=cost_coef,
        option_length=option_length,
        sizes=sizes,
        budget=budget,
        storage=storage,
        study_name=study_name,
        config=conf_file,
        hyperparams=parse_hyperparams(hyperparams or []),
        device=device,
    )
    with tqdm(total=trials, unit="trial", disable=None) as bar:
        points = tuning.tune(settings, jobs, lambda finished: bar.update(finished - bar.n))
    if not points:
        raise ValueError("No trial has finished; the same command goes on.")
    report.write_csv(points, settings.output / "trials.csv")
    best = [point for point in points if point.best]
    largest = max(best or points, key=lambda point: point.mean_reward)
    pareto_front(
        [(point.flops_per_inference, point.mean_reward) for point in points],
        [point.best for point in points],
        {name: (flops, reward) for name, (reward, flops) in largest.alone.items()},
        settings.output / "pareto.png",
        title=f"{env}: {len(points)} trials",
        values=("λ", [point.params["cost_coef"] for point in points]),
    )
    typer.echo(report.table(best))
    typer.echo(f"All trials: {settings.output / 'trials.csv'}, picture: {settings.output / 'pareto.png'}")
    choice = report.chosen(points)
    typer.echo(f"Trial {choice.number} is in {choice.folder}; to train it in full:")
    typer.echo(report.training_command(choice, settings))


@app.command()
def export(
    model: Annotated[Path, typer.Argument(help="The agent: a zip file of AsymSAC, SAC, TD3, DDPG, TQC, DQN, PPO or A2C.")],
    output: Annotated[Path, typer.Option("--output", "-o", help="Folder to write to: a new or an empty one.")],
    target: Annotated[Literal["c", "onnx"], typer.Option("--format", help="C99 without dependencies, or ONNX.")] = "c",
    env: Annotated[
        str | None, typer.Option("--env", help="Gymnasium id: to calibrate int8 and to measure the export.")
    ] = None,
    precision: Annotated[
        str, typer.Option(help="fp32, fp16, int8, or by network: large=int8,small=fp32,master=int8.")
    ] = "fp32",
    prefix: Annotated[str, typer.Option(help="Of the names in C.")] = "asym",
    episodes: Annotated[int, typer.Option("--episodes", "-n", help="Episodes to measure the exported agent over.")] = 20,
    env_kwargs: EnvKwargs = "{}",
    vec_normalize: Normalization = None,
) -> None:
    """Export to C99 or ONNX, and measure the exported agent in the loop."""
    from sb3_asym import export as exporting
    from sb3_asym.export.loading import load_model

    agent = load_model(model)
    world = None if env is None else gym.make(env, **_parse_env_kwargs(env_kwargs))
    statistics = None if vec_normalize is None else _statistics_for(agent, vec_normalize)
    more = {"prefix": prefix} if target == "c" else {}
    with tqdm(unit="episode", disable=None) as bar:
        write: Any = exporting.export_c if target == "c" else exporting.export_onnx
        report = write(
            agent, output, world, precision, vec_normalize=statistics, n_eval_episodes=episodes, on_episode=bar.update, **more
        )
    typer.echo(report)
    typer.echo(f"Exported to {output}")


@app.command()
def bench_export(
    folder: Annotated[Path, typer.Argument(help="Folder that `sb3-asym export` wrote.")],
    model: Annotated[
        Path | None, typer.Option("--model", help="The agent that was exported: to measure each sub-policy and predict too.")
    ] = None,
    output: Annotated[Path | None, typer.Option("--output", "-o", help="Also write the report to this JSON file.")] = None,
    vec_normalize: Normalization = None,
) -> None:
    """Measure an export: time, instructions, memory and energy of a step, here and on a Cortex-M4."""
    from sb3_asym.export.bench import bench
    from sb3_asym.export.loading import load_model

    agent = None if model is None else load_model(model)
    statistics = None if agent is None or vec_normalize is None else _statistics_for(agent, vec_normalize)
    with tqdm(unit="measurement", disable=None) as bar:
        report = bench(folder, agent, statistics, on_measured=bar.update)
    typer.echo(report)
    if output is not None:
        _write_report(report, output)


def _add_zoo_command(verb: str, module: str) -> None:
    """A command that hands all its arguments, ``--help`` too, to the RL Zoo's."""

    def command(context: typer.Context) -> None:
        zoo.run(verb, context.args)

    settings = {"allow_extra_args": True, "ignore_unknown_options": True, "help_option_names": []}
    app.command(verb, context_settings=settings, help=f"The RL Zoo's, with its flags: python -m {module}.")(command)


for _verb, _module in zoo.VERBS.items():
    _add_zoo_command(_verb, _module)


def _make_env(env_id: str, env_kwargs: str, normalization: Path | None) -> VecEnv:
    env: VecEnv = make_vec_env(env_id, env_kwargs=_parse_env_kwargs(env_kwargs))
    return env if normalization is None else _normalized(env, normalization)


def _normalized(env: VecEnv, statistics: Path) -> VecNormalize:
    try:
        normalized = VecNormalize.load(str(statistics), env)
    except (AssertionError, AttributeError, EOFError, KeyError, UnpicklingError) as error:
        raise ValueError(
            f"{statistics} holds no statistics that VecNormalize.save wrote for such an env ({error})."
        ) from error
    normalized.training = normalized.norm_reward = False
    return normalized


def _statistics_for(model: BaseAlgorithm, statistics: Path) -> VecNormalize:
    """Statistics without the env."""
    from sb3_asym.export.recording import SampledObservations

    return _normalized(DummyVecEnv([lambda: SampledObservations(model)]), statistics)


def _write_report(report: Any, output: Path) -> None:
    output.parent.mkdir(parents=True, exist_ok=True)
    output.write_text(json.dumps(report.to_dict(), indent=2) + "\n")
    typer.echo(f"Report: {output}")


def _parse_env_kwargs(text: str) -> dict[str, Any]:
    try:
        return json.loads(text)
    except json.JSONDecodeError as error:
        raise ValueError(f"--env-kwargs must be JSON such as '{{\"frame_skip\": 2}}', got {text!r}.") from error


def main() -> None:
    """Run the command line. Bad input ends with one line and exit code 2."""
    try:
        app()
    except (ValueError, TypeError, OSError, ImportError, gym.error.Error) as error:
        typer.echo(f"sb3-asym: {error}", err=True)
        sys.exit(2)


if __name__ == "__main__":
    main()
