"""Behavioural cloning: students that learn from the teacher's own episodes only."""

from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import gymnasium as gym
from stable_baselines3.common.base_class import BaseAlgorithm

from sb3_asym.distillation import DistillationReport, DistillationSettings
from sb3_asym.distillation.distill import Distillation


def behavioural_cloning(
    model: BaseAlgorithm,
    env: str | Callable[[], gym.Env],
    sizes: Sequence[Sequence[int]] | None = None,
    output: str | Path | None = None,
    settings: DistillationSettings | None = None,
    **kwargs: Any,
) -> DistillationReport:
    """
    Clone a trained agent into students of a ladder of sizes.

    All is as in :func:`sb3_asym.distillation.distill` (losses, schedule, number of env steps, selection, held-out episodes),
    but for the states: no student ever acts while they are collected, so they are those of the teacher's own episodes. No
    agents that switch are made.

    :param model: the teacher
    :param env: Gymnasium id, or function that makes an env
    :param sizes: hidden layers of each size of student; a ladder by default
    :param output: folder for the report and the agents: a new or an empty one
    :param settings: effort; the students' share of acting and the steps of switching agents are set to 0
    :param kwargs: further arguments of :func:`sb3_asym.distillation.distill`
    :return: the report
    :raises ValueError: as :func:`sb3_asym.distillation.distill`
    :raises FileExistsError: if the output folder is not empty
    """
    settings = replace(settings or DistillationSettings(), student_share=(0.0, 0.0), n_switching_steps=0)
    return _Cloning(model, env, sizes, settings=settings, **kwargs).report(output)


class _Cloning(Distillation):
    """One run of :func:`behavioural_cloning`."""

    method = "bc"
