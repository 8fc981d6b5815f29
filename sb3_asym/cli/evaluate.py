"""``sb3-asym evaluate``."""

from typing import Annotated

import typer
from tqdm import tqdm

from sb3_asym.cli.common import (
    Env,
    EnvKwargs,
    JsonReport,
    Model,
    Normalization,
    Seed,
    load_agent,
    make_normalized_env,
    write_report,
)
from sb3_asym.evaluation import evaluate as evaluate_agent
from sb3_asym.evaluation import n_evaluations


def evaluate(
    model: Model,
    env: Env,
    episodes: Annotated[int, typer.Option("--episodes", "-n", help="Episodes for each way to choose the options.")] = 10,
    seed: Seed = 0,
    stochastic: Annotated[bool, typer.Option(help="Sample actions instead of taking their mean.")] = False,
    compare: Annotated[bool, typer.Option(help="Measure each sub-policy alone and random switching too.")] = True,
    output: JsonReport = None,
    env_kwargs: EnvKwargs = "{}",
    vec_normalize: Normalization = None,
) -> None:
    """Measure return, use of each sub-policy and FLOPs per inference."""
    agent = load_agent(model)
    vec_env = make_normalized_env(env, env_kwargs, model, vec_normalize)
    total = episodes * (n_evaluations(agent) if compare else 1)
    with tqdm(total=total, unit="episode", disable=None) as bar:
        report = evaluate_agent(agent, vec_env, episodes, not stochastic, seed, compare, on_episode=bar.update)
    typer.echo(report)
    write_report(report, output)
