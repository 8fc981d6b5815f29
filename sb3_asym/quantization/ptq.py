"""Post-training quantization of agents."""

from collections.abc import Callable, Mapping
from dataclasses import replace
from typing import Any

import gymnasium as gym
import numpy as np

from sb3_asym.deployment.agent import DeployableAgent, Network
from sb3_asym.deployment.recording import record
from sb3_asym.deployment.runners import Runner
from sb3_asym.quantization.images import ImageNetwork, acting_layers, quantize_policy
from sb3_asym.quantization.layers import half, quantize_layer, real_weight
from sb3_asym.quantization.schemes import Scheme

CALIBRATION_EPISODES = 10
CALIBRATION_SEED = 1_000_000
"""Seed far from those of the episodes over which an agent is measured."""


def calibration_observations(
    runner: Runner, agent: DeployableAgent, env: gym.Env, on_episode: Callable[[], Any] | None = None
) -> np.ndarray:
    """
    Observations of episodes from which quantized activations take their ranges.

    :param runner: runner of the agent
    :param agent: the agent in fp32
    :param env: env (not vectorized)
    :param on_episode: function to call after each of ``CALIBRATION_EPISODES`` episodes
    :return: ``(n_steps, obs_dim)`` observations
    """
    recording = record(runner, agent, env, n_episodes=CALIBRATION_EPISODES, seed=CALIBRATION_SEED, on_episode=on_episode)
    return recording.observations


def quantize(
    agent: DeployableAgent, schemes: Mapping[str, str | Scheme] | str | Scheme, observations: np.ndarray | None = None
) -> DeployableAgent:
    """
    Convert the networks of an agent to other precisions.

    :param agent: agent in fp32
    :param schemes: scheme of all networks, or by network; as text too, see :class:`Scheme`
    :param observations: ``(n_steps, obs_dim)`` observations of rollouts, from which quantized activations take their ranges,
        and by which weights are rounded in turn; None for schemes that need none
    :return: agent in these precisions: exactly as it is exported in fp16 and int8, simulated in float32 in other schemes
    :raises ValueError: if there is no such scheme, it needs observations and there are none, or a weight is too large for fp16
    """
    names = [network.name for network in agent.networks]
    given = schemes if isinstance(schemes, Mapping) else dict.fromkeys(names, schemes)
    parsed = {name: Scheme.parse(given[name]) for name in names}
    for scheme in parsed.values():
        if scheme.needs_observations and (observations is None or len(observations) == 0):
            raise ValueError(f"{scheme} needs observations of rollouts to calibrate: name the env.")

    def convert(network: Network) -> Network:
        return _quantize_network(network, parsed[network.name], agent, observations)

    master = None if agent.master is None else convert(agent.master)
    return replace(agent, sub_policies=tuple(map(convert, agent.sub_policies)), master=master)


def _quantize_network(network: Network, scheme: Scheme, agent: DeployableAgent, observations: np.ndarray | None) -> Network:
    if scheme.name == "fp32":
        return network
    if isinstance(network, ImageNetwork):
        return replace(network, policy=quantize_policy(network.policy, scheme), scheme=scheme)
    if scheme.is_float:
        layers = [
            replace(layer, weight=half(layer.weight, network.name), bias=half(layer.bias, network.name))
            for layer in network.layers
        ]
        return replace(network, layers=tuple(layers))
    # Where there are no observations, no scheme looks at them.
    before = after = agent.normalize(np.zeros((1, agent.obs_dim), dtype=np.float32) if observations is None else observations)
    layers = []
    for index, layer in enumerate(network.layers):
        x = before.numpy()
        seen = (x, after.numpy()) if scheme.gptq else None
        layers.append(quantize_layer(layer, scheme, x.min(0), x.max(0), first=index == 0, seen=seen))
        before = layer.forward(before)
        if scheme.gptq:
            after = layers[-1].forward(after)
    return replace(network, layers=tuple(layers))


def weights(agent: DeployableAgent) -> list[np.ndarray]:
    """
    The weights of each layer of an agent in any precision.

    :param agent: the agent
    :return: float32 weights that multiply the inputs, by layer
    """
    found = []
    for network in agent.networks:
        if isinstance(network, ImageNetwork):
            found += [layer.weight.detach().cpu().numpy() for layer in acting_layers(network.policy)]
        else:
            found += [real_weight(layer) for layer in network.layers]
    return found
