"""The trained agent that students learn from."""

from itertools import pairwise
from typing import Any

import numpy as np
import torch as th
from stable_baselines3.common.base_class import BaseAlgorithm
from stable_baselines3.common.vec_env import VecNormalize
from torch import nn

from sb3_asym.deployment import DeployableAgent, deployable
from sb3_asym.policies import AsymSACPolicy
from sb3_asym.update.flat import Stack


class Teacher:
    """
    A trained agent as a function from observations to targets.

    :param model: SAC, TD3, DDPG, TQC, PPO, A2C, DQN or QRDQN model; of an AsymSAC model, the largest sub-policy
    :param vec_normalize: statistics of its observations; those of the model's own env by default
    :raises ValueError: if the model has no deployable form, or actions without bounds
    """

    def __init__(self, model: BaseAlgorithm, vec_normalize: VecNormalize | None = None):
        agent = deployable(model, vec_normalize)
        self.model = model
        self.agent: DeployableAgent = agent.alone(len(agent.sub_policies) - 1)
        self.is_discrete = self.agent.output == "argmax"
        if not np.isfinite([self.agent.low, self.agent.high]).all():
            raise ValueError("The teacher's actions have no bounds, so students cannot scale theirs: bound the action space.")
        self.n_outputs = len(self.agent.sub_policies[0].layers[-1].bias)
        self.flops = network_flops([self.agent.obs_dim, *self.hidden, self.n_outputs])

    @property
    def hidden(self) -> list[int]:
        """Units of the hidden layers."""
        return [len(layer.bias) for layer in self.agent.sub_policies[0].layers[:-1]]

    @property
    def activation(self) -> type[nn.Module]:
        """Activation function of the hidden layers; ReLU where there are none."""
        layers = self.agent.sub_policies[0].layers[:-1]
        return type(layers[0].activations[0]) if layers and layers[0].activations else nn.ReLU

    def targets(self, observations: np.ndarray) -> np.ndarray:
        """
        What students shall output.

        :param observations: ``(batch, obs_dim)`` float32, as the env gives them
        :return: actions scaled to [-1, 1], ``(batch, action_dim)``; of a discrete teacher 1 for its choice and else 0,
            ``(batch, n_actions)``
        """
        actions = self.agent.actions(observations, np.zeros(len(observations), dtype=np.int64))
        if self.is_discrete:
            return np.eye(self.n_outputs, dtype=np.float32)[actions[:, 0].astype(np.int64)]
        low, high = self.agent.low, self.agent.high
        return (2 * (actions - low) / (high - low) - 1).astype(np.float32)

    def critic(self) -> "TeacherCritic":
        """
        The teacher's critic, for students that maximize it.

        :return: the critic
        :raises ValueError: if the teacher has no critic of states and actions
        """
        critic: Any = getattr(self.model.policy, "critic", None)
        networks = getattr(critic, "q_networks", None) or getattr(critic, "quantile_critics", None)
        if self.is_discrete or networks is None or isinstance(self.model.policy, AsymSACPolicy):
            raise ValueError(f"A {type(self.model).__name__} teacher has no critic of actions: choose the loss 'mse'.")
        if not all(isinstance(layer, nn.Linear | nn.ReLU) for network in networks for layer in network):
            raise ValueError("The teacher's critic has other layers than linear ones with ReLU: choose the loss 'mse'.")
        return TeacherCritic(list(networks))


class TeacherCritic:
    """
    A teacher's q-networks, stacked.

    :param networks: multilayer perceptrons of one shape with ReLU, of normalized observations and actions in [-1, 1]
    """

    def __init__(self, networks: list[Any]):
        linears = [[[layer] for layer in network if isinstance(layer, nn.Linear)] for network in networks]
        self.stack = Stack(linears)
        self.weights = th.zeros(self.stack.size)
        with th.no_grad():
            for parameter, view in self.stack.parameters(self.weights):
                view.copy_(parameter)


def network_flops(sizes: list[int]) -> int:
    """
    FLOPs of one inference of a multilayer perceptron; one multiply-add counts as 2.

    :param sizes: numbers of inputs, hidden units and outputs, in order
    :return: FLOPs of its matrix products
    """
    return 2 * sum(n_in * n_out for n_in, n_out in pairwise(sizes))
