"""Post-training quantization of agents."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from typing import Any

import gymnasium as gym
import numpy as np
import torch as th

from sb3_asym.deployment.agent import Dense, DeployableAgent, DeployedDial, Network
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
        and by which weights are rounded in turn; None for schemes that need none, or where the agent was trained quantized:
        its ranges are kept, and its weights, which lie on their grid, are rounded to the nearest
    :return: agent in these precisions: exactly as it is exported in fp16 and int8, simulated in float32 in other schemes
    :raises ValueError: if there is no such scheme, it needs observations and there are none, or a weight is too large for fp16
    """
    names = [network.name for network in agent.networks]
    given = schemes if isinstance(schemes, Mapping) else dict.fromkeys(names, schemes)
    parsed = {name: Scheme.parse(given[name]) for name in names}
    for network in agent.networks:
        missing = observations is None or len(observations) == 0
        if parsed[network.name].needs_observations and not network.is_trained_quantized and missing:
            raise ValueError(f"{parsed[network.name]} needs observations of rollouts to calibrate: name the env.")

    fine = centred(agent)

    def convert(network: Network, centred_network: Network) -> Network:
        scheme = parsed[network.name]
        dial = agent.dial if network is agent.master else None
        if scheme.is_float:
            return _quantize_network(network, scheme, agent, observations, dial)
        scheme = replace(scheme, gptq=scheme.gptq and not network.is_trained_quantized)
        return _quantize_network(centred_network, scheme, agent, observations, dial)

    master = None if agent.master is None or fine.master is None else convert(agent.master, fine.master)
    return replace(agent, sub_policies=tuple(map(convert, agent.sub_policies, fine.sub_policies)), master=master)


def centred(agent: DeployableAgent) -> DeployableAgent:
    """
    An agent whose networks that choose by their greatest output put it out less the mean of all outputs. The choices are the
    same, and the last layer's grids are as fine as the differences between outputs, not as coarse as the outputs themselves.

    :param agent: agent in fp32
    :return: the same agent; networks that were trained quantized keep their numbers
    """

    def centre(network: Network) -> Network:
        if not network.layers or network.is_trained_quantized:
            return network
        *layers, last = network.layers
        last = replace(last, weight=last.weight - last.weight.mean(0), bias=last.bias - last.bias.mean())
        return replace(network, layers=(*layers, last))

    chooses = agent.output == "argmax"
    sub_policies = tuple(map(centre, agent.sub_policies)) if chooses else agent.sub_policies
    return replace(agent, sub_policies=sub_policies, master=None if agent.master is None else centre(agent.master))


def _quantize_network(
    network: Network, scheme: Scheme, agent: DeployableAgent, observations: np.ndarray | None, dial: DeployedDial | None
) -> Network:
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
        low, high = (x.min(0), x.max(0)) if layer.trained is None else (layer.trained.low, layer.trained.high)
        seen = (x, after.numpy()) if scheme.gptq else None
        layers.append(quantize_layer(layer, scheme, low, high, first=index == 0, seen=seen))
        # With a dial, what follows the first layer is seen at its ends too.
        shifts = [np.zeros(1, np.float32)]
        if dial is not None and index == 0:
            shifts += [dial.shift(dial.low), dial.shift(dial.high)]
        before = _forward(layer, before, shifts)
        if scheme.gptq:
            after = _forward(layers[-1], after, shifts)
    return replace(network, layers=tuple(layers))


def _forward(layer: Dense, x: th.Tensor, shifts: Sequence[np.ndarray]) -> th.Tensor:
    """Outputs of a layer under each of several shifts of its biases, one below the other."""
    return th.cat([replace(layer, bias=layer.bias + shift).forward(x) for shift in shifts])


def as_trained(agent: DeployableAgent) -> DeployableAgent:
    """
    An agent in the schemes in which its networks were trained.

    :param agent: agent in fp32
    :return: the agent that training saw: networks that were trained in full precision stay as they are
    """
    schemes = {network.name: network.layers[0].trained if network.layers else None for network in agent.networks}
    return quantize(agent, {name: "fp32" if trained is None else trained.scheme for name, trained in schemes.items()})


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
