"""What an observation and an action look like, so that both ends of a link know that they talk of the same robot."""

import hashlib
from typing import NamedTuple

import msgspec
import numpy as np
from gymnasium import Space, spaces

from sb3_asym.cloud_edge.frames import FrameError


class Layout(NamedTuple):
    """
    Types and shapes of a robot's observations and actions.

    :param observations: type and shape of each part of an observation, by its key; "observation" where it is no Dict
    :param action: type and shape of an action, as the env takes it
    :param low: lower bounds of the actions, flat
    :param high: upper bounds of the actions, flat
    """

    observations: dict[str, tuple[str, tuple[int, ...]]]
    action: tuple[str, tuple[int, ...]]
    low: tuple[float, ...]
    high: tuple[float, ...]

    @classmethod
    def of(cls, observation_space: Space, action_space: Space) -> "Layout":
        """
        The layout of two spaces.

        :param observation_space: Box or MultiBinary, or a Dict of these
        :param action_space: Box or Discrete
        :return: the layout
        :raises ValueError: if a space is of another kind
        """
        parts = observation_space.spaces if isinstance(observation_space, spaces.Dict) else {"observation": observation_space}
        for space in parts.values():
            if not isinstance(space, spaces.Box | spaces.MultiBinary):
                raise ValueError(f"Observations of the space {space} cannot be sent: only vectors of numbers can.")
        if isinstance(action_space, spaces.Box):
            low, high = (tuple(map(float, np.ravel(bound))) for bound in (action_space.low, action_space.high))
        elif isinstance(action_space, spaces.Discrete) and action_space.start == 0:
            low, high = (0.0,), (float(action_space.n - 1),)
        else:
            raise ValueError(f"Actions of the space {action_space} cannot be sent: only Box and Discrete from 0 can.")
        return cls({key: _kind(space) for key, space in parts.items()}, _kind(action_space), low, high)

    @property
    def fingerprint(self) -> str:
        """Sixteen hexadecimal digits that differ where layouts do."""
        return hashlib.sha256(msgspec.msgpack.encode(self)).hexdigest()[:16]

    def check(self, fingerprint: str, what: str) -> None:
        """
        Refuse another layout.

        :param fingerprint: fingerprint of what was received
        :param what: name of what was received, for the message
        :raises FrameError: if they differ
        """
        if fingerprint != self.fingerprint:
            raise FrameError(
                "spaces",
                f"{what} is for other spaces (fingerprint {fingerprint}, expected {self.fingerprint}): "
                "robot and learner need the same observation and action space.",
            )


def _kind(space: Space) -> tuple[str, tuple[int, ...]]:
    """Type, in NumPy's notation for little-endian, and shape of the values in a space."""
    shape, dtype = space.shape, space.dtype
    assert shape is not None
    assert dtype is not None
    return np.dtype(dtype).newbyteorder("<").str, tuple(map(int, shape))
