"""The replay memory of a model that learns from robots: one lane for each."""

from typing import Any

import numpy as np
from stable_baselines3 import HerReplayBuffer
from stable_baselines3.common.off_policy_algorithm import OffPolicyAlgorithm
from stable_baselines3.common.vec_env import VecNormalize

from sb3_asym.asym_sac import AsymSAC
from sb3_asym.buffers import Batch, OptionMemory, OptionSamples
from sb3_asym.cloud_edge.transitions import Transitions
from sb3_asym.lanes import Lanes, Transition


class RobotMemory:
    """
    Takes the place of a model's replay buffer, and of the memory of its master, if it has one.

    A robot's lane is made when its first transitions come: a buffer of the model's own class and size.

    :param model: the model
    :raises ValueError: if its buffer keeps observations only once, which needs an env of its own
    """

    def __init__(self, model: OffPolicyAlgorithm):
        if model.optimize_memory_usage:
            raise ValueError("Make the model without optimize_memory_usage: robots' episodes do not follow each other.")
        self.model = model
        self.robots: dict[str, int] = {}
        self._lanes: Lanes | None = None
        model.replay_buffer = self  # type: ignore[assignment]
        if isinstance(model, AsymSAC):
            model.master.memory = _OptionsOf(self)  # type: ignore[assignment]

    def add(self, robot: str, transitions: Transitions) -> None:
        """
        Store transitions.

        :param robot: name of the robot
        :param transitions: transitions that follow each other and those stored before
        """
        lane = self._lane(robot)
        model, lanes = self.model, self._lanes
        assert lanes is not None
        after = transitions.next_observations()
        is_dict = [*transitions.observations] != ["observation"]
        for row in range(len(transitions)):
            parts = [{key: values[row] for key, values in found.items()} for found in (transitions.observations, after)]
            observation, next_observation = parts if is_dict else (part["observation"] for part in parts)
            truncated = bool(transitions.truncated[row])
            lanes.add(
                lane,
                Transition(
                    observation=observation,
                    next_observation=next_observation,
                    action=model.policy.scale_action(transitions.actions[row]).astype(np.float32),
                    reward=float(transitions.rewards[row]),
                    done=truncated or bool(transitions.terminated[row]),
                    info={"TimeLimit.truncated": truncated},
                    option=int(transitions.options[row]),
                    started=bool(transitions.started[row]),
                    ended=bool(transitions.ended[row]),
                ),
            )

    def size(self) -> int:
        """
        Size of the memory.

        :return: number of transitions that can be sampled
        """
        return 0 if self._lanes is None else self._lanes.size()

    def sample(self, batch_size: int, env: VecNormalize | None = None) -> Batch:
        """
        Sample transitions uniformly over all robots, as SB3's buffers do.

        :param batch_size: number of transitions
        :param env: normalization of observations and rewards
        :return: the batch
        """
        return self._known().sample(batch_size, env)

    def sample_options(self, batch_size: int, env: VecNormalize | None = None) -> OptionSamples:
        """
        Sample option transitions uniformly over all robots.

        :param batch_size: number of option transitions
        :param env: normalization of observations and rewards
        :return: the batch
        """
        return self._known().sample_options(batch_size, env)

    def can_sample_options(self) -> bool:
        """
        Whether there is an option to sample.

        :return: True where a lane has a complete option transition
        """
        return self._lanes is not None and self._lanes.can_sample_options()

    def _known(self) -> Lanes:
        if self._lanes is None:
            raise RuntimeError("There is nothing to sample yet: let more steps pass before learning starts.")
        return self._lanes

    def _lane(self, robot: str) -> int:
        if robot not in self.robots:
            memory = self._new_memory()
            if self._lanes is None:
                self._lanes = Lanes([memory])
            else:
                self._lanes.memories.append(memory)
            self.robots[robot] = len(self.robots)
        return self.robots[robot]

    def _new_memory(self) -> OptionMemory:
        model = self.model
        kwargs: dict[str, Any] = dict(model.replay_buffer_kwargs)
        assert model.replay_buffer_class is not None
        if issubclass(model.replay_buffer_class, HerReplayBuffer):
            kwargs["env"] = model.env
        buffer = model.replay_buffer_class(
            model.buffer_size, model.observation_space, model.action_space, device=model.device, n_envs=1, **kwargs
        )
        if isinstance(model, AsymSAC):
            return OptionMemory(buffer, **model._memory_kwargs())
        return OptionMemory(buffer, option_length=1, gamma=model.gamma, costs=np.ones(1))


class _OptionsOf:
    """The option transitions of a memory, as a master samples them."""

    def __init__(self, memory: RobotMemory):
        self.sample, self.can_sample = memory.sample_options, memory.can_sample_options
