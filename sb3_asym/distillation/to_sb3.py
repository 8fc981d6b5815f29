"""Distilled networks as SB3 models, to be saved, evaluated and exported like any other."""

from collections.abc import Sequence
from typing import Any

import numpy as np
import torch as th
from stable_baselines3 import DQN, SAC
from stable_baselines3.common.base_class import BaseAlgorithm
from torch import nn

from sb3_asym.deployment import DeployableAgent
from sb3_asym.deployment.agent import Network
from sb3_asym.deployment.recording import SampledObservations

SMALL_LOG_STD = -5.0
"""Exploration noise of a distilled actor, so that it hardly explores where it goes on learning."""


def to_sb3(agent: DeployableAgent, teacher: BaseAlgorithm) -> BaseAlgorithm:
    """
    A distilled agent as an SB3 model of observations as the env gives them.

    :param agent: deployable form of a student
    :param teacher: model with its spaces
    :return: a ``SAC`` model, or ``DQN`` where actions are discrete; its critic is untrained
    """
    (network,) = agent.sub_policies
    hidden = [len(layer.bias) for layer in network.layers[:-1]]
    policy = "MultiInputPolicy" if agent.is_dict else "MlpPolicy"
    kwargs: dict[str, Any] = dict(buffer_size=1, device="cpu")
    architecture: Any = hidden if agent.output == "argmax" else dict(pi=hidden, qf=[8])
    policy_kwargs = dict(net_arch=architecture, activation_fn=activation_of([network]))
    algorithm = DQN if agent.output == "argmax" else SAC
    env = SampledObservations(teacher)
    env.observation_space = teacher.observation_space  # as it is, with its bounds and the order of its parts
    model = algorithm(policy, env, policy_kwargs=policy_kwargs, **kwargs)
    if agent.output == "argmax":
        q_networks: Any = (model.policy.q_net, model.policy.q_net_target)
        for q_network in q_networks:
            copy_linears(network, [layer for layer in q_network.q_net if isinstance(layer, nn.Linear)])
    else:
        copy_actor(network, model.policy.actor)
    return model


def copy_actor(network: Network, actor: Any) -> None:
    """
    Copy a network into a SAC actor.

    :param network: network that ends with tanh
    :param actor: actor of the same sizes
    """
    copy_linears(network, [*(layer for layer in actor.latent_pi if isinstance(layer, nn.Linear)), actor.mu])
    with th.no_grad():
        actor.log_std.weight.zero_()
        actor.log_std.bias.fill_(SMALL_LOG_STD)


def copy_linears(network: Network, linears: Sequence[nn.Linear]) -> None:
    """
    Copy weights and biases layer by layer.

    :param network: source
    :param linears: targets, in order
    """
    with th.no_grad():
        for layer, linear in zip(network.layers, linears, strict=True):
            linear.weight.copy_(th.as_tensor(np.asarray(layer.weight)))
            linear.bias.copy_(th.as_tensor(np.asarray(layer.bias)))


def activation_of(networks: Sequence[Network]) -> type[nn.Module]:
    """
    The activation function of the hidden layers.

    :param networks: networks with the same one
    :return: its class; ReLU where there is no hidden layer
    """
    for network in networks:
        for layer in network.layers[:-1]:
            return type(layer.activations[0])
    return nn.ReLU
