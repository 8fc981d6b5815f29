"""Post-training quantization of agents."""

from collections.abc import Mapping
from dataclasses import replace

import numpy as np

from sb3_asym.deployment.agent import DeployableAgent, Network
from sb3_asym.quantization.layers import half, quantize_layer
from sb3_asym.quantization.schemes import Scheme


def quantize(
    agent: DeployableAgent, schemes: Mapping[str, str | Scheme] | str | Scheme, observations: np.ndarray | None = None
) -> DeployableAgent:
    """
    Convert the networks of an agent to other precisions.

    :param agent: agent in fp32
    :param schemes: scheme of all networks, or by network; as text too, see :class:`Scheme`
    :param observations: ``(n_steps, obs_dim)`` observations of rollouts, from which quantized activations take their ranges;
        None without quantized activations, or where the agent was trained with them, whose ranges are kept
    :return: agent in these precisions: exactly as it is exported in fp16 and int8, simulated in float32 in other schemes
    :raises ValueError: if there is no such scheme, activations have no observations, or a weight is too large for fp16
    """
    names = [network.name for network in agent.networks]
    given = schemes if isinstance(schemes, Mapping) else dict.fromkeys(names, schemes)
    parsed = {name: Scheme.parse(given[name]) for name in names}
    for network in agent.networks:
        scheme = parsed[network.name]
        needed = scheme.activation_bits is not None and not network.is_trained_quantized
        if needed and (observations is None or len(observations) == 0):
            raise ValueError(f"{scheme} needs observations of rollouts to calibrate: name the env.")

    def convert(network: Network) -> Network:
        return _quantize_network(network, parsed[network.name], agent, observations)

    master = None if agent.master is None else convert(agent.master)
    return replace(agent, sub_policies=tuple(map(convert, agent.sub_policies)), master=master)


def _quantize_network(network: Network, scheme: Scheme, agent: DeployableAgent, observations: np.ndarray | None) -> Network:
    if scheme.name == "fp32":
        return network
    if scheme.is_float:
        layers = [
            replace(layer, weight=half(layer.weight, network.name), bias=half(layer.bias, network.name))
            for layer in network.layers
        ]
        return replace(network, layers=tuple(layers))
    if scheme.activation_bits is None:
        layers = [quantize_layer(layer, scheme, None, None, first=index == 0) for index, layer in enumerate(network.layers)]
        return replace(network, layers=tuple(layers))
    layers, x = [], None if network.is_trained_quantized else agent.normalize(observations)  # type: ignore[arg-type]
    for index, layer in enumerate(network.layers):
        if x is None:
            low, high = layer.trained.low, layer.trained.high  # type: ignore[union-attr]
        else:
            low, high = x.numpy().min(0), x.numpy().max(0)
            x = layer.forward(x)
        layers.append(quantize_layer(layer, scheme, low, high, first=index == 0))
    return replace(network, layers=tuple(layers))


def as_trained(agent: DeployableAgent) -> DeployableAgent:
    """
    An agent in the schemes in which its networks were trained.

    :param agent: agent in fp32
    :return: the agent that training saw: networks that were trained in full precision stay as they are
    """
    schemes = {network.name: network.layers[0].trained for network in agent.networks}
    return quantize(agent, {name: "fp32" if trained is None else trained.scheme for name, trained in schemes.items()})
