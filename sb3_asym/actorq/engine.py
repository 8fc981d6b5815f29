"""The interface of an engine, which runs actors and carries weights to them and transitions to the learner."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Protocol

import gymnasium as gym
import numpy as np

from sb3_asym.actorq.actor import ActorForm

MAX_IDLE_DEATHS = 3
"""Deaths of an actor without a transition in between after which it is not replaced any more."""


class Lane(Protocol):
    """Transitions of one actor on their way to the learner, oldest first."""

    def __len__(self) -> int:
        """Number of transitions that wait."""

    def peek(self, index: int = 0) -> np.void:
        """
        A transition that waits.

        :param index: 0 for the oldest
        :return: its record, see :func:`sb3_asym.actorq.actor.record_type`
        """

    def pop(self) -> None:
        """Take the oldest away."""


class Engine(Protocol):
    """
    Actors, each with a lane of its own.

    :param n_replaced: number of actors that died and were replaced
    """

    n_replaced: int

    @property
    def pids(self) -> list[int]:
        """Process ids of the actors."""

    @property
    def lanes(self) -> Sequence[Lane]:
        """Transitions of each actor."""

    def start(self) -> None:
        """Start the actors, which act randomly first."""

    def publish(self, write: Callable[[np.ndarray], None]) -> int:
        """
        Hand new weights to the actors.

        :param write: function that writes the weights into the memory it is given, uint8
        :return: their version, from 1 on
        """

    def check(self, n_random: int) -> None:
        """
        Replace actors that died.

        :param n_random: number of random actions that a new actor begins with
        :raises RuntimeError: if an actor fails by an error of its own, or dies again and again
        """

    def spent(self) -> np.ndarray:
        """
        Time of the actors.

        :return: ns by actor and part, ``(n_actors, n_parts)``, see :data:`sb3_asym.actorq.actor.PARTS`
        """

    def stop(self) -> None:
        """End all actors and free what they share."""


@dataclass(frozen=True)
class Crew:
    """
    The actors of an engine.

    :param form: what each has to know
    :param env_fns: function that makes the env of each
    :param seed: seed from which those of the actors come
    :param n_random: number of random actions that each begins with
    :param ring_size: number of transitions after which an actor waits for the learner
    """

    form: ActorForm
    env_fns: Sequence[Callable[[], gym.Env]]
    seed: int
    n_random: int
    ring_size: int

    def seed_of(self, actor: int, life: int) -> int:
        """
        The seed of an actor.

        :param actor: its index
        :param life: how often it was replaced
        :return: a seed unlike those of others
        """
        return int(np.random.SeedSequence([self.seed, actor, life]).generate_state(1)[0])


def failure(actor: int, kind: str, message: str) -> Exception:
    """
    The error to raise where an actor failed by an error of its own.

    :param actor: its index
    :param kind: name of the exception's class
    :param message: its message
    :return: exception; a ValueError or TypeError where the actor had one
    """
    known = {"ValueError": ValueError, "TypeError": TypeError}
    text = f"Actor {actor} failed: {message}"
    return known[kind](text) if kind in known else RuntimeError(f"{text} ({kind})")


def check_deaths(actor: int, idle_deaths: int, how: str) -> None:
    """
    Give up an actor that dies again and again.

    :param actor: its index
    :param idle_deaths: number of its deaths without a transition in between
    :param how: what is known of the last one
    :raises RuntimeError: if there were too many
    """
    if idle_deaths >= MAX_IDLE_DEATHS:
        raise RuntimeError(
            f"Actor {actor} died {idle_deaths} times without a step ({how}): look at its output above; a script that starts "
            "actors needs `if __name__ == '__main__':` around what it runs."
        )
