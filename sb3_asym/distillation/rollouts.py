"""Rollouts in which students act, and the teacher says what it would have done."""

from collections.abc import Sequence

import numpy as np

from sb3_asym.deployment import DeployableAgent
from sb3_asym.deployment.rollouts import EnvPool
from sb3_asym.distillation.teacher import Teacher

STRETCH = 10
"""Env steps for which a student or the teacher acts before it is drawn anew which of them does."""


def collect(
    pool: EnvPool, teacher: Teacher, students: Sequence[DeployableAgent], share: float, n_steps: int, rng: np.random.Generator
) -> tuple[np.ndarray, np.ndarray]:
    """
    States that students get into, with the teacher's targets there (DAgger, Ross et al. 2011): each env has a student of its
    own, which acts in a share of short stretches; in the others the teacher brings it back.

    :param pool: envs, in which the episodes go on
    :param teacher: the teacher
    :param students: the students, of which env i gets the i-th, over and over
    :param share: share of the stretches in which the student acts
    :param n_steps: steps of each env
    :param rng: source of chance
    :return: observations ``(n_envs · n_steps, obs_dim)`` and targets
    """
    n_envs = len(pool.envs)
    observations, targets = [], []
    student_acts = np.zeros(n_envs, dtype=bool)
    for step in range(n_steps):
        if step % STRETCH == 0:
            student_acts = rng.random(n_envs) < share
        observations.append(pool.observations.copy())
        targets.append(teacher.targets(pool.observations))
        actions = teacher.agent.actions(pool.observations, np.zeros(n_envs, dtype=np.int64))
        for i, student in enumerate(students):
            rows = np.flatnonzero(student_acts & (np.arange(n_envs) % len(students) == i))
            if len(rows):
                actions[rows] = student.actions(pool.observations[rows], np.zeros(len(rows), dtype=np.int64))
        for env, action in enumerate(actions):
            if pool.step(env, action)[1]:
                pool.reset(env)
    return np.concatenate(observations), np.concatenate(targets)
