"""The options behind the primitive transitions of a replay buffer, from which the master samples option transitions.

SB3's replay buffers stay as they are, whichever class the user asked for: :class:`OptionMemory` stands beside one and
remembers, for each primitive transition, which option was in force. So each transition is stored once, and the
sub-policies sample it from the buffer while the master samples whole options from the memory.
"""

from collections.abc import Iterable
from typing import Any, NamedTuple

import numpy as np
import torch as th
from stable_baselines3 import HerReplayBuffer
from stable_baselines3.common.buffers import ReplayBuffer
from stable_baselines3.common.type_aliases import DictReplayBufferSamples, ReplayBufferSamples
from stable_baselines3.common.vec_env import VecNormalize

from sb3_asym.options import NO_OPTION, OptionState, option_return

Batch = ReplayBufferSamples | DictReplayBufferSamples
STEPS_AT_ONCE = 32
"""Greatest number of gradient steps for which a batch is sampled together."""


class OptionSamples(NamedTuple):
    """
    A batch of option transitions. Rewards and costs are apart, so that λ may differ from row to row.

    :param observations: observations where the options started, ``(batch, …)``
    :param actions: options, ``(batch, 1)``
    :param next_observations: observations where the options ended, ``(batch, …)``
    :param dones: 1 where the episode terminated with the option, else 0, ``(batch, 1)``
    :param rewards: discounted sums of the rewards, ``(batch, 1)``
    :param costs: discounted sums of the relative cost c_ω, in the units of ``rewards`` at λ = 1, ``(batch, 1)``
    :param discounts: discounts γ^k of the value after the option, ``(batch, 1)``
    """

    observations: Any
    actions: th.Tensor
    next_observations: Any
    dones: th.Tensor
    rewards: th.Tensor
    costs: th.Tensor
    discounts: th.Tensor

    def net(self, cost_coef: float | th.Tensor) -> ReplayBufferSamples:
        """
        The batch in SB3's form, with net rewards.

        :param cost_coef: cost coefficient λ, a number or ``(batch, 1)``
        :return: batch with ``rewards − λ · costs`` as its rewards
        """
        rewards = self.rewards - cost_coef * self.costs
        return ReplayBufferSamples(
            self.observations, self.actions, self.next_observations, self.dones, rewards, self.discounts
        )


class OptionMemory:
    """
    Memory that samples option transitions (SMDP transitions) from the primitive ones in a replay buffer.

    Goals stay those that the options were run for, with hindsight experience replay too: how an option went on depended on
    its goal, so for another goal the same course would be a biased sample of what the option does.

    :param replay_buffer: buffer of the primitive transitions, of any of SB3's classes or a subclass
    :param option_length: greatest length of an option, env steps
    :param gamma: discount factor of one env step
    :param costs: relative costs c_ω in (0, 1], ``(n_options,)``
    :param recent_steps: number of latest env steps, over all envs, within which a sampled option started; None for all
    """

    def __init__(
        self,
        replay_buffer: ReplayBuffer,
        option_length: int,
        gamma: float,
        costs: np.ndarray,
        recent_steps: int | None = None,
    ):
        self.replay_buffer = replay_buffer
        self.option_length = option_length
        self.gamma = gamma
        self.costs = costs
        self.recent_steps = recent_steps
        shape = (replay_buffer.buffer_size, replay_buffer.n_envs)
        self.options = np.full(shape, NO_OPTION, dtype=np.int8)
        # At the first step of an option, the number of steps that it ran, once it has ended. Zero everywhere else.
        self.lengths = np.zeros(shape, dtype=np.int32)
        # First steps of the options that can be sampled, once they have ended: flat indices (row · n_envs + env), oldest
        # first, in a ring. `_first` and `_end` are places in the ring that only grow, so they are taken modulo its length.
        self._starts = np.zeros(replay_buffer.buffer_size * replay_buffer.n_envs, dtype=np.int64)
        self._first = self._end = self._n_complete = 0
        self._running = np.zeros(replay_buffer.n_envs, dtype=np.int64)

    def adapt(self, option_length: int, gamma: float, costs: np.ndarray, recent_steps: int | None) -> None:
        """
        Go on with other settings. Options that were longer can still be sampled.

        :param option_length: greatest length of an option to come, env steps
        :param gamma: as where the memory was made
        :param costs: the same
        :param recent_steps: the same
        """
        self.option_length = max(self.option_length, option_length)
        self.gamma, self.costs, self.recent_steps = gamma, costs, recent_steps

    def go_on(self, state: OptionState | None, option_length: int) -> None:
        """
        Forget options in force that have not run as long as those of the envs, which may be in other states than where the
        memory was saved.

        :param state: options in force in the envs, or None
        :param option_length: length of an option, env steps
        """
        known = state is not None and len(state.option) == len(self._running)
        left = state.steps_left if known else np.zeros_like(self._running)  # type: ignore[union-attr]
        ran = np.where(left > 0, option_length - left, 0)
        self._running[self._running != ran] = 0

    def add(self, options: np.ndarray, started: np.ndarray, ended: np.ndarray) -> None:
        """
        Store the options of the row of transitions that the replay buffer stores next.

        Call it before ``replay_buffer.add``.

        :param options: options in force, ``(n_envs,)``, ``NO_OPTION`` where there is none
        :param started: ``(n_envs,)`` True where this is the option's first step
        :param ended: ``(n_envs,)`` True where this is its last step: it ran its full length, or the episode ended
        """
        pos, size, n_envs = self.replay_buffer.pos, self.replay_buffer.buffer_size, self.replay_buffer.n_envs
        n_kept = self._n_kept()
        while self._first < self._end:
            start = self._starts[self._first % len(self._starts)]
            if (pos - 1 - start // n_envs) % size + 1 < n_kept:
                break
            self._n_complete -= int(self.lengths.flat[start] > 0)
            self.lengths.flat[start] = 0
            self._first += 1
        self.options[pos] = options
        known = options != NO_OPTION
        new = np.flatnonzero(started & known)
        self._starts[np.arange(self._end, self._end + len(new)) % len(self._starts)] = pos * n_envs + new
        self._end += len(new)
        self._running = np.where(started, 1, np.where(self._running > 0, self._running + 1, 0))
        # The first step of a longer option has been overwritten.
        complete = np.flatnonzero(ended & known & (self._running > 0) & (self._running <= n_kept))
        self.lengths[(pos - self._running[complete] + 1) % size, complete] = self._running[complete]
        self._n_complete += len(complete)
        self._running[ended] = 0

    def _n_kept(self) -> int:
        """Number of latest rows that can be sampled, including the row that is about to be written."""
        buffer = self.replay_buffer
        # With optimize_memory_usage, the next observation overwrites the row that follows.
        size = buffer.buffer_size - buffer.optimize_memory_usage
        return size if self.recent_steps is None else min(size, max(self.recent_steps // buffer.n_envs, 1))

    def size(self) -> int:
        """
        Count the option transitions that can be sampled.

        :return: number of option transitions
        """
        return int(np.count_nonzero(self._valid(self._candidates(self._first, self._end))))

    @property
    def n_transitions(self) -> int:
        """Number of primitive transitions that can be sampled from the replay buffer."""
        if isinstance(self.replay_buffer, HerReplayBuffer):  # of episodes that have ended
            return int(np.count_nonzero(self.replay_buffer.ep_length))
        return self.replay_buffer.size() * self.replay_buffer.n_envs

    def can_sample(self) -> bool:
        """
        Check for an option transition that can be sampled.

        :return: True if there is at least one complete option transition
        """
        return self._n_complete > 0

    def sample(self, batch_size: int, env: VecNormalize | None = None) -> OptionSamples:
        """
        Sample option transitions uniformly.

        :param batch_size: number of option transitions
        :param env: normalization of observations and rewards, or None
        :return: batch of option transitions
        :raises RuntimeError: if there is no complete option yet
        """
        buffer = self.replay_buffer
        starts = self._draw(batch_size)
        lengths = _rows(self.lengths, starts)
        # Steps after the end of an option may belong to another episode, so its last step is repeated instead.
        ages = np.minimum(np.arange(self.option_length), lengths[:, None] - 1)
        steps = (starts[:, None] + ages * buffer.n_envs) % self.lengths.size
        last = steps[:, -1]
        options = _rows(self.options, starts).astype(np.int64)
        primitive = buffer._normalize_reward(_rows(buffer.rewards, steps), env)
        rewards, durations, discounts = option_return(primitive, lengths, self.gamma)
        # Truncated episodes bootstrap where the buffer tells them from terminated ones.
        dones = _rows(buffer.dones, last) * (1 - _rows(buffer.timeouts, last))
        return OptionSamples(
            observations=self._observations(starts, env),
            actions=self._to_torch(options.reshape(-1, 1)),
            next_observations=self._observations(last, env, after=True),
            dones=self._to_torch(dones.reshape(-1, 1)),
            rewards=self._to_torch(rewards.astype(np.float32).reshape(-1, 1)),
            costs=self._to_torch((scaled_costs(self.costs, env)[options] * durations).astype(np.float32).reshape(-1, 1)),
            discounts=self._to_torch(discounts.astype(np.float32).reshape(-1, 1)),
        )

    def _to_torch(self, array: np.ndarray) -> th.Tensor:
        """Tensor on the buffer's device, without the copy that ``replay_buffer.to_torch`` makes."""
        return th.as_tensor(array, device=self.replay_buffer.device)

    def _candidates(self, first: int, end: int) -> np.ndarray:
        """Flat indices of the options' first steps between two places in the ring, oldest first."""
        return self._starts[np.arange(first, min(end, self._end)) % len(self._starts)]

    def _valid(self, starts: np.ndarray) -> np.ndarray:
        """True where the option has ended."""
        return _rows(self.lengths, starts) > 0

    def _draw(self, batch_size: int) -> np.ndarray:
        """Draw first steps of complete options uniformly: by rejection, as few options are still running."""
        found: list[np.ndarray] = []
        missing = batch_size
        for _ in range(4):
            starts = self._starts[np.random.randint(self._first, max(self._end, self._first + 1), missing) % len(self._starts)]
            valid = self._valid(starts)
            if not found and valid.all():
                return starts
            found.append(starts[valid])
            missing -= len(found[-1])
        if missing > 0:
            candidates = self._candidates(self._first, self._end)
            candidates = candidates[self._valid(candidates)]
            if len(candidates) == 0:
                raise RuntimeError("There is no complete option to sample yet: let more steps pass before learning starts.")
            found.append(np.random.choice(candidates, missing))
        return np.concatenate(found)

    def _observations(self, steps: np.ndarray, env: VecNormalize | None, after: bool = False) -> Any:
        """Observations before (or ``after``) the given primitive steps, normalized, as tensors."""
        buffer = self.replay_buffer
        if after and buffer.optimize_memory_usage and isinstance(buffer.observations, np.ndarray):
            source, steps = buffer.observations, (steps + buffer.n_envs) % self.lengths.size
        else:
            source = buffer.next_observations if after else buffer.observations
        is_dict = isinstance(source, dict)
        obs: Any = {key: _rows(source[key], steps) for key in source} if is_dict else _rows(source, steps)
        obs = buffer._normalize_obs(obs, env)
        return {key: self._to_torch(value) for key, value in obs.items()} if is_dict else self._to_torch(obs)


HerOptionMemory = OptionMemory  # replay memories of release 0.1.0 name it


def _rows(values: np.ndarray, steps: np.ndarray) -> np.ndarray:
    """Copies of the stored rows, ``(buffer_size, n_envs, …)``, at the flat indices ``steps``."""
    return values.reshape(-1, *values.shape[2:]).take(steps, axis=0)


def scaled_costs(costs: np.ndarray, env: VecNormalize | None) -> np.ndarray:
    """
    Relative costs in the units of the rewards that are sampled.

    :param costs: costs c_ω, ``(n_options,)``
    :param env: normalization of rewards, or None
    :return: the same in units of normalized rewards
    """
    if env is None or not env.norm_reward:
        return costs
    return costs / np.sqrt(env.ret_rms.var + env.epsilon)


def buffer_without_env(model: Any) -> HerReplayBuffer:
    """
    A buffer with hindsight goals for an agent that does not learn, and so has no env.

    :param model: an off-policy algorithm of SB3
    :return: an empty buffer, whose ``env`` is still missing
    """
    return model.replay_buffer_class(
        model.buffer_size,
        model.observation_space,
        model.action_space,
        env=None,
        device=model.device,
        n_envs=model.n_envs,
        optimize_memory_usage=model.optimize_memory_usage,
        **model.replay_buffer_kwargs,
    )


def split(batch: Any, batch_size: int) -> list[Any]:
    """
    Deal a large batch out to several gradient steps: each gets rows from all over it, as buffers may have an order, such as
    relabelled goals behind the others.

    :param batch: tuple of tensors, dicts of tensors, or None, each with the same number of rows
    :param batch_size: rows of each part, a divisor of their number
    :return: tuples of the same kind
    """
    n_parts = len(batch.rewards) // batch_size

    def parts(values: Any) -> Iterable[Any]:
        if values is None:
            return [None] * n_parts
        if isinstance(values, dict):
            return (dict(zip(values, part, strict=True)) for part in zip(*map(parts, values.values()), strict=True))
        return values.reshape(batch_size, n_parts, *values.shape[1:]).transpose(0, 1).contiguous().unbind()

    return [batch] if n_parts == 1 else [type(batch)(*part) for part in zip(*map(parts, batch), strict=True)]


def sample_transitions(buffer: ReplayBuffer, batch_size: int, env: VecNormalize | None) -> Batch:
    """
    Sample primitive transitions as ``buffer.sample`` does, but with fewer copies for SB3's own ``ReplayBuffer``.

    :param buffer: buffer of primitive transitions
    :param batch_size: number of primitive transitions
    :param env: normalization of observations and rewards, or None
    :return: batch of primitive transitions
    """
    if type(buffer) is not ReplayBuffer or buffer.optimize_memory_usage:
        return buffer.sample(batch_size, env=env)
    rows = np.random.randint(0, buffer.size(), size=batch_size)
    steps = rows * buffer.n_envs + np.random.randint(0, buffer.n_envs, size=batch_size)
    dones = _rows(buffer.dones, steps) * (1 - _rows(buffer.timeouts, steps))
    arrays = (
        buffer._normalize_obs(_rows(buffer.observations, steps), env),
        _rows(buffer.actions, steps),
        buffer._normalize_obs(_rows(buffer.next_observations, steps), env),
        dones.reshape(-1, 1),
        buffer._normalize_reward(_rows(buffer.rewards, steps).reshape(-1, 1), env),
    )
    return ReplayBufferSamples(*(th.as_tensor(array, device=buffer.device) for array in arrays))
