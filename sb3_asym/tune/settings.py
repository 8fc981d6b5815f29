"""What is tuned, and how."""

import json
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import gymnasium as gym
import rl_zoo3.exp_manager
from stable_baselines3.common.utils import get_device

from sb3_asym.envs import find_envs


@dataclass(frozen=True)
class TuneSettings:
    """
    What is tuned, and how.

    :param env: Gymnasium id
    :param output: folder for the trained agents, the table and the picture
    :param n_trials: trials of the study as a whole, whoever does them
    :param n_timesteps: env steps of a training; -1 for the hyperparameters' own
    :param n_seeds: trainings per trial, of which the mean counts
    :param n_eval_episodes: episodes to measure an agent
    :param cost_coef: least and greatest λ, on a logarithmic scale
    :param option_length: least and greatest option length, or None to leave it
    :param sizes: whether to search the sub-policies' sizes too
    :param budget: share of the large sub-policy's FLOPs that an agent may cost, or None for the Pareto front
    :param storage: Optuna storage: a URL, or a file that ends in ".log" (JournalStorage); SQLite in ``output`` by default
    :param study_name: name of the study; by default the env's id
    :param config: hyperparameters, as the Zoo's ``-conf``
    :param hyperparams: hyperparameters that replace those, as the Zoo's ``-params``
    :param device: torch device
    :raises ValueError: if a range is empty, a number out of range, a hyperparameter is searched, or there is no such device
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
        if self.budget is not None and not 0 < self.budget <= 1:
            raise ValueError(f"The budget is a share of the large sub-policy's FLOPs, in (0, 1], got {self.budget}.")
        searched = {"cost_coef", *(["option_length"] if self.option_length else [])} & set(self.hyperparams)
        if searched:
            raise ValueError(f"The study searches {', '.join(sorted(searched))}: give its range, not a hyperparameter.")
        if self.config and self.config.endswith((".yml", ".yaml", ".py")) and not Path(self.config).is_file():
            raise FileNotFoundError(f"There is no file {self.config} with hyperparameters.")
        find_envs([self.env])
        gym.spec(self.env)
        try:
            get_device(self.device)
        except RuntimeError as error:
            raise ValueError(f"There is no device {self.device!r}.") from error
        if min(self.n_trials, self.n_seeds, self.n_eval_episodes) < 1:
            raise ValueError("Trials, seeds and episodes must be at least 1.")

    @property
    def fixed(self) -> dict[str, Any]:
        """What all trials of a study have in common."""
        names = ("env", "n_timesteps", "n_seeds", "budget", "sizes", "cost_coef", "option_length")
        return json.loads(json.dumps({name: getattr(self, name) for name in names}))

    def folder(self, number: int) -> Path:
        """
        :param number: of a trial
        :return: where its agents are
        """
        return self.output / "trials" / str(number)


def parse_hyperparams(arguments: Sequence[str]) -> dict[str, Any]:
    """
    :param arguments: each ``name:value``, as the Zoo's ``-params`` takes them
    :return: the values by name
    :raises ValueError: if one is not of that form
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
    return found
