"""Settings of a study."""

import re
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import gymnasium as gym
import rl_zoo3.exp_manager
from stable_baselines3.common.utils import get_device

from sb3_asym.cost_coef import check_budget, dial_of
from sb3_asym.tune.experiment import SIZES, policy_kwargs_with_sizes, read_hyperparameters, registered_id


@dataclass(frozen=True)
class TuneSettings:
    """
    The search space of a study, its trainings, and the place of its results.

    :param env: Gymnasium id, which may have its module in front
    :param output: folder for the trained agents, the table and the picture
    :param n_trials: trials of the study as a whole, those of all processes and machines together
    :param n_timesteps: env steps of a training; -1 for the hyperparameters' own
    :param n_seeds: trainings per trial, of which the mean counts
    :param n_eval_episodes: episodes to measure an agent
    :param cost_coef: least and greatest λ, on a logarithmic scale; unless the hyperparameters have a dial or a
        budget
    :param option_length: least and greatest option length in env steps, or None to leave it
    :param sizes: True to search the sub-policies' sizes too
    :param budget: share of the large sub-policy's FLOPs that an agent may cost, or None for the Pareto front
    :param storage: Optuna storage: a file that ends in ".db" (SQLite) or ".log" (JournalStorage), or the URL of a database or
        of Redis; SQLite in ``output`` by default
    :param study_name: name of the study; by default the env's id
    :param config: hyperparameters, as the Zoo's ``-conf``
    :param hyperparams: hyperparameters that replace those, as the Zoo's ``-params``
    :param device: torch device
    :raises ValueError: if a range is empty, a number out of range, a hyperparameter is searched, the hyperparameters cannot be
        read, or there is no such device
    :raises FileNotFoundError: if there is no such file
    :raises gymnasium.error.Error: if there is no such env
    """

    env: str
    output: Path
    n_trials: int = 20
    n_timesteps: int = -1
    n_seeds: int = 1
    n_eval_episodes: int = 10
    cost_coef: tuple[float, float] = (1e-3, 1.0)
    option_length: tuple[int, int] | None = None
    sizes: bool = False
    budget: float | None = None
    storage: str | None = None
    study_name: str | None = None
    config: str | None = None
    hyperparams: dict[str, Any] = field(default_factory=dict)
    device: str = "cpu"

    def __post_init__(self) -> None:
        if not 0 < self.cost_coef[0] <= self.cost_coef[1]:
            raise ValueError(f"λ needs a range of positive numbers such as 0.001 1.0, got {self.cost_coef}.")
        if self.option_length is not None and not 1 <= self.option_length[0] <= self.option_length[1]:
            raise ValueError(f"The option length needs a range of at least 1 such as 1 20, got {self.option_length}.")
        if self.budget is not None:
            check_budget(self.budget)
        if self.config and self.config.endswith((".yml", ".yaml", ".py")) and not Path(self.config).is_file():
            raise FileNotFoundError(f"There is no file {self.config} with hyperparameters.")
        gym.spec(registered_id(self.env))
        try:
            get_device(self.device)
        except RuntimeError as error:
            raise ValueError(f"There is no device {self.device!r}.") from error
        if min(self.n_trials, self.n_seeds, self.n_eval_episodes) < 1:
            raise ValueError("Trials, seeds and episodes must be at least 1.")
        searches_cost_coef = self.searches_cost_coef
        searched = {
            *(["cost_coef"] if searches_cost_coef else []),
            *(["option_length"] if self.option_length else []),
        } & set(self.hyperparams)
        if searched:
            raise ValueError(f"The study searches {', '.join(sorted(searched))}: give its range, not a hyperparameter.")
        if not (searches_cost_coef or self.option_length or self.sizes):
            raise ValueError("A dial or a budget leaves no λ to search: search the option length or the sizes.")

    def read_hyperparameters(self) -> dict[str, Any]:
        """
        The hyperparameters that all trials share, from the file and the arguments.

        :return: values by name, as they are written there
        :raises ValueError: if they cannot be read
        """
        return read_hyperparameters(self.env, self.config, self.hyperparams)

    @property
    def searches_cost_coef(self) -> bool:
        """False where each agent has a dial, or a budget."""
        return dial_of(self.read_hyperparameters().get("cost_coef", 0.0)) is None

    @property
    def fixed(self) -> dict[str, Any]:
        """What all trials of a study have in common, as JSON values by name."""
        names = ("env", "n_timesteps", "n_seeds", "n_eval_episodes", "budget", "sizes", "cost_coef", "option_length")
        values = {name: getattr(self, name) for name in names}
        hyperparams = self.read_hyperparameters()
        if self.searches_cost_coef:
            hyperparams.pop("cost_coef", None)
        else:
            del values["cost_coef"]
        if self.option_length is not None:
            hyperparams.pop("option_length", None)
        if self.n_timesteps > 0:
            hyperparams.pop("n_timesteps", None)
        if self.sizes:
            hyperparams["policy_kwargs"] = policy_kwargs_with_sizes(hyperparams, {})
            values["size_choices"] = SIZES
        return _as_json({**values, "hyperparams": hyperparams})

    def folder(self, number: int) -> Path:
        """
        The folder of a trial's agents.

        :param number: number of the trial
        :return: path below ``output``
        """
        return self.output / "trials" / str(number)


def _as_json(value: Any) -> Any:
    """The value in types that JSON has; others become their description, without an address in memory."""
    if isinstance(value, dict):
        return {str(key): _as_json(part) for key, part in value.items()}
    if isinstance(value, list | tuple):
        return [_as_json(part) for part in value]
    if value is None or isinstance(value, bool | int | float | str):
        return value
    return re.sub(r" at 0x[0-9A-Fa-f]+", "", repr(value))


def parse_hyperparams(arguments: Sequence[str]) -> dict[str, Any]:
    """
    Hyperparameters from the command line.

    :param arguments: each ``name:value``, as the Zoo's ``-params`` takes them
    :return: the values by name
    :raises ValueError: if one is not of that form, or its value cannot be evaluated
    """
    found = {}
    for argument in arguments:
        name, colon, value = argument.partition(":")
        if not colon:
            raise ValueError(f"A hyperparameter is given as name:value, got {argument!r}.")
        try:
            found[name] = eval(value, vars(rl_zoo3.exp_manager))  # as the Zoo does
        except (NameError, SyntaxError):
            found[name] = value
        except Exception as error:
            raise ValueError(f"The value of the hyperparameter {argument!r} cannot be evaluated ({error}).") from error
    return found
