"""``sb3-asym tune``."""

import sys
from pathlib import Path
from typing import Annotated

import typer
from tqdm import tqdm

from sb3_asym.cli.common import Env
from sb3_asym.envs import env_file_name


def tune(
    env: Env,
    output: Annotated[
        Path | None, typer.Option("--output", "-o", help="Folder of the results; outputs/tune/ENV by default.")
    ] = None,
    trials: Annotated[
        int, typer.Option("--n-trials", help="Trials of the study as a whole, of all processes and machines together.")
    ] = 20,
    jobs: Annotated[int, typer.Option("--n-jobs", help="Number of processes.")] = 1,
    timesteps: Annotated[
        int, typer.Option("--n-timesteps", "-n", help="Env steps of a training; -1: those of the hyperparameters.")
    ] = -1,
    seeds: Annotated[int, typer.Option(help="Trainings per trial, of which the mean counts.")] = 1,
    episodes: Annotated[int, typer.Option(help="Episodes to measure an agent.")] = 10,
    cost_coef: Annotated[tuple[float, float], typer.Option(help="Least and greatest λ.")] = (1e-3, 1.0),
    option_length: Annotated[
        tuple[int, int] | None, typer.Option(help="Search the option length too, from the least to the greatest.")
    ] = None,
    sizes: Annotated[bool, typer.Option("--sizes", help="Search the sub-policies' sizes too.")] = False,
    budget: Annotated[float | None, typer.Option(help="Maximize the return at this share of the large one's FLOPs.")] = None,
    storage: Annotated[str | None, typer.Option(help="Optuna storage: a file that ends in .db or .log, or a URL.")] = None,
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
        from sb3_asym.evaluation.plotting import pareto_front
        from sb3_asym.tune import report
        from sb3_asym.tune.settings import parse_hyperparams
    except ImportError as error:
        raise ImportError(f"Tuning needs more packages ({error}): pip install 'sb3-asym[zoo,tune,plots]'") from error
    settings = tuning.TuneSettings(
        env=env,
        output=output or Path("outputs") / "tune" / env_file_name(env),
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
        try:
            results = tuning.tune(
                settings,
                jobs,
                on_finished=lambda n_finished: bar.update(n_finished - bar.n),
                on_message=lambda line: bar.write(line, file=sys.stderr),
            )
        except tuning.TuningError as error:
            bar.write(f"sb3-asym: {error}", file=sys.stderr)
            raise typer.Exit(1) from error
    if not results:
        raise ValueError("No trial has finished; the same command goes on.")
    report.write_csv(results, settings.output / "trials.csv")
    best = [result for result in results if result.best]
    largest = max(best or results, key=lambda result: result.mean_reward)
    pareto_front(
        [(result.flops_per_inference, result.mean_reward) for result in results],
        [result.best for result in results],
        {name: (flops, reward) for name, (reward, flops) in largest.alone.items()},
        settings.output / "pareto.png",
        title=f"{env}: {len(results)} trials",
        values=("λ", [result.cost_coef for result in results]),
    )
    typer.echo(report.table(best))
    typer.echo(f"All trials: {settings.output / 'trials.csv'}, picture: {settings.output / 'pareto.png'}")
    choice = report.chosen(results)
    typer.echo(f"Trial {choice.number} is in {choice.folder}; to train it in full:")
    typer.echo(report.training_command(choice, settings))
