"""An actor: one env, and the policy that acts in it, step by step. What brings weights and takes transitions is an engine."""

import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import gymnasium as gym
import numpy as np
from gymnasium import spaces
from stable_baselines3.common.monitor import Monitor
from stable_baselines3.common.noise import ActionNoise
from stable_baselines3.common.off_policy_algorithm import OffPolicyAlgorithm
from stable_baselines3.common.vec_env.patch_gym import _patch_env

from sb3_asym.acting.kernels import compile_kernel, kernel_source, make_kernel
from sb3_asym.acting.networks import Layout, Packer, acting_form
from sb3_asym.acting.policy import ActingPolicy, clock_of
from sb3_asym.envs import check_spaces

PARTS = ("inference", "env", "pull", "load", "push", "wait")
"""What an actor spends its time on."""


@dataclass(frozen=True)
class ActorForm:
    """
    What an actor has to know beside its weights.

    :param layout: layout of the blocks of weights
    :param is_gaussian: whether sub-policies put out means and log standard deviations
    :param kernel: name of the kernel
    :param source: C code of the kernel, if that is "c"
    :param observation_space: observation space of the model
    :param action_space: action space of the model
    :param action_noise: noise that is added to actions in [-1, 1], or None
    :param pull_every: env steps after which an actor looks for new weights
    """

    layout: Layout
    is_gaussian: bool
    kernel: str
    source: str
    observation_space: spaces.Space
    action_space: spaces.Space
    action_noise: ActionNoise | None
    pull_every: int

    def policy(self, folder: Path, library: Path | None = None) -> ActingPolicy:
        """
        The policy, still without weights.

        :param folder: folder for the compiled kernel
        :param library: the kernel, where it is compiled already
        :return: the policy
        """
        if self.kernel == "c" and library is None:
            library = compile_kernel(self.source, folder)
        return ActingPolicy(self.layout, make_kernel(self.kernel, self.layout, library), self.is_gaussian)

    def env_action(self, stored: np.ndarray) -> Any:
        """
        The action of the env.

        :param stored: action in [-1, 1] or index, ``(action_dim,)``
        :return: action in the action space
        """
        space = self.action_space
        if not isinstance(space, spaces.Box):
            return int(stored[0])
        return (space.low + 0.5 * (stored.reshape(space.shape) + 1.0) * (space.high - space.low)).astype(space.dtype)


def make_form(model: OffPolicyAlgorithm, kernel: str, precision: str, pull_every: int) -> ActorForm:
    """
    What the actors of a model have to know.

    :param model: the model
    :param kernel: name of the kernel
    :param precision: "fp32", "fp16" or "int8"
    :param pull_every: env steps after which an actor looks for new weights
    :return: the form
    :raises ValueError: if the model has parts without a deployable form
    """
    agent, is_gaussian = acting_form(model)
    packed = Packer(precision).pack(agent, np.zeros((1, agent.obs_dim), dtype=np.float32))
    layout = Layout(packed)
    return ActorForm(
        layout=layout,
        is_gaussian=is_gaussian,
        kernel=kernel,
        source=kernel_source(packed, layout) if kernel == "c" else "",
        observation_space=model.observation_space,
        action_space=model.action_space,
        action_noise=model.action_noise,
        pull_every=pull_every,
    )


def record_type(observation_space: spaces.Space, action_space: spaces.Space) -> np.dtype:
    """
    The type of a transition on its way to the learner.

    :param observation_space: observation space, a Box or a Dict of them
    :param action_space: action space
    :return: structured type; ``sequence`` counts an actor's transitions, ``life`` its replacements, ``version`` is that of the
        policy that acted (0: random), ``episode_…`` is Monitor's report where an episode ends
    """
    if isinstance(observation_space, spaces.Dict):
        observation: Any = [(name, part.dtype, part.shape) for name, part in observation_space.spaces.items()]
        observation = (np.dtype(observation), ())
    else:
        observation = (observation_space.dtype, observation_space.shape)
    is_box = isinstance(action_space, spaces.Box)
    action = (np.float32, (int(np.prod(action_space.shape)),)) if is_box else (np.int64, (1,))  # type: ignore[arg-type]
    return np.dtype(
        [
            ("sequence", np.uint64),
            ("life", np.uint32),
            ("version", np.uint32),
            ("observation", *observation),
            ("next_observation", *observation),
            ("action", *action),
            ("reward", np.float64),
            ("terminated", np.bool_),
            ("truncated", np.bool_),
            ("option", np.int16),
            ("steps_left", np.int32),
            ("episode_return", np.float64),
            ("episode_length", np.int64),
            ("episode_time", np.float64),
            ("is_success", np.float32),
            ("checksum", np.uint32),
        ],
        align=False,
    )


def from_record(observation: np.ndarray | np.void) -> Any:
    """
    An observation of a record.

    :param observation: its field
    :return: the observation, or a dict of its parts
    """
    if observation.dtype.names is None:
        return observation
    return {name: observation[name] for name in observation.dtype.names}


class Actor:
    """
    One env and the policy that acts in it.

    :param form: what it has to know
    :param env_fn: function that makes its env
    :param seed: seed of its env, its exploration and its random actions
    :param n_random: number of random actions before the policy acts
    :param life: how often it was replaced
    :param library: compiled kernel, where there is one already
    :param folder: folder for a kernel that is compiled here
    """

    def __init__(
        self,
        form: ActorForm,
        env_fn: Callable[[], gym.Env],
        seed: int,
        n_random: int,
        life: int,
        folder: Path,
        library: Path | None = None,
    ):
        self.form, self.life, self.version = form, life, 0
        self.spent = np.zeros(len(PARTS), dtype=np.int64)  # ns
        self.n_random = n_random
        np.random.seed(seed)
        self.policy = form.policy(folder, library)
        env = _patch_env(env_fn())
        check_spaces(env, form.observation_space, form.action_space)
        self.env = env if _has_monitor(env) else Monitor(env)
        form.action_space.seed(seed)
        self.observation, _ = self.env.reset(seed=seed)
        self._state: Any = None
        self._is_dict = isinstance(form.observation_space, spaces.Dict)
        if form.action_noise is not None:
            form.action_noise.reset()

    def load(self, block: np.ndarray, version: int) -> None:
        """
        Take new weights.

        :param block: block of weights, which stays as it is until the next one is loaded
        :param version: their version
        """
        start = time.perf_counter_ns()
        self.policy.load(block)
        self.version = version
        self.spend("load", start)

    def spend(self, part: str, start: int) -> int:
        """
        Count time.

        :param part: what it was spent on
        :param start: when that began, ns
        :return: now, ns
        """
        now = time.perf_counter_ns()
        self.spent[PARTS.index(part)] += now - start
        return now

    def step(self) -> tuple:
        """
        One step in the env.

        :return: fields of the record, without the first and the last
        """
        start = time.perf_counter_ns()
        observation = self.observation
        version = self.version
        if self.n_random > 0:
            self.n_random -= 1
            version, stored = 0, self._stored(self.form.action_space.sample())
        else:
            stored, self._state = self.policy.explore(self.policy.inputs(observation), self._state)
        if self.form.action_noise is not None:
            stored = np.clip(stored + self.form.action_noise(), -1, 1).astype(np.float32)
        action = self.form.env_action(stored)
        start = self.spend("inference", start)
        next_observation, reward, terminated, truncated, info = self.env.step(action)
        option, steps_left = clock_of(self._state)
        if terminated or truncated:
            self.observation, _ = self.env.reset()
            self._state = None
            if self.form.action_noise is not None:
                self.form.action_noise.reset()
        else:
            self.observation = next_observation
        self.spend("env", start)
        episode = info.get("episode")
        report = (0.0, 0, 0.0) if episode is None else (episode["r"], episode["l"], episode["t"])
        return (
            self.life,
            version,
            self._fields(observation),
            self._fields(next_observation),
            stored,
            reward,
            terminated,
            truncated,
            option,
            steps_left,
            *report,
            info.get("is_success", np.nan),
        )

    def _fields(self, observation: Any) -> Any:
        return tuple(observation[name] for name in self.form.observation_space.spaces) if self._is_dict else observation  # type: ignore[attr-defined]

    def _stored(self, action: Any) -> np.ndarray:
        """Action in [-1, 1], or an index, as the replay memory has it."""
        space = self.form.action_space
        if not isinstance(space, spaces.Box):
            return np.array([action])
        return (2.0 * (action - space.low) / (space.high - space.low) - 1.0).astype(np.float32).ravel()


def _has_monitor(env: gym.Env) -> bool:
    while isinstance(env, gym.Wrapper):
        if isinstance(env, Monitor):
            return True
        env = env.env
    return False
