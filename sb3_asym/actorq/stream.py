"""The actors' transitions as one stream, in the shape that SB3's training loop knows: a vectorized env with a single env."""

import time
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
from gymnasium import spaces
from stable_baselines3.common.vec_env import VecEnv
from stable_baselines3.common.vec_env.base_vec_env import VecEnvIndices, VecEnvObs, VecEnvStepReturn

from sb3_asym.actorq.actor import from_record
from sb3_asym.actorq.engine import Lane

POLL = 0.0002
"""Seconds between two looks at lanes that are empty."""
CHECK_EVERY = 0.5
"""Seconds between two looks at whether all actors are alive."""


class ActorsEnv(VecEnv):
    """
    A vectorized env whose every step is the next transition of one of the actors, which has chosen the action.

    The stream keeps to one actor until its unit ends, then goes on with another that has transitions. An actor's newest
    transition waits until its next one is there: if that was made by the actor's replacement, the episode of the former one
    is truncated, and if the episode has ended, it has the first observation of the next. ``info["actorq"]`` tells callbacks
    which ``actor`` made a transition, its ``sequence`` there, the actor's ``life`` (how often it was replaced) and the
    ``version`` of the policy (0: random).

    :param lanes: transitions of each actor
    :param template: the model's own env, which answers what callbacks ask
    :param ends_unit: function of a record, True where the stream may go on with another actor
    :param check: function that looks after the actors, called while the stream runs
    """

    def __init__(
        self, lanes: Sequence[Lane], template: VecEnv, ends_unit: Callable[[np.void], bool], check: Callable[[], None]
    ):
        self._lanes, self._template, self._ends_unit, self._check = lanes, template, ends_unit, check
        self.lane = -1
        self.waited = 0.0
        self._taken = True
        self._may_switch = True
        self._checked = time.monotonic()
        super().__init__(1, template.observation_space, template.action_space)

    def advance(self) -> np.void:
        """
        Wait for the next transition.

        :return: its record; a second call returns the same one until ``step`` has taken it
        """
        if self._taken:
            self._take_next()
        return self._record

    def _take_next(self) -> None:
        if time.monotonic() > self._checked + CHECK_EVERY:
            self._look_after()
        lane = self._ready()
        if lane is None:
            start = time.monotonic()
            while lane is None:
                time.sleep(POLL)
                if time.monotonic() > self._checked + CHECK_EVERY:
                    self._look_after()
                lane = self._ready()
            self.waited += time.monotonic() - start
        self.lane = lane
        self._record, following = self._lanes[lane].peek(0), self._lanes[lane].peek(1)
        self._was_cut = bool(following["life"] != self._record["life"]) and not self._done(self._record)
        self._following = from_record(following["observation"])
        self._lanes[lane].pop()
        self._may_switch = self._was_cut or self._done(self._record) or self._ends_unit(self._record)
        self._taken = False

    def _look_after(self) -> None:
        self._check()
        self._checked = time.monotonic()

    def _ready(self) -> int | None:
        """The lane to go on with, or None while there is nothing."""
        n = len(self._lanes)
        order = [(self.lane + 1 + i) % n for i in range(n)] if self._may_switch else [self.lane]
        return next((lane for lane in order if len(self._lanes[lane]) > 1), None)

    @staticmethod
    def _done(record: np.void) -> bool:
        return bool(record["terminated"] or record["truncated"])

    def reset(self) -> VecEnvObs:
        """The observation from which the next transition starts."""
        return self._one_row(from_record(self.advance()["observation"]))

    def step_async(self, actions: np.ndarray) -> None:
        """Nothing: the actor has acted already."""

    def step_wait(self) -> VecEnvStepReturn:
        """What the transition's step has returned."""
        record = self.advance()
        self._taken = True
        done = self._done(record) or self._was_cut
        info: dict[str, Any] = {
            "TimeLimit.truncated": done and not record["terminated"],
            "actorq": {"actor": self.lane, **{name: int(record[name]) for name in ("life", "sequence", "version")}},
        }
        after = from_record(record["next_observation"])
        if done:
            info["terminal_observation"] = after
            after = self._following
        if record["episode_length"] > 0:
            info["episode"] = {
                "r": float(record["episode_return"]),
                "l": int(record["episode_length"]),
                "t": float(record["episode_time"]),
            }
        if not np.isnan(record["is_success"]):
            info["is_success"] = bool(record["is_success"])
        return self._one_row(after), np.array([record["reward"]], dtype=np.float32), np.array([done]), [info]

    def _one_row(self, observation: Any) -> Any:
        if isinstance(self.observation_space, spaces.Dict):
            return {name: part[None] for name, part in observation.items()}
        return observation[None]

    def close(self) -> None:
        """Nothing: the engine ends the actors."""

    def get_attr(self, attr_name: str, indices: VecEnvIndices = None) -> list[Any]:
        return self._template.get_attr(attr_name, indices)

    def set_attr(self, attr_name: str, value: Any, indices: VecEnvIndices = None) -> None:
        self._template.set_attr(attr_name, value, indices)

    def env_method(
        self, method_name: str, *method_args: Any, indices: VecEnvIndices = None, **method_kwargs: Any
    ) -> list[Any]:
        return self._template.env_method(method_name, *method_args, indices=indices, **method_kwargs)

    def env_is_wrapped(self, wrapper_class: type, indices: VecEnvIndices = None) -> list[bool]:
        return self._template.env_is_wrapped(wrapper_class, indices)
