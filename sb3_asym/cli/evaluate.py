"""``sb3-asym evaluate``."""

from pathlib import Path
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
    dial: Annotated[bool, typer.Option("--dial", help="Measure an agent with a dial under nine λ of its range.")] = False,
    cost_coef: Annotated[list[float] | None, typer.Option(help="λ to measure an agent with a dial under; repeat it.")] = None,
    plot: Annotated[Path | None, typer.Option(help="Picture of return against cost.")] = None,
    save: Annotated[Path | None, typer.Option(help="Write the agent with the curve of its dial, for set_budget.")] = None,
    output: JsonReport = None,
    env_kwargs: EnvKwargs = "{}",
    vec_normalize: Normalization = None,
) -> None:
    """Measure return, use of each sub-policy and FLOPs per inference."""
    agent = load_agent(model)
    vec_env = make_normalized_env(env, env_kwargs, model, vec_normalize)
    cost_coefs = "dial" if dial else cost_coef or ()
    with tqdm(total=episodes * n_evaluations(agent, compare, cost_coefs), unit="episode", disable=None) as bar:
        report = evaluate_agent(agent, vec_env, episodes, not stochastic, seed, compare, bar.update, cost_coefs)
    typer.echo(report)
    if save is not None:
        agent.save(save)
    write_report(report, output)
    if plot is not None:
        from sb3_asym.evaluation.plotting import switching

        switching(report, plot, title=env)
