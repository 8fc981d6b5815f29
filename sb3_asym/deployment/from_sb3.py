"""Conversion of SB3 and AsymSAC models to deployable agents, which act as ``predict(deterministic=True)`` does."""

from collections.abc import Iterator
from dataclasses import replace
from typing import Any, NamedTuple

import gymnasium as gym
import numpy as np
import torch as th
from gymnasium import spaces
from stable_baselines3.common.base_class import BaseAlgorithm
from stable_baselines3.common.policies import ActorCriticPolicy
from stable_baselines3.common.preprocessing import is_image_space
from stable_baselines3.common.torch_layers import CombinedExtractor, FlattenExtractor
from stable_baselines3.common.vec_env import VecNormalize
from stable_baselines3.dqn.policies import DQNPolicy
from stable_baselines3.sac.policies import Actor as SACActor
from stable_baselines3.td3.policies import Actor as TD3Actor
from torch import nn

from sb3_asym.deployment.activations import ACTIVATIONS
from sb3_asym.deployment.agent import Dense, DeployableAgent, DeployedDial, Network, Normalization, ObservationPart
from sb3_asym.policies import AsymSACPolicy


def deployable(model: BaseAlgorithm, vec_normalize: VecNormalize | None = None) -> DeployableAgent:
    """
    Convert an SB3 model to a deployable agent.

    :param model: an AsymSAC, SAC, TD3, DDPG, TQC, DQN, QRDQN, PPO or A2C model
    :param vec_normalize: normalization of the observations to fold in; that of the model's own env by default
    :return: deployable agent with the layers and the normalization of the model
    :raises ValueError: if the model has parts without a deployable form
    """
    return deployable_view(model, vec_normalize).copy()


def deployable_view(model: BaseAlgorithm, vec_normalize: VecNormalize | None = None) -> DeployableAgent:
    """
    The deployable form of a model whose arrays may be the model's own memory: they change as it learns.

    :param model: the model
    :param vec_normalize: normalization of the observations to fold in; that of the model's own env by default
    :return: deployable agent
    :raises ValueError: if the model has parts without a deployable form
    """
    policy: Any = model.policy
    observations = _observation_parts(model.observation_space)
    networks = {name: _network(name, part) for name, part in deployed_networks(policy).items()}
    master = networks.pop("master", None)
    output, low, high = action_output(model.action_space, policy)
    return DeployableAgent(
        algorithm=type(model).__name__,
        sub_policies=tuple(networks.values()),
        master=master,
        option_length=1 if master is None else policy.option_length,
        observations=observations,
        is_dict=isinstance(model.observation_space, spaces.Dict),
        normalization=_normalization(observations, vec_normalize or model.get_vec_normalize_env()),
        output=output,
        low=low,
        high=high,
        dial=_dial(policy),
    )


def _dial(policy: Any) -> DeployedDial | None:
    """How the master changes with λ, where it can be set."""
    if not isinstance(policy, AsymSACPolicy) or policy.dial is None:
        return None
    network: Any = policy.advantage_network
    return DeployedDial(
        low=policy.dial.low,
        high=policy.dial.high,
        cost_coef=network.cost_coef.item(),
        column=_array(network.q_net[0].weight[:, -1]).copy(),
        prices=_array(network.prices / network.scale),
        cost_shares=policy.cost_shares.astype(np.float32),
        budget=policy.budget or 0.0,
        steering_rate=policy.dial.steering_rate(policy.option_length),
    )


class DeployedNetwork(NamedTuple):
    """
    The part of a policy that is deployed as one network.

    :param owner: module with the features extractor
    :param modules: torch modules that run in a chain from the features on
    :param n_averaged: number of quantiles over whose mean the network acts, 1 without quantiles
    """

    owner: Any
    modules: tuple[nn.Module, ...]
    n_averaged: int = 1


def deployed_networks(policy: Any) -> dict[str, DeployedNetwork]:
    """
    What ``predict(deterministic=True)`` runs of a policy.

    :param policy: policy of a model that can be deployed
    :return: parts by the name of their network, sub-policies first; "master" with options, "policy" without
    :raises ValueError: if the policy has no deployable form
    """
    if isinstance(policy, AsymSACPolicy):
        actors = zip(policy.option_names, policy.actors, strict=True)
        parts = {name: DeployedNetwork(actor, (actor.latent_pi, actor.mu, nn.Tanh())) for name, actor in actors}
        master = policy.deployed_master()
        return {**parts, "master": DeployedNetwork(master, (master.q_net,))}
    return {"policy": _plain_network(policy)}


def learned_networks(policy: Any) -> dict[str, DeployedNetwork]:
    """
    As :func:`deployed_networks`, with the modules that learn: what is deployed of a master that knows λ is a copy.

    :param policy: policy of a model that can be deployed
    :return: parts by the name of their network
    """
    parts = deployed_networks(policy)
    if isinstance(policy, AsymSACPolicy):
        parts["master"] = DeployedNetwork(policy.master.q_net, (policy.master.q_net.q_net,))
    return parts


def _plain_network(policy: Any) -> DeployedNetwork:
    """The network of an SB3 policy without options."""
    if isinstance(policy, DQNPolicy):
        return DeployedNetwork(policy.q_net, (policy.q_net.q_net,))
    if isinstance(policy, ActorCriticPolicy):
        squash = [nn.Tanh()] if policy.squash_output else []
        return DeployedNetwork(policy, (policy.mlp_extractor.policy_net, policy.action_net, *squash))
    if type(policy).__module__.startswith("sb3_contrib.qrdqn"):
        return DeployedNetwork(policy.quantile_net, (policy.quantile_net.quantile_net,), policy.n_quantiles)
    actor: Any = getattr(policy, "actor", None)
    if isinstance(actor, TD3Actor):
        return DeployedNetwork(actor, (actor.mu,))
    if isinstance(actor, SACActor) or type(actor).__module__.startswith("sb3_contrib.tqc"):
        return DeployedNetwork(actor, (actor.latent_pi, actor.mu, nn.Tanh()))
    raise ValueError(f"A {type(policy).__module__}.{type(policy).__name__} has no deployable form here.")


def linear_layers(modules: tuple[nn.Module, ...]) -> list[nn.Linear]:
    """
    The linear layers of a network.

    :param modules: torch modules that run in a chain
    :return: its linear layers, in order
    """
    return [module for module in _flat(modules) if isinstance(module, nn.Linear)]


def _network(name: str, part: DeployedNetwork) -> Network:
    """Network of the dense layers and activations in a chain of torch modules."""
    extractor = getattr(part.owner, "pi_features_extractor", None) or part.owner.features_extractor
    # A class of the user's own may do more than flatten.
    if type(extractor) not in (FlattenExtractor, CombinedExtractor) or any(True for _ in extractor.parameters()):
        raise ValueError(
            f"The features extractor {type(extractor).__name__} of {name} cannot be exported: only flat inputs can."
        )
    layers: list[Dense] = []
    for module in _flat(part.modules):
        if isinstance(module, nn.Linear):
            layers.append(_dense(module))
        elif layers and type(module) in ACTIVATIONS and ACTIVATIONS[type(module)].supports(module):
            layers[-1] = replace(layers[-1], activations=(*layers[-1].activations, module))
        else:
            supported = ", ".join(["Linear", *(kind.__name__ for kind in ACTIVATIONS)])
            layer = " ".join(str(module).split())
            raise ValueError(f"The layer {layer} of {name} cannot be exported; these can: {supported}.")
    if [layer.weight.shape[1] for layer in layers] != [extractor.features_dim, *(len(layer.bias) for layer in layers[:-1])]:
        raise ValueError(f"The layers of {name} are no plain chain from the observation on: {name} cannot be exported.")
    return _mean_over_quantiles(Network(name, tuple(layers)), part.n_averaged)


def _dense(module: nn.Linear) -> Dense:
    """A linear layer; one that learned quantized says what is deployed of it."""
    quantized: Any = getattr(module, "trained", None)
    weight, trained = (module.weight, None) if quantized is None else quantized()
    bias = np.zeros(module.out_features, dtype=np.float32) if module.bias is None else _array(module.bias)
    return Dense(_array(weight), bias, (), trained=trained)


def _mean_over_quantiles(network: Network, n_quantiles: int) -> Network:
    """Fold the mean over quantiles, QR-DQN's q-value (Dabney et al. 2018, equation 9), into the last layer."""
    *layers, last = network.layers
    weight, bias = (values.reshape(n_quantiles, -1, *values.shape[1:]).mean(0) for values in (last.weight, last.bias))
    return replace(network, layers=(*layers, replace(last, weight=weight, bias=bias)))


def _flat(modules: tuple[nn.Module, ...]) -> Iterator[nn.Module]:
    """Innermost modules in order, without those that have no effect in deployment."""
    for module in modules:
        if isinstance(module, nn.Sequential):
            yield from _flat(tuple(module))
        elif not isinstance(module, nn.Identity | nn.Flatten | nn.Dropout):
            yield module


def _observation_parts(space: gym.Space) -> tuple[ObservationPart, ...]:
    """Parts of an observation, in the order in which SB3 concatenates them."""
    parts: list[ObservationPart] = []
    offset = 0
    for name, part in space.spaces.items() if isinstance(space, spaces.Dict) else [("observation", space)]:
        if not isinstance(part, spaces.Box | spaces.MultiBinary) or is_image_space(part):
            raise ValueError(f"Observations of the space {part} cannot be exported: only vectors of numbers can.")
        size = int(np.prod(part.shape))
        parts.append(ObservationPart(name, tuple(part.shape), offset, size))
        offset += size
    return tuple(parts)


def _normalization(parts: tuple[ObservationPart, ...], env: VecNormalize | None) -> Normalization | None:
    """Normalization of the flat observation, or None where observations are not normalized."""
    if env is None or not env.norm_obs:
        return None
    size = sum(part.size for part in parts)
    mean, gain, clip = np.zeros(size), np.ones(size), np.full(size, np.finfo(np.float32).max)
    for part in parts:
        statistics: Any = env.obs_rms
        if isinstance(statistics, dict):
            if part.name not in statistics:
                continue
            statistics = statistics[part.name]
        if statistics.mean.shape != part.shape:
            raise ValueError(
                f"The statistics are of observations of shape {statistics.mean.shape}, but the model's {part.name} has "
                f"{part.shape}: frames stacked over normalized observations cannot be folded in (normalize the stack instead)."
            )
        where = slice(part.offset, part.offset + part.size)
        mean[where] = statistics.mean.ravel()
        gain[where] = 1 / np.sqrt(statistics.var.ravel() + env.epsilon)
        clip[where] = env.clip_obs
    return Normalization(*(values.astype(np.float32) for values in (mean, gain, clip)))


def action_output(space: gym.Space, policy: Any) -> tuple[str, np.ndarray, np.ndarray]:
    """
    How the outputs of a policy become actions.

    :param space: action space
    :param policy: policy of SB3
    :return: conversion, and lower and upper bounds, see :class:`DeployableAgent`
    :raises ValueError: if there is no such conversion
    """
    if isinstance(space, spaces.Discrete):
        if space.start != 0:
            raise ValueError(f"Actions of the space {space} cannot be exported: they must start at 0.")
        return "argmax", np.zeros(1, dtype=np.float32), np.full(1, space.n - 1, dtype=np.float32)
    if not isinstance(space, spaces.Box):
        raise ValueError(f"Actions of the space {space} cannot be exported: only Box and Discrete can.")
    low, high = (bound.astype(np.float32).ravel() for bound in (space.low, space.high))
    return ("unscale" if policy.squash_output else "clip"), low, high


def _array(parameter: th.Tensor) -> np.ndarray:
    return parameter.detach().cpu().numpy().astype(np.float32, copy=False)
