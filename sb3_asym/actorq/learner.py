"""The learner: the model's own training loop, to which actors bring the transitions."""

import math
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import numpy as np
from stable_baselines3.common.buffers import DictReplayBuffer, ReplayBuffer
from stable_baselines3.common.off_policy_algorithm import OffPolicyAlgorithm
from stable_baselines3.common.vec_env import VecNormalize

from sb3_asym.acting.networks import N_RANGE_OBSERVATIONS, Layout, Packer, acting_form
from sb3_asym.actorq.engine import Engine
from sb3_asym.actorq.published import PublishedPolicy
from sb3_asym.actorq.report import ActorQReport
from sb3_asym.actorq.stream import ActorsEnv
from sb3_asym.asym_sac import AsymSAC
from sb3_asym.buffers import sample_transitions
from sb3_asym.deployment.agent import DeployableAgent
from sb3_asym.fitted_master import check_no_budget
from sb3_asym.options import NO_OPTION, OptionState

LEARNER_PARTS = ("sample", "update", "pack", "publish", "wait")
"""What the learner spends its time on; the rest is SB3's loop and callbacks."""


class Ages:
    """
    How old the policies were that made the transitions.

    :param at: env steps when each version was published
    """

    def __init__(self) -> None:
        self.at = [0]
        self._sums = np.zeros(3)  # number, versions, env steps
        self._recent = np.zeros(3)

    def count(self, version: int, num_timesteps: int) -> None:
        """
        Count a transition that a policy made.

        :param version: version of the policy
        :param num_timesteps: env steps now
        """
        found = (1, len(self.at) - 1 - version, num_timesteps - self.at[version])
        self._sums += found
        self._recent += found

    @property
    def mean(self) -> tuple[float, float]:
        """Mean age in versions and in env steps, of all transitions."""
        return tuple(self._sums[1:] / max(self._sums[0], 1))

    def recent(self) -> tuple[float, float]:
        """
        Mean age of the transitions since the last call.

        :return: mean age in versions and in env steps
        """
        found = self._recent[1:] / max(self._recent[0], 1)
        self._recent = np.zeros(3)
        return tuple(found)


class Learner:
    """
    What a model needs to learn from actors.

    :param model: the model
    :param packer: conversion to the precision of the actors
    :param layout: layout of the blocks of weights
    :param view: the policy that was published, for evaluation
    :param publish_every: env steps after which new weights are published
    """

    def __init__(self, model: OffPolicyAlgorithm, packer: Packer, layout: Layout, view: PublishedPolicy, publish_every: int):
        self.model, self._packer, self._layout, self._publish_every = model, packer, layout, publish_every
        self.view = view
        self.seconds = dict.fromkeys(LEARNER_PARTS, 0.0)
        self.ages = Ages()
        self.published: DeployableAgent | None = None
        self.exploration_rate = 0.0
        self._contexts: dict[int, list[Any]] = {}
        self._lane = -1
        self._next_publication = 0

    def attach(self, engine: Engine, env: ActorsEnv, first_publication: int) -> None:
        """
        Begin a run.

        :param engine: the actors
        :param env: their stream
        :param first_publication: env steps, in the model's count, before the policy acts
        """
        self.engine, self.env = engine, env
        self._next_publication = first_publication

    @contextmanager
    def part(self, name: str) -> Iterator[None]:
        """
        Count time.

        :param name: what it is spent on
        """
        start = time.perf_counter()
        try:
            yield
        finally:
            self.seconds[name] += time.perf_counter() - start

    def next_action(self) -> np.ndarray:
        """
        The action of the next transition; the model's state becomes that of the env in which it was made.

        :return: action as the replay memory has it, ``(1, action_dim)``
        """
        waited = self.env.waited
        record = self.env.advance()
        self.seconds["wait"] += self.env.waited - waited
        if self.env.lane != self._lane:
            self._switch(self.env.lane)
        if record["version"]:
            self.ages.count(int(record["version"]), self.model.num_timesteps)
        if isinstance(self.model, AsymSAC):
            known = record["option"] != NO_OPTION
            clock = OptionState(np.array([int(record["option"])]), np.array([int(record["steps_left"])]))
            self.model._option_state = clock if known else None
        return record["action"][None]

    def _switch(self, lane: int) -> None:
        """Put the model and its wrappers into the state in which they left an actor's env."""
        if self._lane >= 0:  # at first, SB3's own reset has done it
            places = self._places()
            self._contexts[self._lane] = [getattr(owner, name) for owner, name in places]
            if lane in self._contexts:
                for (owner, name), value in zip(places, self._contexts[lane], strict=True):
                    setattr(owner, name, value)
            else:
                self._reset()
        self._lane = lane

    def _places(self) -> list[tuple[Any, str]]:
        """The attributes in which the model and its wrappers remember an env, each with its owner."""
        places: list[tuple[Any, str]] = [(self.model, "_last_obs"), (self.model, "_last_original_obs")]
        if self.model._vec_normalize_env is not None:
            places.append((self.model._vec_normalize_env, "returns"))
        if isinstance(self.model, AsymSAC):
            places.append((self.model._option_statistics, "_last_options"))
        return places

    def _reset(self) -> None:
        """The first observation of an actor, as at the start of SB3's ``learn``."""
        model = self.model
        assert model.env is not None
        model._last_obs = model.env.reset()  # type: ignore[assignment]
        if model._vec_normalize_env is not None:
            model._last_original_obs = model._vec_normalize_env.get_original_obs()
        if isinstance(model, AsymSAC):
            model._option_statistics._last_options = np.full(1, NO_OPTION)

    def after_step(self) -> None:
        """Publish new weights where they are due."""
        if self.model.num_timesteps >= self._next_publication:
            self._next_publication = self.model.num_timesteps + self._publish_every
            self.publish(self.model.num_timesteps)

    def publish(self, num_timesteps: int) -> None:
        """
        Hand the present policy to the actors.

        :param num_timesteps: env steps now
        """
        with self.part("pack"):
            agent, _ = acting_form(self.model)
            self.published = self._packer.pack(agent, self._newest_observations(agent))
            explorer: Any = self.model.master if isinstance(self.model, AsymSAC) else self.model
            self.exploration_rate = float(getattr(explorer, "exploration_rate", 0.0))
        with self.part("publish"):
            self.engine.publish(self._write)
        self.view.renew(self._write)
        self.ages.at.append(num_timesteps)

    def _write(self, block: np.ndarray) -> None:
        """Write what was published last."""
        assert self.published is not None
        self._layout.write(self.published, self.exploration_rate, block)

    def _newest_observations(self, agent: DeployableAgent) -> np.ndarray:
        buffer: Any = self.model.replay_buffer
        n = min(buffer.size(), N_RANGE_OBSERVATIONS)
        rows = (buffer.pos - 1 - np.arange(n)) % buffer.buffer_size
        parts = [buffer.observations[part.name] if agent.is_dict else buffer.observations for part in agent.observations]
        return np.concatenate([part[rows].reshape(n, math.prod(part.shape[1:])) for part in parts], axis=1).astype(np.float32)

    def ends_unit(self, record: np.void) -> bool:
        """
        Whether the stream may go on with another actor after a transition: what the replay memory looks up in neighbouring
        rows has to come from one actor.

        :param record: the transition; the end of an episode ends every unit
        :return: True if it may
        """
        if needs_whole_episodes(self.model):
            return False
        if isinstance(self.model, AsymSAC):
            return bool(record["steps_left"] == 0)
        return True


@contextmanager
def learning_from_actors(learner: Learner, report: Callable[[], ActorQReport]) -> Iterator[None]:
    """
    Let a model learn from actors while the context lasts.

    :param learner: what it needs, attached to the actors
    :param report: function that reports on the time until now, for the logs
    """
    model = learner.model
    own_class, own_env, normalization = type(model), model.env, model.get_vec_normalize_env()
    inner = None if normalization is None else normalization.venv
    if normalization is None:
        model.env = learner.env
    else:
        normalization.venv = learner.env
    model.__class__ = type(own_class.__name__, (_FromActors, own_class), {"__module__": own_class.__module__})
    model._actorq, model._actorq_report = learner, report  # type: ignore[attr-defined]
    try:
        yield
    finally:
        model.__class__ = own_class
        del model._actorq, model._actorq_report  # type: ignore[attr-defined]
        model.env = own_env
        if normalization is not None:
            normalization.venv = inner  # type: ignore[assignment]
        model._last_obs = None  # it is an actor's: SB3's own loop has to reset its env


class _FromActors(OffPolicyAlgorithm):
    """What a model does otherwise while actors act for it. Its own class comes behind this one."""

    _actorq: Learner
    _actorq_report: Callable[[], ActorQReport]

    def _setup_learn(self, *args: Any, **kwargs: Any) -> Any:
        self._last_obs = None  # so that it is reset: every actor starts an episode
        return super()._setup_learn(*args, **kwargs)

    def _sample_action(self, *args: Any, **kwargs: Any) -> tuple[np.ndarray, np.ndarray]:
        action = self._actorq.next_action()
        return action, action

    def predict(self, *args: Any, **kwargs: Any) -> Any:
        view = self._actorq.view
        return view.predict(*args, **kwargs) if view.is_ready else super().predict(*args, **kwargs)

    def _on_step(self) -> None:
        with self._actorq.part("update"):  # of target networks, and of a master
            super()._on_step()
        self._actorq.after_step()

    def train(self, gradient_steps: int, batch_size: int) -> None:
        learner, buffer = self._actorq, self.replay_buffer
        sampled = learner.seconds["sample"]
        self.replay_buffer = _TimedBuffer(buffer, learner)  # type: ignore[assignment]
        try:
            with learner.part("update"):
                super().train(gradient_steps=gradient_steps, batch_size=batch_size)
        finally:
            self.replay_buffer = buffer
            learner.seconds["update"] -= learner.seconds["sample"] - sampled

    def dump_logs(self) -> None:
        report = self._actorq_report()
        age_in_versions, age_in_steps = self._actorq.ages.recent()
        found = {
            "steps_per_second": report.steps_per_second,
            "policy_age_versions": age_in_versions,
            "policy_age_steps": age_in_steps,
            "actors_replaced": report.n_replaced,
            **{f"{name}_share": share for name, share in report.shares().items()},
        }
        for name, value in found.items():
            self.logger.record(f"actorq/{name}", value)
        super().dump_logs()

    def _excluded_save_params(self) -> list[str]:
        return [*super()._excluded_save_params(), "_actorq", "_actorq_report"]


class _TimedBuffer:
    """A replay buffer that counts the time of sampling."""

    def __init__(self, buffer: Any, learner: Learner):
        self._buffer, self._learner = buffer, learner

    def sample(self, batch_size: int, env: VecNormalize | None = None) -> Any:
        with self._learner.part("sample"):
            if isinstance(self._learner.model, AsymSAC):
                return sample_transitions(self._buffer, batch_size, env)
            return self._buffer.sample(batch_size, env=env)

    def __getattr__(self, name: str) -> Any:
        return getattr(self._buffer, name)


def needs_whole_episodes(model: OffPolicyAlgorithm) -> bool:
    """
    Whether the replay memory looks up neighbouring rows, as for n-step returns and hindsight goals.

    :param model: the model
    :return: True if the rows of an episode have to lie together
    """
    buffer: Any = model.replay_buffer
    return type(buffer) not in (ReplayBuffer, DictReplayBuffer) or buffer.optimize_memory_usage


def check_model(model: OffPolicyAlgorithm) -> None:
    """
    Refuse a model that cannot learn from actors.

    :param model: the model
    :raises ValueError: if it has several envs or none, state-dependent exploration, a training frequency in episodes, or a
        budget
    """
    if model.env is None:
        raise ValueError("The model needs an env: its wrappers normalize, and callbacks ask it (model.set_env).")
    if model.n_envs != 1:
        raise ValueError(f"The model must have a single env, as its actors have theirs; it has {model.n_envs}.")
    check_no_budget(model)
    if model.use_sde:
        raise ValueError("Actors do not explore with gSDE: make the model without use_sde.")
