"""Policies on images, whose convolutions cannot be exported: the weights of their torch modules are quantized."""

from collections.abc import Iterator
from dataclasses import dataclass, replace
from typing import Any

import gymnasium as gym
import numpy as np
import torch as th
from stable_baselines3.common.base_class import BaseAlgorithm
from stable_baselines3.common.policies import ActorCriticPolicy, BasePolicy
from stable_baselines3.common.preprocessing import is_image_space
from stable_baselines3.dqn.policies import DQNPolicy
from torch import nn

from sb3_asym.deployment.agent import DeployableAgent, Network, ObservationPart
from sb3_asym.deployment.from_sb3 import action_output
from sb3_asym.policies import AsymSACPolicy
from sb3_asym.quantization.layers import half, packed_bytes
from sb3_asym.quantization.schemes import Scheme, fake_quantize, weight_grid


@dataclass(frozen=True)
class ImageNetwork(Network):
    """
    The torch modules of a policy that takes images, used as a network on flat observations.

    :param name: "policy"
    :param layers: none
    :param policy: policy of SB3
    :param shape: shape of an image in the env
    :param scheme: scheme of the weights
    """

    policy: BasePolicy
    shape: tuple[int, ...]
    scheme: Scheme

    @property
    def precision(self) -> str:
        """Name of the scheme."""
        return self.scheme.name

    @property
    def n_bytes(self) -> int:
        """Bytes of the numbers that ``predict`` uses: packed weights with their grids, and biases."""
        return sum(
            packed_bytes(layer.weight.numel(), len(layer.weight), self.scheme)
            + (0 if layer.bias is None else layer.bias.numel() * (2 if self.scheme.name == "fp16" else 4))
            for layer in acting_layers(self.policy)
        )

    def forward(self, x: th.Tensor) -> th.Tensor:
        """
        Run the policy.

        :param x: ``(batch, obs_dim)`` float32, flat images
        :return: ``(batch, n_out)`` float32 outputs: q-values, logits or actions
        """
        policy: Any = self.policy
        images = x.reshape(-1, *self.shape)
        if self.shape != policy.observation_space.shape:  # the channels are last in the env, and first in the policy
            images = images.permute(0, 3, 1, 2)
        with th.no_grad():
            if isinstance(policy, DQNPolicy):
                return policy.q_net(images)
            if isinstance(policy, ActorCriticPolicy):
                features: Any = policy.extract_features(images, policy.pi_features_extractor)
                outputs = policy.action_net(policy.mlp_extractor.forward_actor(features))
                return th.tanh(outputs) if policy.squash_output else outputs
            if hasattr(policy, "quantile_net"):
                return policy.quantile_net(images).mean(1)
            return policy._predict(images, deterministic=True)


def image_agent(model: BaseAlgorithm, env: gym.Env) -> DeployableAgent:
    """
    An SB3 model that takes images, as an agent that runs like a deployable one but cannot be exported.

    :param model: an SB3 model
    :param env: env with the images
    :return: the agent, in fp32
    :raises ValueError: if the model is an AsymSAC agent, or its observations are no single image
    """
    space = env.observation_space
    if isinstance(model.policy, AsymSACPolicy) or not is_image_space(model.observation_space):
        raise ValueError(f"Only vectors of numbers and single images can be quantized here, not {model.observation_space}.")
    assert space.shape is not None
    output, low, high = action_output(model.action_space, model.policy)
    part = ObservationPart("observation", space.shape, 0, int(np.prod(space.shape)))
    network = ImageNetwork("policy", (), model.policy, space.shape, Scheme.parse("fp32"))
    return DeployableAgent(type(model).__name__, (network,), None, 1, (part,), False, None, output, low, high)


def quantize_policy(policy: BasePolicy, scheme: Scheme) -> BasePolicy:
    """
    A copy of a policy with quantized weights in its dense layers and convolutions, as QuaRL has it on Atari.

    :param policy: policy of any algorithm of SB3
    :param scheme: scheme of weights alone; a convolution has a grid for each output channel, or one for all its weights
    :return: the copy, whose weights lie on the grids, in float32; it predicts as any policy does
    :raises ValueError: if the scheme needs observations, or a weight is too large for fp16
    """
    if scheme.needs_observations:
        plain = replace(scheme, activation_bits=None, gptq=False)
        raise ValueError(f"A policy on images has its weights alone quantized, to the nearest: choose {plain} for {scheme}.")
    quantized = type(policy)(**policy._get_constructor_parameters())
    quantized.load_state_dict(policy.state_dict())
    quantized.set_training_mode(False)
    with th.no_grad():
        for layer in acting_layers(quantized):
            if scheme.name == "fp16":
                for values in layer.parameters():
                    values.copy_(th.as_tensor(half(values.cpu().numpy(), "the policy")))
            elif not scheme.is_float:
                layer.weight.copy_(fake_quantize(layer.weight, weight_grid(layer.weight, scheme)))
    return quantized


def acting_layers(policy: Any) -> Iterator[nn.Conv2d | nn.Linear]:
    """
    The layers that ``predict(deterministic=True)`` uses.

    :param policy: policy of any algorithm of SB3
    :return: its convolutions and dense layers, from the input to the output
    """
    if isinstance(policy, ActorCriticPolicy):
        parts = [policy.pi_features_extractor, policy.mlp_extractor.policy_net, policy.action_net]
    else:
        network = next(getattr(policy, name) for name in ("q_net", "quantile_net", "actor") if hasattr(policy, name))
        names = ("features_extractor", "q_net", "quantile_net", "latent_pi", "mu")
        parts = [getattr(network, name) for name in names if hasattr(network, name)]
    for part in parts:
        yield from (module for module in part.modules() if isinstance(module, nn.Conv2d | nn.Linear))
