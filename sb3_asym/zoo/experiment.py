"""The Zoo's experiments, adapted to ``asym_sac``."""

from typing import Any

import optuna
from rl_zoo3.exp_manager import ExperimentManager

from sb3_asym.zoo import ALGO, hyperparameters_path


class AsymExperimentManager(ExperimentManager):
    """
    The Zoo's ``ExperimentManager`` with default hyperparameters of ``asym_sac``, whose failed trials do not count as pruned.

    :param args: parsed arguments of the command
    :param algo: name of the algorithm
    :param rest: further positional arguments of the Zoo's class
    :param kwargs: further keyword arguments of the Zoo's class
    """

    def __init__(self, args: Any, algo: str, *rest: Any, **kwargs: Any):
        if kwargs.get("config") is None and algo == ALGO:
            kwargs["config"] = str(hyperparameters_path())
        super().__init__(args, algo, *rest, **kwargs)

    def objective(self, trial: optuna.Trial) -> float:
        """
        Run a trial as the Zoo does.

        :param trial: trial of the study
        :return: mean return of the last evaluation
        :raises TrialPruned: if the pruner stops the trial, or training diverged
        :raises RuntimeError: if the trial failed for another reason, which the Zoo would count as pruned
        """
        if self.algo != ALGO:
            return super().objective(trial)
        try:
            return super().objective(trial)
        except FloatingPointError as error:
            raise optuna.TrialPruned(str(error)) from error
        except optuna.TrialPruned as pruned:
            if pruned.__cause__ is None:
                raise
            raise RuntimeError(f"Trial {trial.number} failed: {pruned.__cause__}") from pruned.__cause__
