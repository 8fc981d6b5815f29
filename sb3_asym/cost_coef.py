"""λ, the weight of the cost in the master's reward: a number, a schedule, a dial over a range, or steered for a budget."""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from numbers import Real

import numpy as np
import torch as th
from stable_baselines3.common.type_aliases import Schedule
from stable_baselines3.common.utils import FloatSchedule

CostCoef = float | Schedule | str | Sequence[float]
"""A number, a schedule, "dial" or a range ``(low, high)`` for a dial, or a budget such as "auto_0.4"."""


def check_cost_coef(cost_coef: object) -> None:
    """
    Refuse a λ that is no weight.

    :param cost_coef: λ, return per env step of the most expensive sub-policy
    :raises ValueError: if it is negative or not a finite number
    """
    if not isinstance(cost_coef, Real) or isinstance(cost_coef, bool) or not 0 <= float(cost_coef) < float("inf"):
        raise ValueError(f"cost_coef (λ) must be a number or a schedule, finite and at least 0, got {cost_coef!r}.")


ROUNDING = 1e-6
"""Relative error of a λ that was kept as float32."""


@dataclass(frozen=True)
class Dial:
    """
    A range of λ for which one master learns, on a logarithmic scale.

    :param low: least λ, return per env step of the most expensive sub-policy
    :param high: greatest λ
    """

    low: float
    high: float

    @property
    def middle(self) -> float:
        """The geometric mean of the range."""
        return math.sqrt(self.low * self.high)

    def draw(self, n: int) -> np.ndarray:
        """
        Draw λ evenly on the logarithmic scale.

        :param n: number of draws
        :return: ``(n,)``
        """
        return np.exp(np.random.uniform(math.log(self.low), math.log(self.high), n))

    def position(self, cost_coefs: th.Tensor) -> th.Tensor:
        """
        Where λ stands in the range, which is what networks see of it.

        :param cost_coefs: λ, of any shape
        :return: from -1 at the low end to 1 at the high end, of the same shape
        """
        return 2 * (cost_coefs / self.low).log() / math.log(self.high / self.low) - 1

    def clip(self, cost_coef: float) -> float:
        """
        The nearest λ in the range.

        :param cost_coef: λ
        :return: λ in the range
        """
        return min(max(cost_coef, self.low), self.high)

    def steering_rate(self, option_length: int) -> float:
        """
        How fast λ is steered for a budget: within an option, by at most a tenth of the range.

        :param option_length: env steps for which options are held
        :return: growth of log λ in an env step that costs as much as the largest sub-policy beyond the budget
        """
        return min(0.1, math.log(self.high / self.low) / (10 * option_length))

    def steer(self, cost_coefs: np.ndarray, excess: np.ndarray, option_length: int) -> np.ndarray:
        """
        λ after an env step, so that mean costs tend to a budget: dual ascent on log λ, integral control of the cost (Stooke et
        al. 2020, "Responsive safety in reinforcement learning by PID Lagrangian methods", arXiv 2007.03964).

        :param cost_coefs: λ before, of any shape
        :param excess: what the step costs beyond the budget, as a share of the largest sub-policy's FLOPs, of that shape
        :param option_length: env steps for which options are held
        :return: λ in the range, of that shape
        """
        return np.clip(cost_coefs * np.exp(self.steering_rate(option_length) * excess), self.low, self.high)

    def check(self, cost_coef: float) -> None:
        """
        Refuse a λ for which nothing was learned.

        :param cost_coef: λ
        :raises ValueError: if it is out of the range, or no number
        """
        check_cost_coef(cost_coef)
        if not self.low * (1 - ROUNDING) <= cost_coef <= self.high * (1 + ROUNDING):
            raise ValueError(f"cost_coef (λ) must be in the dial's range, {self.low:g} to {self.high:g}, got {cost_coef!r}.")


DEFAULT_DIAL = Dial(0.001, 10.0)


def dial_of(cost_coef: CostCoef) -> Dial | None:
    """
    The range for which a master learns.

    :param cost_coef: λ as the user gives it
    :return: the range, or None for a number or a schedule
    :raises ValueError: if it is neither
    """
    if isinstance(cost_coef, str):
        if cost_coef != "dial":
            budget_of(cost_coef)
        return DEFAULT_DIAL
    if not isinstance(cost_coef, Sequence):
        CostCoefSchedule(cost_coef)
        return None
    for value in cost_coef:
        check_cost_coef(value)
    values = [float(value) for value in cost_coef]
    if len(values) != 2 or not 0 < values[0] < values[1]:
        raise ValueError(f"A dial needs a range of positive numbers such as (0.01, 10), got {cost_coef!r}.")
    return Dial(*values)


def budget_of(cost_coef: CostCoef) -> float | None:
    """
    The budget for which λ is steered.

    :param cost_coef: λ as the user gives it
    :return: mean cost, as a share of the most expensive sub-policy's, or None where it is no budget
    :raises ValueError: if it is a string that is neither a budget nor "dial"
    """
    if not isinstance(cost_coef, str) or cost_coef == "dial":
        return None
    kind, _, share = cost_coef.partition("_")
    try:
        return check_budget(float(share if kind == "auto" else "nan"))
    except ValueError as error:
        raise ValueError(
            f"cost_coef (λ) must be a number, a schedule, 'dial', a range for it, or a budget such as 'auto_0.4', which is a "
            f"share of the largest sub-policy's FLOPs above 0 and up to 1; got {cost_coef!r}."
        ) from error


def check_budget(budget: float) -> float:
    """
    Refuse what is no share of a cost.

    :param budget: mean cost, as a share of the largest sub-policy's
    :return: the same
    :raises ValueError: if it is out of (0, 1]
    """
    if not 0 < budget <= 1:
        raise ValueError(f"A budget is a share of the largest sub-policy's FLOPs, above 0 and up to 1, got {budget!r}.")
    return budget


def cost_coef_for(budget: float, curve: Sequence[Sequence[float]]) -> float:
    """
    The least of several λ under which an agent keeps to a budget. Between two of them its cost may jump, so none is made up.

    :param budget: greatest mean cost, as a share of the largest sub-policy's
    :param curve: λ, rising, with the mean cost that was measured under it
    :return: λ
    :raises ValueError: if all of the curve costs more, or the budget is out of (0, 1]
    """
    check_budget(budget)
    within = [point[0] for point in curve if point[1] <= budget]
    if not within:
        least = min(point[1] for point in curve)
        raise ValueError(f"The agent costs {least:.1%} of its largest sub-policy at the least, more than {budget:.1%}.")
    return within[0]


class CostCoefSchedule:
    """
    λ over the course of training.

    :param cost_coef: a number, or a function of the training progress that remains, from 1 (start) to 0 (end)
    :raises ValueError: if λ is negative or not a finite number at the start
    """

    def __init__(self, cost_coef: CostCoef):
        check_cost_coef(cost_coef(1.0) if callable(cost_coef) else cost_coef)
        self._schedule = FloatSchedule(cost_coef)  # type: ignore[arg-type]

    def __call__(self, progress_remaining: float) -> float:
        """
        The present λ.

        :param progress_remaining: training progress that remains; with several envs, the last step may go below 0
        :return: λ, return per env step
        :raises ValueError: if λ is negative or not a finite number
        """
        cost_coef = self._schedule(max(progress_remaining, 0.0))
        check_cost_coef(cost_coef)
        return cost_coef
