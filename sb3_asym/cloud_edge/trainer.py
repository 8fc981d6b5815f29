"""Training at a held ratio of gradient steps to the robots' env steps, critic first where that is wanted."""

from collections import defaultdict
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import numpy as np
import torch as th
from stable_baselines3.common.callbacks import BaseCallback
from stable_baselines3.common.off_policy_algorithm import OffPolicyAlgorithm
from stable_baselines3.common.type_aliases import TrainFrequencyUnit

from sb3_asym.acting.networks import acting_form
from sb3_asym.asym_sac import AsymSAC
from sb3_asym.cloud_edge.policy_frames import Policy
from sb3_asym.cloud_edge.robot_memory import RobotMemory
from sb3_asym.cloud_edge.transitions import Transitions
from sb3_asym.options import NO_OPTION

STEPS_AT_ONCE = 8
"""Env steps that are trained for between two looks at the link."""
DEFAULT_ACTION_NOISE = 0.1
"""Standard deviation of the noise of TD3 and DDPG where the model has no action noise of its own."""


class Trainer:
    """
    Stores robots' transitions in a model's replay memory and trains the model.

    Cao et al. 2022 (arXiv 2203.02230) first fill the replay memory with transitions of the policy from simulation, then
    train the critic on the new dynamics while the actor rests, then both.

    :param model: the model
    :param ratio: gradient steps per env step; None for the model's own
    :param prefill: env steps before the first gradient step
    :param freeze_actor: env steps after that for which only critics learn: what acts stays as it is
    :raises ValueError: if an argument is out of range
    """

    def __init__(self, model: OffPolicyAlgorithm, ratio: float | None = None, prefill: int = 1000, freeze_actor: int = 0):
        ratio = own_ratio(model) if ratio is None else ratio
        if not ratio > 0:
            raise ValueError(f"ratio must be above 0 gradient steps per env step, got {ratio}.")
        if prefill < 1 or freeze_actor < 0:
            raise ValueError(f"prefill must be at least 1 env step, freeze_actor 0; got {prefill} and {freeze_actor}.")
        self.model, self.ratio, self.prefill, self.freeze_actor = model, float(ratio), prefill, freeze_actor
        self.memory = RobotMemory(model)
        self.trained_steps = 0
        self._returns: dict[str, float] = defaultdict(float)
        self._lengths: dict[str, int] = defaultdict(int)
        self._last_options: dict[str, np.ndarray] = {}
        self._owed = 0.0
        self._is_frozen = False

    @property
    def steps_due(self) -> int:
        """Env steps that came and were not trained for yet."""
        return max(self.model.num_timesteps - self.prefill - self.trained_steps, 0)

    def restore(self, robot: str, transitions: Transitions) -> None:
        """
        Store transitions that were counted before.

        :param robot: name of the robot
        :param transitions: its transitions
        """
        self.memory.add(robot, transitions)

    def add(self, robot: str, transitions: Transitions, total_timesteps: int, callback: BaseCallback | None = None) -> bool:
        """
        Store new transitions, and count them as SB3's loop does.

        :param robot: name of the robot
        :param transitions: its transitions
        :param total_timesteps: env steps of the whole training
        :param callback: callback to call at each step
        :return: False where the callback wants to stop
        """
        model: Any = self.model
        self.memory.add(robot, transitions)
        goes_on = True
        for row in range(len(transitions)):
            model.num_timesteps += 1
            done = bool(transitions.terminated[row] or transitions.truncated[row])
            self._returns[robot] += float(transitions.rewards[row])
            self._lengths[robot] += 1
            if isinstance(model, AsymSAC):
                self._count_option(robot, transitions, row, done)
            rewards, dones, infos = transitions.rewards[row : row + 1], np.array([done]), [self._info(robot, done)]
            model._update_info_buffer(infos, dones)
            model._update_current_progress_remaining(model.num_timesteps, total_timesteps)
            model._episode_num += done
            if callback is not None:
                callback.update_locals({"rewards": rewards, "dones": dones, "infos": infos, "robot": robot})
                goes_on = callback.on_step() and goes_on
        return goes_on

    def train_due(self, max_steps: int = STEPS_AT_ONCE) -> int:
        """
        Train for env steps that are due.

        :param max_steps: greatest number of env steps to train for
        :return: number of env steps that were trained for
        """
        model: Any = self.model
        n_steps = min(self.steps_due, max_steps)
        frozen_left = self.freeze_actor - self.trained_steps
        if n_steps == 0:
            return 0
        n_steps = min(n_steps, frozen_left) if frozen_left > 0 else n_steps
        self._owed += n_steps * self.ratio
        n_updates = int(self._owed)
        self._owed -= n_updates
        with frozen_actor(model) if frozen_left > 0 else _nothing():
            if isinstance(model, AsymSAC):
                model._dones = np.zeros(model.n_envs, dtype=bool)
                for _ in range(n_steps):
                    model._on_step()
            if n_updates:
                model.train(gradient_steps=n_updates, batch_size=model.batch_size)
        self.trained_steps += n_steps
        return n_steps

    def policy(self, version: int, made: float) -> Policy:
        """
        The present policy, with the exploration that the algorithm has in training.

        :param version: its version
        :param made: now, s since 1970
        :return: the policy
        """
        model: Any = self.model
        agent, is_gaussian = acting_form(model)
        rate = float(model.master.exploration_rate) if isinstance(model, AsymSAC) else 0.0
        sigma = getattr(model.action_noise, "_sigma", None)
        default = 0.0 if is_gaussian else DEFAULT_ACTION_NOISE
        noise = default if sigma is None else float(np.mean(sigma))
        return Policy(version, made, agent.copy(), is_gaussian, rate, noise)

    def _info(self, robot: str, done: bool) -> dict[str, Any]:
        if not done:
            return {}
        return {"episode": {"r": self._returns.pop(robot), "l": self._lengths.pop(robot), "t": 0.0}}

    def _count_option(self, robot: str, transitions: Transitions, row: int, done: bool) -> None:
        statistics, option = self.model._option_statistics, int(transitions.options[row])  # type: ignore[attr-defined]
        if option == NO_OPTION:
            return
        statistics._last_options = self._last_options.get(robot, np.full(1, NO_OPTION))
        statistics.count(np.array([option]), transitions.started[row : row + 1], np.array([done]))
        self._last_options[robot] = statistics._last_options


def own_ratio(model: OffPolicyAlgorithm) -> float:
    """
    Gradient steps per env step that a model was made with.

    :param model: the model
    :return: its ratio; 1 where it has as many as env steps, or counts episodes
    """
    frequency, unit = model.train_freq  # type: ignore[misc]
    if unit != TrainFrequencyUnit.STEP or model.gradient_steps < 0:
        return 1.0
    return model.gradient_steps / frequency


@contextmanager
def frozen_actor(model: OffPolicyAlgorithm) -> Iterator[None]:
    """
    Let only critics learn while the context lasts.

    :param model: the model
    """
    policy: Any = model.policy
    actors = [*policy.actors, policy.master] if isinstance(model, AsymSAC) else [policy.actor]
    optimizers = [actor.optimizer for actor in actors]
    ent_coef_optimizer = getattr(model, "ent_coef_optimizer", None)
    if ent_coef_optimizer is not None:
        optimizers.append(ent_coef_optimizer)
    wanted = getattr(model, "fast_update", None)
    if isinstance(model, AsymSAC):  # the compiled update steps all of its networks
        model.fast_update = False
        model._update.forget()
    for optimizer in optimizers:
        optimizer.step = _rest
    scales = [policy.advantage_network.scale] if getattr(policy, "critic_kind", "") == "option" else []
    resting = [scale.clone() for scale in scales]
    try:
        yield
    finally:
        for optimizer in optimizers:
            del optimizer.step
        for scale, value in zip(scales, resting, strict=True):
            scale.copy_(value)
        if isinstance(model, AsymSAC):
            model.fast_update = wanted
            model._update.forget()


def _rest(*_: Any, **__: Any) -> None:
    """Leave parameters and the optimizer's state as they are."""


@contextmanager
def _nothing() -> Iterator[None]:
    yield


def is_finite(model: OffPolicyAlgorithm) -> bool:
    """
    Whether all weights of a model are finite.

    :param model: the model
    :return: True if they are
    """
    return all(bool(th.isfinite(values).all()) for values in model.policy.state_dict().values())
