"""The policy that actors run, with the ``predict`` of an SB3 model."""

import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
from stable_baselines3.common.base_class import BaseAlgorithm

from sb3_asym.acting.policy import ActingPolicy
from sb3_asym.actorq.actor import ActorForm
from sb3_asym.options import OptionState
from sb3_asym.shared_memory import WeightBlock


class PublishedPolicy:
    """
    The policy that was published last, in the precision of the actors and run by their kernel.

    ``evaluate_policy``, ``EvalCallback`` and the like take it in place of a model.

    :param model: the model that learns
    :param form: what the actors know
    """

    def __init__(self, model: BaseAlgorithm, form: ActorForm):
        self._model, self._form = model, form
        self._policy: ActingPolicy | None = None
        self._write: Callable[[np.ndarray], None] | None = None
        self._block = WeightBlock.empty_copy(form.layout.n_bytes)
        self._is_stale = True

    @property
    def is_ready(self) -> bool:
        """Whether a policy was published."""
        return self._write is not None

    def renew(self, write: Callable[[np.ndarray], None]) -> None:
        """
        Take what was published, as soon as it is needed.

        :param write: function that writes the weights into the memory it is given
        """
        self._write, self._is_stale = write, True

    def predict(
        self,
        observation: np.ndarray | dict[str, np.ndarray],
        state: tuple[np.ndarray, ...] | None = None,
        episode_start: np.ndarray | None = None,
        deterministic: bool = False,
    ) -> tuple[np.ndarray, tuple[np.ndarray, ...] | None]:
        """
        Choose actions as the actors would, or without exploration.

        :param observation: a single observation, or a batch ``(n_envs, …)``, normalized where the model's are
        :param state: option state of an AsymSAC after the last step, with one row per env; otherwise None
        :param episode_start: ``(n_envs,)`` True where an episode starts
        :param deterministic: True for actions without exploration
        :return: action, or actions ``(n_envs, …)``, and the option state for the next step
        :raises RuntimeError: if nothing was published yet
        """
        policy = self._loaded()
        vectorized = self._model.policy.is_vectorized_observation(observation)
        rows = _rows(observation) if vectorized else [observation]
        starts = np.zeros(len(rows), dtype=bool) if episode_start is None else np.asarray(episode_start, dtype=bool)
        act = policy.exploit if deterministic else policy.explore
        actions, states = [], []
        for i, row in enumerate(rows):
            before = None if state is None or starts[i] else OptionState(*(part[i : i + 1] for part in state))
            stored, after = act(policy.inputs(row, normalize=False), before)
            actions.append(self._form.env_action(stored))
            states.append(after)
        known = [after for after in states if after is not None]
        after = OptionState(*(np.concatenate(parts) for parts in zip(*known, strict=True))) if known else None
        return (np.array(actions) if vectorized else np.asarray(actions[0])), after

    def _loaded(self) -> ActingPolicy:
        if self._write is None:
            raise RuntimeError("No policy was published yet: let the actors learn first.")
        if self._policy is None:
            with tempfile.TemporaryDirectory(prefix="actorq-") as folder:  # a loaded kernel needs its file no more
                self._policy = self._form.policy(Path(folder))
        if self._is_stale:
            self._write(self._block)
            self._policy.load(self._block)
            self._is_stale = False
        return self._policy


def _rows(observation: np.ndarray | dict[str, np.ndarray]) -> list[Any]:
    if isinstance(observation, dict):
        n = len(next(iter(observation.values())))
        return [{name: part[i] for name, part in observation.items()} for i in range(n)]
    return list(observation)
