"""λ, the weight of the cost in the master's reward: a number or a schedule."""

from numbers import Real

from stable_baselines3.common.type_aliases import Schedule
from stable_baselines3.common.utils import FloatSchedule

CostCoef = float | Schedule


def check_cost_coef(cost_coef: object) -> None:
    """
    Refuse a λ that is no weight.

    :param cost_coef: λ, return per env step of the most expensive sub-policy
    :raises ValueError: if it is negative or not a finite number
    """
    if not isinstance(cost_coef, Real) or isinstance(cost_coef, bool) or not 0 <= float(cost_coef) < float("inf"):
        raise ValueError(f"cost_coef (λ) must be a number or a schedule, finite and at least 0, got {cost_coef!r}.")


class CostCoefSchedule:
    """
    λ over the course of training.

    :param cost_coef: a number, or a function of the training progress that remains, from 1 (start) to 0 (end)
    :raises ValueError: if λ is negative or not a finite number at the start
    """

    def __init__(self, cost_coef: CostCoef):
        check_cost_coef(cost_coef(1.0) if callable(cost_coef) else cost_coef)
        self._schedule = FloatSchedule(cost_coef)

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
