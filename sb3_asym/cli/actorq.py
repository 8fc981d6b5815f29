"""``sb3-asym actorq``."""

from contextlib import suppress
from functools import partial
from importlib.util import find_spec
from pathlib import Path
from typing import Annotated, Any, Literal

import typer
from gymnasium import spaces
from stable_baselines3 import DDPG, DQN, SAC, TD3
from stable_baselines3.common.callbacks import BaseCallback, CheckpointCallback
from stable_baselines3.common.vec_env import VecNormalize
from tqdm import tqdm

from sb3_asym.actorq import ActorQ
from sb3_asym.actorq.bench import CONTENDERS, bench_actors
from sb3_asym.asym_sac import AsymSAC
from sb3_asym.cli.common import (
    Env,
    EnvKwargs,
    Normalization,
    find_statistics,
    parse_env_kwargs,
    parse_json_object,
    say_next,
    write_report,
)
from sb3_asym.envs import env_file_name, make_env, make_single_vec_env

ALGORITHMS: dict[str, Any] = {"sac": SAC, "td3": TD3, "ddpg": DDPG, "dqn": DQN, "asym_sac": AsymSAC}

actorq_app = typer.Typer(
    help="Learn with actors that run a quantized policy, and measure such actors.", no_args_is_help=True, add_completion=False
)


@actorq_app.command()
def train(
    env: Env,
    algo: Annotated[Literal["sac", "td3", "ddpg", "dqn", "asym_sac"], typer.Option(help="Algorithm of the learner.")] = "sac",
    steps: Annotated[int, typer.Option("--steps", "-n", help="Env steps, over all actors.")] = 100_000,
    actors: Annotated[int, typer.Option(help="Number of actors.")] = 4,
    precision: Annotated[Literal["int8", "fp16", "fp32"], typer.Option(help="Precision of the actors.")] = "int8",
    pull_every: Annotated[int, typer.Option(help="Env steps after which an actor takes new weights.")] = 100,
    engine: Annotated[Literal["processes", "ray"], typer.Option(help="Processes here, or a Ray cluster.")] = "processes",
    hyperparams: Annotated[str, typer.Option(help="Arguments of the algorithm as JSON.")] = "{}",
    model: Annotated[Path | None, typer.Option(help="An agent of this algorithm to go on from.")] = None,
    seed: Annotated[int, typer.Option(help="Seed of learner and actors.")] = 0,
    checkpoint_every: Annotated[int, typer.Option(help="Env steps between two checkpoints; 0 for none.")] = 0,
    tensorboard: Annotated[Path | None, typer.Option(help="Folder of TensorBoard's logs.")] = None,
    output: Annotated[
        Path | None, typer.Option("--output", "-o", help="Folder to write to; outputs/actorq/ENV by default.")
    ] = None,
    env_kwargs: EnvKwargs = "{}",
    vec_normalize: Normalization = None,
) -> None:
    """Learn with actors that run a quantized policy; writes the agent, a report and a picture of where the time went."""
    kwargs = parse_env_kwargs(env_kwargs)
    folder = output or Path("outputs") / "actorq" / env_file_name(env)
    own_env, log = make_single_vec_env(env, **kwargs), None if tensorboard is None else str(tensorboard)
    if model is None and vec_normalize is not None:
        raise ValueError("--vec-normalize are the statistics of an agent to go on from: name it with --model.")
    if model is None:
        arguments = {
            "device": "cpu",
            "verbose": 1,
            **parse_json_object(hyperparams, "--hyperparams", '{"learning_rate": 0.001}'),
        }
        policy = "MultiInputPolicy" if isinstance(own_env.observation_space, spaces.Dict) else "MlpPolicy"
        agent = ALGORITHMS[algo](policy, own_env, seed=seed, tensorboard_log=log, **arguments)
    else:
        if parse_json_object(hyperparams, "--hyperparams", "{}"):
            raise ValueError("--hyperparams are those of a new agent: leave them out with --model.")
        known = find_statistics(model, vec_normalize)
        if known is not None:
            own_env = VecNormalize.load(str(known), own_env)
        agent = ALGORITHMS[algo].load(model, env=own_env, device="cpu", tensorboard_log=log, seed=seed)
    runner = ActorQ(agent, partial(make_env, env, **kwargs), actors, precision, pull_every, engine)
    folder.mkdir(parents=True, exist_ok=True)
    callbacks: list[BaseCallback] = []
    if checkpoint_every > 0:
        callbacks.append(
            CheckpointCallback(checkpoint_every, str(folder / "checkpoints"), save_replay_buffer=True, save_vecnormalize=True)
        )
    with suppress(KeyboardInterrupt):  # keeps what was learned
        runner.learn(steps, callbacks, reset_num_timesteps=model is None, progress_bar=True)
    agent.save(folder / "agent")
    normalization, statistics = agent.get_vec_normalize_env(), folder / "vecnormalize.pkl"
    statistics.unlink(missing_ok=True)  # those of another agent
    if normalization is not None:
        normalization.save(str(statistics))
    report = runner.report()
    typer.echo(report)
    write_report(report, folder / "report.json")
    if find_spec("matplotlib") is not None:
        report.draw(folder / "report.png")
    options = ["--env", env, "--precision", precision, "-o", "robot"]
    say_next("export", folder / "agent.zip", *options, env_kwargs=env_kwargs)


@actorq_app.command()
def bench(
    env: Env,
    layers: Annotated[str, typer.Option(help="Hidden layers of the policy, such as 256,256.")] = "2048,2048,2048",
    rounds: Annotated[int, typer.Option(help="Rounds, of which medians are shown.")] = 5,
    steps: Annotated[int, typer.Option("--steps", "-n", help="Env steps of each contender in a round.")] = 1000,
    pull_every: Annotated[int, typer.Option(help="Env steps between two pulls of new weights.")] = 1000,
    output: Annotated[Path | None, typer.Option("--output", "-o", help="Also write the report to this JSON file.")] = None,
    env_kwargs: EnvKwargs = "{}",
) -> None:
    """Measure env steps per second of processor time: our C in int8, fp32 and fp16, ONNX Runtime and torch in fp32."""
    try:
        net_arch = [int(width) for width in layers.split(",")]
    except ValueError as error:
        raise ValueError(f"--layers takes hidden layers such as 256,256, got {layers!r}.") from error
    if min(rounds, steps, pull_every, *net_arch) < 1:
        raise ValueError("--rounds, --steps, --pull-every and the widths must be at least 1.")
    make = partial(make_env, **parse_env_kwargs(env_kwargs))
    with tqdm(total=rounds * len(CONTENDERS), desc="rounds", disable=None) as bar:
        report = bench_actors(env, net_arch, rounds, steps, pull_every, make, bar.update)
    typer.echo(report)
    write_report(report, output)
