"""Options and steps that several commands share."""

import json
import shlex
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Annotated, Any

import typer
from stable_baselines3.common.base_class import BaseAlgorithm
from stable_baselines3.common.vec_env import VecEnv, VecNormalize
from tqdm import tqdm

from sb3_asym.asym_sac import AsymSAC
from sb3_asym.deployment import load_statistics
from sb3_asym.envs import find_vec_normalize, load_vec_normalize, make_single_vec_env
from sb3_asym.export.folder import MANIFEST

Model = Annotated[Path, typer.Argument(help="The agent: a zip file that AsymSAC.save wrote.")]
Env = Annotated[str, typer.Option("--env", help="Gymnasium id of the env, such as Pendulum-v1.")]
EnvKwargs = Annotated[str, typer.Option(help="Arguments of the env as JSON, such as '{\"frame_skip\": 2}'.")]
Normalization = Annotated[
    Path | None,
    typer.Option("--vec-normalize", help="Statistics that VecNormalize.save wrote; those saved beside the agent by default."),
]
Seed = Annotated[int, typer.Option(help="Seed of the env.")]
JsonReport = Annotated[Path | None, typer.Option("--output", "-o", help="Also write the report to this JSON file.")]


class StageBar:
    """A progress bar for each stage, with the time that it has left."""

    def __init__(self) -> None:
        self._bar: tqdm | None = None
        self._stage = ""

    def __enter__(self) -> "StageBar":
        return self

    def __exit__(self, *_: object) -> None:
        if self._bar is not None:
            self._bar.close()

    def __call__(self, stage: str, share: float) -> None:
        if stage != self._stage:
            self.__exit__()
            form = "{l_bar}{bar}| {elapsed}<{remaining}"
            self._stage, self._bar = stage, tqdm(total=100, desc=stage, bar_format=form, disable=None)
        assert self._bar is not None
        self._bar.update(round(100 * share) - self._bar.n)


def load_agent(path: Path) -> AsymSAC:
    """
    The agent of a command.

    :param path: file that ``AsymSAC.save`` wrote
    :return: the agent, on the CPU
    """
    return AsymSAC.load(path, device="cpu")


def make_normalized_env(env_id: str, env_kwargs: str, model: Path, statistics: Path | None) -> VecEnv:
    """
    The env of a command, normalized as the agent's was.

    :param env_id: Gymnasium id
    :param env_kwargs: arguments of the env as JSON
    :param model: path to the agent
    :param statistics: path to the statistics of VecNormalize; by default those saved beside the agent
    :return: the env, with statistics that do not change, if there are any
    """
    env = make_single_vec_env(env_id, **parse_env_kwargs(env_kwargs))
    statistics = find_statistics(model, statistics)
    return env if statistics is None else load_vec_normalize(statistics, env)


def find_and_load_statistics(agent: BaseAlgorithm, model: Path, statistics: Path | None) -> VecNormalize | None:
    """
    Statistics of VecNormalize without the env.

    :param agent: the agent
    :param model: path to it
    :param statistics: path to the statistics; by default those saved beside the agent
    :return: the statistics, or None
    """
    statistics = find_statistics(model, statistics)
    return None if statistics is None else load_statistics(agent, statistics)


def find_statistics(model: Path, given: Path | None) -> Path | None:
    """
    The statistics that belong to an agent, with a line where they were not named.

    :param model: path to the agent
    :param given: path that was named
    :return: path to the statistics, or None
    """
    found = given or find_vec_normalize(model)
    if found is not None and given is None:
        typer.echo(f"Observations are normalized with {found}.", err=True)
    return found


@contextmanager
def as_bad_input(*kinds: type[Exception]) -> Iterator[None]:
    """
    Let errors that tell a person what to do end the command without a traceback.

    :param kinds: classes of such errors
    """
    try:
        yield
    except kinds as error:
        raise ValueError(str(error)) from error


def parse_env_kwargs(text: str) -> dict[str, Any]:
    """
    Arguments of an env.

    :param text: JSON
    :return: values by name
    :raises ValueError: if it is no JSON object
    """
    return parse_json_object(text, "--env-kwargs", '{"frame_skip": 2}')


def parse_json_object(text: str, option: str, example: str) -> dict[str, Any]:
    """
    An option that takes arguments by name.

    :param text: JSON
    :param option: name of the option
    :param example: what it takes, for the message
    :return: values by name
    :raises ValueError: if it is no JSON object
    """
    try:
        parsed = json.loads(text)
    except json.JSONDecodeError:
        parsed = None
    if not isinstance(parsed, dict):
        raise ValueError(f"{option} must be JSON such as '{example}', got {text!r}.")
    return parsed


def say_next(*words: object, env_kwargs: str = "{}", **options: object) -> None:
    """
    Print a command that goes on from here, to be pasted.

    :param words: its name and arguments
    :param env_kwargs: arguments of the env as JSON, which it is given if there are any
    :param options: further options by name, left out where they are None
    """
    line = ["sb3-asym", *map(str, words)]
    if parse_env_kwargs(env_kwargs):
        line += ["--env-kwargs", env_kwargs]
    for name, value in options.items():
        line += [] if value is None else [f"--{name.replace('_', '-')}", str(value)]
    typer.echo(f"Next: {shlex.join(line)}")


def write_report(report: Any, output: Path | None) -> None:
    """
    Write a report as JSON, if that is wanted.

    :param report: a report with ``to_dict``
    :param output: file, or None
    """
    if output is not None:
        if output.name == MANIFEST and output.exists():
            raise ValueError(f"{output} belongs to an export: write the report to another file.")
        output.parent.mkdir(parents=True, exist_ok=True)
        output.write_text(json.dumps(report.to_dict(), indent=2) + "\n", encoding="utf-8")
        typer.echo(f"Report: {output}")
