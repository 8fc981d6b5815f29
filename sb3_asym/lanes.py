"""Replay memory that several sources fill at their own pace, one lane each: actors in other processes, or robots."""

from collections.abc import Callable, Sequence
from typing import Any, NamedTuple, TypeVar

import numpy as np
import torch as th
from stable_baselines3.common.vec_env import VecNormalize
from torch.utils._pytree import tree_map

from sb3_asym.buffers import Batch, OptionMemory, OptionSamples, sample_transitions

Samples = TypeVar("Samples", bound=NamedTuple)


class Transition(NamedTuple):
    """
    One env step of one source, with the option that was in force.

    :param observation: observation before the step, as the env gave it
    :param next_observation: observation after it; at the end of an episode, the last one of that episode
    :param action: action in [-1, 1], ``(action_dim,)``
    :param reward: reward as the env gave it
    :param done: whether the episode ended with this step
    :param info: the env's info; ``info["TimeLimit.truncated"]`` tells a truncated episode from a terminated one
    :param option: option in force, or ``NO_OPTION``
    :param started: whether this is the option's first step
    :param ended: whether this is the option's last step
    """

    observation: Any
    next_observation: Any
    action: np.ndarray
    reward: float
    done: bool
    info: dict[str, Any]
    option: int
    started: bool
    ended: bool


class Lanes:
    """
    One replay buffer with its option memory for each source of transitions, sampled as if they were one.

    :param memories: the option memory of each lane, beside a replay buffer with a single env; of any of SB3's classes
    :raises ValueError: if there is no lane, or a buffer has several envs
    """

    def __init__(self, memories: Sequence[OptionMemory]):
        widths = [memory.replay_buffer.n_envs for memory in memories]
        if not widths or set(widths) != {1}:
            raise ValueError(f"Lanes need one replay buffer or more, with a single env each; they have {widths} envs.")
        self.memories = list(memories)

    def add(self, lane: int, transition: Transition) -> None:
        """
        Store one step of a source.

        :param lane: index of the source
        :param transition: the step
        """
        memory = self.memories[lane]
        memory.add(*(np.array([value]) for value in (transition.option, transition.started, transition.ended)))
        memory.replay_buffer.add(
            _one_row(transition.observation),
            _one_row(transition.next_observation),
            transition.action[None],
            np.array([transition.reward]),
            np.array([transition.done]),
            [transition.info],
        )

    def size(self) -> int:
        """
        Size of the memory.

        :return: number of primitive transitions that can be sampled
        """
        return sum(memory.n_transitions for memory in self.memories)

    def can_sample_options(self) -> bool:
        """
        Whether there is an option to sample.

        :return: True where a lane has a complete option transition
        """
        return any(memory.can_sample() for memory in self.memories)

    def sample(self, batch_size: int, env: VecNormalize | None = None) -> Batch:
        """
        Sample primitive transitions uniformly over all lanes.

        :param batch_size: number of primitive transitions
        :param env: normalization of observations and rewards
        :return: the batch
        """
        sizes = [memory.n_transitions for memory in self.memories]
        return self._sample(sizes, batch_size, lambda memory, n: sample_transitions(memory.replay_buffer, n, env))

    def sample_options(self, batch_size: int, env: VecNormalize | None = None) -> OptionSamples:
        """
        Sample option transitions uniformly over all lanes.

        :param batch_size: number of option transitions
        :param env: normalization of observations and rewards
        :return: the batch
        :raises RuntimeError: if there is no complete option yet
        """
        sizes = [memory.size() for memory in self.memories]
        return self._sample(sizes, batch_size, lambda memory, n: memory.sample(n, env))

    def _sample(self, sizes: Sequence[int], batch_size: int, sample: Callable[[OptionMemory, int], Samples]) -> Samples:
        """A batch to which each lane contributes by its size."""
        if sum(sizes) == 0:
            raise RuntimeError("There is nothing to sample yet: let more steps pass before learning starts.")
        shares = np.random.multinomial(batch_size, np.array(sizes) / sum(sizes))
        batches = [sample(memory, n) for memory, n in zip(self.memories, shares, strict=True) if n > 0]
        return tree_map(lambda *parts: None if parts[0] is None else th.cat(parts), *batches)


def _one_row(observation: Any) -> Any:
    """The observation as a batch of one env."""
    if isinstance(observation, dict):
        return {key: np.asarray(part)[None] for key, part in observation.items()}
    return np.asarray(observation)[None]
