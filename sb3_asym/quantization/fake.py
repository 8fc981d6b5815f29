"""Linear layers that calculate with quantized numbers while they learn, and the policies that have them."""

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import torch as th
from stable_baselines3.common.policies import ActorCriticPolicy, BasePolicy
from torch import nn

from sb3_asym.deployment.agent import Trained
from sb3_asym.deployment.from_sb3 import learned_networks, linear_layers
from sb3_asym.quantization.schemes import Grid, Scheme, activation_grid, fake_quantize, int8_weight_grid, weight_grid

TARGETS = {
    "actor": "actor_target",
    "critic": "critic_target",
    "critics": "critic_targets",
    "q_net": "q_net_target",
    "quantile_net": "quantile_net_target",
}
"""Target networks by the networks that they follow, as SB3's and our policies name them."""

RANGE_RATE = 0.01
"""Step size of the running averages of ranges."""


class Quantizer(nn.Module):
    """
    What a layer and the same layer of a target network have in common: their scheme, and the range of their inputs.

    :param scheme: scheme with grids
    :param n_inputs: inputs of the layer
    :param first: True for the first layer of a network, where each input has a range of its own
    :param n_averaged: quantiles over whose mean the last layer of QR-DQN acts; 1 for all other layers
    """

    low: th.Tensor
    high: th.Tensor

    def __init__(self, scheme: Scheme, n_inputs: int, first: bool, n_averaged: int = 1):
        super().__init__()
        self.scheme, self.first, self.n_averaged = scheme, first, n_averaged
        self.on = False
        for bound in ("low", "high"):
            self.register_buffer(bound, th.full((n_inputs if first else 1,), th.nan))

    def observe(self, inputs: th.Tensor) -> None:
        """
        Move the ranges: running averages of the least and the greatest inputs of a batch (Jacob et al. 2018, section 3.1), so
        that what was rare, or long ago, does not make grids coarse.

        :param inputs: inputs of the layer, ``(…, n_in)``
        """
        inputs = inputs.detach().reshape(-1, len(self.low))
        for bound, found in ((self.low, inputs.amin(0)), (self.high, inputs.amax(0))):
            bound.copy_(th.where(bound.isnan(), found, bound.lerp(found, RANGE_RATE)))

    @property
    def is_ready(self) -> bool:
        """Whether the ranges are known."""
        return not bool(self.low.isnan().any())

    def inputs(self) -> Grid | None:
        """The grid of the inputs, or None where they are not quantized."""
        bits = self.scheme.activation_bits
        return None if bits is None else activation_grid(self.low, self.high, bits, self.first)

    def quantize(self, layer: nn.Linear, inputs: Grid | None) -> th.Tensor:
        """
        The weights of a layer on their grid.

        :param layer: the layer
        :param inputs: grid of its inputs
        :return: ``(n_out, n_in)``; those of QR-DQN's last layer are moved so that their means over the quantiles are
        """
        with th.no_grad():
            weight, bias = layer.weight, th.zeros_like(layer.weight[:, 0]) if layer.bias is None else layer.bias
            if self.n_averaged > 1:
                weight, bias = (values.unflatten(0, (self.n_averaged, -1)).mean(0) for values in (weight, bias))
            scaled = weight if inputs is None else weight * inputs.scale
            grid = (
                int8_weight_grid(scaled, bias, self.scheme)[0] if self.scheme.is_integer else weight_grid(scaled, self.scheme)
            )
            quantized = fake_quantize(scaled, grid)
            if inputs is not None:
                quantized = quantized / inputs.scale
            return quantized if self.n_averaged == 1 else layer.weight + (quantized - weight).repeat(self.n_averaged, 1)

    def get_extra_state(self) -> th.Tensor:
        """Whether quantization is on, for the state dict."""
        return th.tensor(self.on)

    def set_extra_state(self, state: th.Tensor) -> None:
        """Restore it."""
        self.on = bool(state)


class QuantizedLinear(nn.Linear):
    """
    A linear layer that quantizes its inputs and weights in the forward pass, with straight-through gradients.

    It comes about by a change of an ``nn.Linear``'s class, so that its parameters, their names and their order stay.
    """

    quantizer: Quantizer

    def forward(self, inputs: th.Tensor) -> th.Tensor:
        """
        Run the layer; in training mode, ranges move to the inputs'.

        :param inputs: ``(…, n_in)``
        :return: ``(…, n_out)``
        """
        quantizer = self.quantizer
        if self.training:
            quantizer.observe(inputs)
        if not quantizer.on:
            return super().forward(inputs)
        grid = quantizer.inputs()
        weight = StraightThrough.apply(self.weight, quantizer.quantize(self, grid), None)
        if grid is not None:
            inputs = StraightThrough.apply(inputs, fake_quantize(inputs, grid), grid.reaches(inputs))
        return nn.functional.linear(inputs, weight, self.bias)

    def trained(self) -> tuple[th.Tensor, Trained | None]:
        """
        What is deployed of the layer.

        :return: its weights, and the grid on which they were trained, or None where quantization is not on
        """
        quantizer = self.quantizer
        if not quantizer.on:
            return self.weight, None
        low, high = quantizer.low.cpu().numpy().copy(), quantizer.high.cpu().numpy().copy()
        return quantizer.quantize(self, quantizer.inputs()), Trained(quantizer.scheme.name, low, high)


class StraightThrough(th.autograd.Function):
    """Quantized numbers, with the numbers' own gradient within the range (Bengio et al. 2013, arXiv 1308.3432)."""

    @staticmethod
    def forward(ctx: Any, values: th.Tensor, quantized: th.Tensor, reached: th.Tensor | None) -> th.Tensor:
        """The quantized numbers; ``reached`` says which are in the range, None that all are."""
        ctx.save_for_backward(reached)
        return quantized.view_as(quantized)

    @staticmethod
    def backward(ctx: Any, *gradients: Any) -> tuple[Any, None, None]:
        """The gradient where the range reaches, 0 elsewhere."""
        (gradient,), (reached,) = gradients, ctx.saved_tensors
        return gradient if reached is None else gradient * reached, None, None


@dataclass(frozen=True)
class QuantizedPolicy:
    """
    A policy class of which SB3 builds policies with quantized layers, as it does when it loads an agent that learned so.

    :param policy_class: policy class
    :param scheme: scheme with grids
    :param critic: whether the critic is quantized too
    """

    policy_class: type[BasePolicy]
    scheme: Scheme
    critic: bool

    @property
    def __name__(self) -> str:
        """Name of the policy class, which SB3 reads."""
        return self.policy_class.__name__

    def __call__(self, *args: Any, **kwargs: Any) -> BasePolicy:
        """Build a policy."""
        policy = self.policy_class(*args, **kwargs)
        self.quantize(policy)
        return policy

    def quantize(self, policy: BasePolicy) -> None:
        """
        Make layers of a policy quantized ones: those that are deployed, the critic's on request, and those of target networks
        alike.

        :param policy: policy of an algorithm that can be deployed
        :raises ValueError: if the policy cannot be deployed, or has no critic to quantize
        """
        chains = [(linear_layers(part.modules), part.n_averaged) for part in learned_networks(policy).values()]
        if self.critic:
            chains += [(linear_layers(modules), 1) for modules in _critics(policy)]
        for layers, n_averaged in chains:
            for index, layer in enumerate(layers):
                averaged = n_averaged if layer is layers[-1] else 1
                _make_quantized(layer, Quantizer(self.scheme, layer.in_features, index == 0, averaged))
        for holder in (policy, getattr(policy, "master", None)):
            for name, target in TARGETS.items():
                if hasattr(holder, target):
                    linear, followers = (_linear(getattr(holder, network)) for network in (name, target))
                    for layer, follower in zip(linear, followers, strict=True):
                        if isinstance(layer, QuantizedLinear):
                            _make_quantized(follower, layer.quantizer)


def quantizers(policy: BasePolicy) -> list[Quantizer]:
    """
    The quantizers of a policy.

    :param policy: any policy
    :return: one for each quantized layer, but none of their own for those of target networks
    """
    return [module for module in policy.modules() if isinstance(module, Quantizer)]


def _make_quantized(layer: nn.Linear, quantizer: Quantizer) -> None:
    """Make a linear layer a quantized one; one that is already keeps its ranges."""
    if isinstance(layer, QuantizedLinear):
        layer.quantizer.scheme = quantizer.scheme
        return
    layer.__class__ = QuantizedLinear
    layer.quantizer = quantizer.to(layer.weight.device)


def _critics(policy: Any) -> list[tuple[nn.Module, ...]]:
    """The modules of each network of the critic, in order."""
    if isinstance(policy, ActorCriticPolicy):
        return [(policy.mlp_extractor.value_net, policy.value_net)]
    critics = getattr(policy, "critics", None) or [
        critic for critic in [getattr(policy, "critic", None)] if critic is not None
    ]
    if not critics:
        raise ValueError(f"critic=True: a {type(policy).__name__} has no critic apart from the network that acts.")
    return [(network,) for critic in critics for network in critic.q_networks]


def _linear(network: nn.Module) -> Iterator[nn.Linear]:
    return (module for module in network.modules() if isinstance(module, nn.Linear))
