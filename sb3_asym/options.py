"""Options of fixed length: the clock, the SMDP return and statistics.

An option is one sub-policy held for ``option_length`` env steps, or until the episode ends
(Sutton, Precup & Singh, 1999, "Between MDPs and semi-MDPs").
"""

from collections.abc import Callable, Sequence
from typing import NamedTuple

import numpy as np
from stable_baselines3.common.logger import Logger

NO_OPTION = -1
"""Option of a step without a sub-policy, as in the random warm-up before learning starts."""


class OptionState(NamedTuple):
    """
    State of the option clock, with one row per env.

    :param option: options in force, ``(n_envs,)``
    :param steps_left: env steps that the options have left, ``(n_envs,)``; at 0 the next step starts a new option
    """

    option: np.ndarray
    steps_left: np.ndarray


class SteeredState(NamedTuple):
    """
    State of the option clock and of what is spent of a budget, with one row per env.

    :param option: as in ``OptionState``
    :param steps_left: as in ``OptionState``
    :param cost_coefs: λ for the next choices, ``(n_envs,)``
    """

    option: np.ndarray
    steps_left: np.ndarray
    cost_coefs: np.ndarray


def advance_options(
    state: tuple[np.ndarray, ...] | None,
    episode_start: np.ndarray | None,
    n_envs: int,
    option_length: int,
    choose: Callable[[np.ndarray], np.ndarray | int],
) -> OptionState:
    """
    Advance the option clock by one env step.

    A new option starts where there is no state yet, where the last option has run out, and where an episode starts.
    The arguments are not changed.

    :param state: state after the last step (see ``OptionState``), or None to start a new option everywhere
    :param episode_start: ``(n_envs,)`` True where the coming step is the first of an episode
    :param n_envs: number of envs
    :param option_length: env steps for which an option is held
    :param choose: function from the mask ``(n_envs,)`` of the envs that need a new option to one option for each of them
    :return: state for the coming step, with the steps left after it
    :raises ValueError: if the state does not have one row per env
    """
    if state is None:
        option, steps_left = np.full(n_envs, NO_OPTION), np.zeros(n_envs, dtype=np.int64)
    else:
        option, steps_left = state[:2]
        if len(option) != n_envs:
            raise ValueError(
                f"The option state has {len(option)} rows but there are {n_envs} envs: pass state=None to start over."
            )
    due = steps_left <= 0
    if episode_start is not None:
        due = due | np.asarray(episode_start, dtype=bool)
    if due.any():
        option = option.copy()
        option[due] = choose(due)
        steps_left = np.where(due, option_length, steps_left)
    return OptionState(option, steps_left - 1)


def mean_duration(option_length: int, gamma: float) -> float:
    """
    Mean discounted duration of an option that ends after each step with probability 1/n.

    :param option_length: mean length n, env steps
    :param gamma: discount factor of one env step
    :return: Σ_i (γ (1 − 1/n))^i, env steps
    """
    return 1 / (1 - gamma * (1 - 1 / option_length))


class OptionReturn(NamedTuple):
    r"""
    Reward and discount of option transitions that ran k steps each (SMDP, Sutton et al. 1999, section 3).

    The net reward at λ is ``rewards − λ · c_ω · durations``.

    :param rewards: discounted rewards :math:`\sum_{i<k} \gamma^i r_{t+i}`, ``(n_options,)``
    :param durations: discounted durations :math:`\sum_{i<k} \gamma^i`, ``(n_options,)``, env steps
    :param discounts: discounts :math:`\gamma^k` of the value after the option, ``(n_options,)``
    """

    rewards: np.ndarray
    durations: np.ndarray
    discounts: np.ndarray


def option_return(rewards: np.ndarray, lengths: np.ndarray, gamma: float) -> OptionReturn:
    """
    Sum the rewards of option transitions over their primitive steps.

    :param rewards: rewards of the primitive steps, ``(n_options, option_length)``; those after an option's end are ignored
    :param lengths: env steps k that each option ran, ``(n_options,)``
    :param gamma: discount factor of one env step
    :return: rewards, durations and discounts
    """
    powers = gamma ** np.arange(rewards.shape[1] + 1)
    ran = np.arange(rewards.shape[1]) < lengths[:, None]
    durations = np.concatenate(([0.0], np.cumsum(powers[:-1])))
    return OptionReturn(np.where(ran, rewards, 0.0) @ powers[:-1], durations[lengths], powers[lengths])


class OptionStatistics:
    """
    Counts of the use of the options.

    ``steps`` are the env steps in which each option was in force, ``(n_options,)``; ``n_choices`` counts the choices of an
    option, ``n_switches`` the changes of the sub-policy within an episode, and ``n_episodes`` the episodes that ended.

    :param n_options: number of sub-policies
    :param n_envs: number of envs
    """

    def __init__(self, n_options: int, n_envs: int):
        self._last_options = np.full(n_envs, NO_OPTION)
        self.steps = np.zeros(n_options, dtype=np.int64)
        self.reset()

    def reset(self) -> None:
        """Set all counts to zero, which may be done within an episode."""
        self.steps = np.zeros_like(self.steps)
        self.n_choices = self.n_switches = self.n_episodes = 0

    def count(self, options: np.ndarray, started: np.ndarray, dones: np.ndarray, counted: np.ndarray | None = None) -> None:
        """
        Count one step of all envs.

        :param options: options in force, ``(n_envs,)``
        :param started: ``(n_envs,)`` True where this is the option's first step
        :param dones: ``(n_envs,)`` True where the episode ends with this step
        :param counted: ``(n_envs,)`` True where the env counts; by default all envs do
        """
        counted = np.ones(len(options), dtype=bool) if counted is None else counted
        self.steps += np.bincount(options[counted], minlength=len(self.steps))
        self.n_choices += int(np.count_nonzero(started & counted))
        self.n_switches += int(np.count_nonzero(counted & (self._last_options != NO_OPTION) & (options != self._last_options)))
        self.n_episodes += int(np.count_nonzero(dones & counted))
        self._last_options = np.where(dones, NO_OPTION, options)

    def record(self, logger: Logger, names: Sequence[str], flops: float, largest: float) -> None:
        """
        Log the use of the options under ``asym/``.

        :param logger: where to
        :param names: names of the options
        :param flops: mean FLOPs per inference
        :param largest: those of the most expensive option
        """
        for name, use in zip(names, self.steps / self.steps.sum(), strict=True):
            logger.record(f"asym/{name}_use", use)
        logger.record("asym/flops_per_inference", flops)
        logger.record("asym/flops_reduction", 1 - flops / largest)
        if self.n_episodes > 0:
            logger.record("asym/switches_per_episode", self.n_switches / self.n_episodes)


def check_option_arguments(n_options: int, option_length: int) -> None:
    """
    Check the number of sub-policies and the length of an option.

    :param n_options: number of sub-policies
    :param option_length: env steps for which an option is held
    :raises ValueError: if there are fewer than two sub-policies, or the length is not an integer of at least 1
    """
    if n_options < 2:
        raise ValueError(f"Switching needs at least two sub-policies, got {n_options}.")
    if not isinstance(option_length, int | np.integer) or option_length < 1:
        raise ValueError(f"option_length must be an integer of at least 1 env step, got {option_length!r}.")
