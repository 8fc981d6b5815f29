"""Co-training: the smaller sub-policy of an agent that switches learns on, in the states that its master gives it."""

from collections.abc import Callable

import gymnasium as gym
import numpy as np
import torch as th

from sb3_asym.asym_sac import AsymSAC
from sb3_asym.deployment import DeployableAgent, deployable
from sb3_asym.deployment.recording import record
from sb3_asym.deployment.runners import ReferenceRunner
from sb3_asym.distillation.students import Schedule, Students
from sb3_asym.distillation.teacher import Teacher

WEIGHT_ELSEWHERE = 0.1
"""Weight of a state that the master gives to another sub-policy."""
LEARNING_RATE, DECAY = 1e-3, 0.03


def cotrain(
    agent: AsymSAC, teacher: Teacher, make_env: Callable[[], gym.Env], n_steps: int, n_updates: int, seed: int
) -> DeployableAgent:
    """
    Let the smallest sub-policy learn on from the teacher, mostly in the states that the master gives it.

    The agent is left as it is. Its master knows the former sub-policy: fit another one, to transitions of the new one.

    :param agent: an agent with frozen sub-policies and a fitted master
    :param teacher: the teacher
    :param make_env: function that makes one env
    :param n_steps: env steps of the agent from which the sub-policy learns
    :param n_updates: gradient steps
    :param seed: seed
    :return: the sub-policy after that, on its own
    """
    acting = deployable(agent)
    env = make_env()
    recording = record(ReferenceRunner(acting), acting, env, n_steps=n_steps, seed=seed)
    env.close()
    states, targets = recording.observations, teacher.targets(recording.observations)
    rng = np.random.default_rng(seed)
    # A batch is drawn uniformly from the rows: rows that are there in proportion to their weights are a weighted fit.
    weights = np.where(recording.options == 0, 1.0, WEIGHT_ELSEWHERE)
    rows = rng.choice(len(states), size=4 * len(states), p=weights / weights.sum())
    th.manual_seed(seed)
    small = acting.alone(0)
    hidden = [len(layer.bias) for layer in small.sub_policies[0].layers[:-1]]
    schedule = Schedule(n_updates=n_updates, learning_rate=LEARNING_RATE, decay=DECAY)
    students = Students(teacher, [hidden], [1], "robust", schedule)
    students.observe(states[rows], targets[rows])
    students.start_from(0, small)
    students.learn(n_updates)
    return students.agent(0)
