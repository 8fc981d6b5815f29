"""Behavioural cloning: students that learn from the teacher's own episodes only."""

from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path

import gymnasium as gym
from stable_baselines3.common.base_class import BaseAlgorithm
from stable_baselines3.common.vec_env import VecNormalize

from sb3_asym.distillation import DistillationReport, DistillationSettings, distill
from sb3_asym.distillation.distill import Progress


def behavioural_cloning(
    model: BaseAlgorithm,
    env: str | Callable[[], gym.Env],
    sizes: Sequence[Sequence[int]] | None = None,
    keep: float = 0.98,
    budget: float | None = None,
    output: str | Path | None = None,
    loss: str = "robust",
    vec_normalize: VecNormalize | None = None,
    int8: bool = False,
    seed: int = 0,
    n_eval_episodes: int = 20,
    settings: DistillationSettings | None = None,
    on_progress: Progress = lambda stage, share: None,
) -> DistillationReport:
    """
    Clone a trained agent into students of a ladder of sizes.

    All is as in :func:`sb3_asym.distillation.distill` (losses, schedule, number of env steps, selection, held-out episodes),
    but for the states: no student ever acts while they are collected, so they are those of the teacher's own episodes. No
    agents that switch are made.

    :param model: the teacher: SAC, TD3, DDPG, TQC, PPO, A2C, DQN or QRDQN
    :param env: Gymnasium id, or function that makes an env, with observations as they are: not normalized
    :param sizes: hidden layers of each size of student; a ladder by default
    :param keep: share of the teacher's return to keep
    :param budget: FLOPs per inference that may be spent, in place of ``keep``
    :param output: folder for the report and the agents: a new or an empty one
    :param loss: one of :data:`sb3_asym.distillation.students.LOSSES`
    :param vec_normalize: statistics of the teacher's observations; those of the model's own env by default
    :param int8: whether to measure int8 forms of the students too
    :param seed: seed of students and envs
    :param n_eval_episodes: episodes of each agent, to select by and as many held-out ones
    :param settings: effort; the students' share of acting and the steps of switching agents are set to 0
    :param on_progress: called with the stage and the share of it that is done
    :return: the report
    :raises ValueError: as :func:`sb3_asym.distillation.distill`
    :raises FileExistsError: if the output folder is not empty
    """
    settings = replace(settings or DistillationSettings(), student_share=(0.0, 0.0), n_switching_steps=0)
    report = distill(
        model, env, sizes, keep, budget, output, loss, vec_normalize, int8, seed, n_eval_episodes, settings, on_progress
    )
    report = replace(report, method="bc")
    if output is not None:
        report.write(Path(output))
    return report
