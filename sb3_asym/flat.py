"""Networks of one shape, their weights and their optimizers' state in a few flat tensors, for compiled updates."""

from collections.abc import Callable, Sequence

import torch as th
from torch import nn
from torch.nn import functional as F

Layer = tuple[th.Tensor, th.Tensor]
"""Weights ``(n_networks, out, in)`` and biases ``(n_networks, out)`` of one layer of a stack of networks."""
Activation = Callable[[th.Tensor], th.Tensor]


class Stack:
    """
    Networks of one shape, stacked layer by layer.

    :param networks: layers of each network; a layer is one or more ``nn.Linear`` with the same input, side by side
    """

    def __init__(self, networks: Sequence[Sequence[Sequence[nn.Linear]]]):
        self.layers = list(zip(*networks, strict=True))
        self.shapes = [
            (len(layer), sum(part.out_features for part in layer[0]), layer[0][0].in_features) for layer in self.layers
        ]

    @property
    def parameters(self) -> list[nn.Parameter]:
        """In the order in which they lie in memory."""
        return [
            parameter
            for layer in self.layers
            for kind in ("weight", "bias")
            for parts in layer
            for parameter in (getattr(part, kind) for part in parts)
        ]

    def views(self, flat: th.Tensor, start: int) -> tuple[list[Layer], int]:
        """
        :param flat: all weights of a role, flat
        :param start: where this stack's begin
        :return: its layers, as views, and where the next stack's weights begin
        """
        layers = []
        for n_networks, n_out, n_in in self.shapes:
            middle, end = start + n_networks * n_out * n_in, start + n_networks * n_out * (n_in + 1)
            layers.append((flat[start:middle].view(n_networks, n_out, n_in), flat[middle:end].view(n_networks, n_out)))
            start = end
        return layers, start


class Role:
    """
    All networks that one kind of update trains, with their optimizers' state, in flat tensors. Call ``bind`` before use.

    :param stacks: the networks
    :param optimizers: the Adam optimizers of their parameters
    :param targets: networks of the same shapes that follow slowly
    """

    def __init__(self, stacks: Sequence[Stack], optimizers: Sequence[th.optim.Optimizer], targets: Sequence[Stack] = ()):
        self.stacks = stacks
        self.optimizers = optimizers
        parameters = [parameter for stack in stacks for parameter in stack.parameters]
        target_parameters = [parameter for stack in targets for parameter in stack.parameters]
        self.flat = _flatten(parameters)
        self.target = _flatten(target_parameters) if targets else self.flat[:0]
        self.exp_avg, self.exp_avg_sq = th.zeros_like(self.flat), th.zeros_like(self.flat)
        self.steps = th.zeros(len(parameters), device=self.flat.device)
        self._optimizer_states, start = {}, 0
        for parameter, step in zip(parameters, self.steps, strict=True):
            end = start + parameter.numel()
            moments = {name: getattr(self, name)[start:end].view_as(parameter) for name in ("exp_avg", "exp_avg_sq")}
            self._optimizer_states[parameter] = {"step": step, **moments}
            start = end

    @property
    def state(self) -> list[th.Tensor]:
        """What :func:`adam` takes."""
        return [self.flat, self.exp_avg, self.exp_avg_sq, self.steps]

    def bind(self) -> None:
        """Make the optimizers' states views of the flat ones, keeping their values: after loading, they are not."""
        for optimizer in self.optimizers:
            parameters = optimizer.param_groups[0]["params"]
            if optimizer.state.get(parameters[0]) is self._optimizer_states[parameters[0]]:
                continue
            for parameter in parameters:
                views = self._optimizer_states[parameter]
                for name, value in optimizer.state.get(parameter, {}).items():
                    views[name].copy_(value)
                optimizer.state[parameter] = views

    def layers(self, flat: th.Tensor) -> list[list[Layer]]:
        """
        :param flat: this role's weights or those of its targets
        :return: layers of each stack, as views
        """
        start, stacks = 0, []
        for stack in self.stacks:
            layers, start = stack.views(flat, start)
            stacks.append(layers)
        return stacks


def _flatten(parameters: Sequence[nn.Parameter]) -> th.Tensor:
    """One tensor with all values, of which the parameters become views."""
    flat = th.cat([parameter.detach().reshape(-1) for parameter in parameters])
    start = 0
    for parameter in parameters:
        parameter.data = flat[start : start + parameter.numel()].view_as(parameter)
        start += parameter.numel()
    return flat


def forward(layers: Sequence[Layer], inputs: th.Tensor, activation: Activation) -> th.Tensor:
    """
    :param layers: of a stack of networks
    :param inputs: ``(batch, in)``, the same for every network
    :param activation: between the layers
    :return: ``(n_networks, batch, out)``
    """
    hidden = inputs
    for index, (weight, bias) in enumerate(layers):
        if len(weight) == 1:
            hidden = F.linear(hidden if hidden.dim() == 2 else hidden[0], weight[0], bias[0])
        else:
            hidden = hidden.expand(len(weight), -1, -1)
            hidden = th.baddbmm(bias.unsqueeze(1), hidden, weight.transpose(1, 2))
        if index < len(layers) - 1:
            hidden = activation(hidden)
    return hidden if hidden.dim() == 3 else hidden.unsqueeze(0)


def concatenate(stacks: Sequence[Sequence[Layer]]) -> th.Tensor:
    """
    :param stacks: layers of each stack, or their gradients
    :return: all of them flat, as :class:`Role` keeps them
    """
    return th.cat([tensor.reshape(-1) for layers in stacks for layer in layers for tensor in layer])


def adam(
    state: list[th.Tensor], gradient: th.Tensor, lr: th.Tensor, betas: tuple[float, float], eps: float
) -> list[th.Tensor]:
    """
    One step of Adam (Kingma & Ba 2015, algorithm 1), as ``torch.optim.Adam`` computes it.

    :param state: parameters, first and second moments (flat), and steps so far
    :param gradient: flat
    :param lr: learning rate, scalar
    :param betas: decay rates of the moments
    :param eps: added to the denominator
    :return: the new state
    """
    flat, exp_avg, exp_avg_sq, steps = state
    steps = steps + 1
    step = steps.reshape(-1)[0].double()
    exp_avg = exp_avg.lerp(gradient, 1 - betas[0])
    exp_avg_sq = exp_avg_sq * betas[1] + (1 - betas[1]) * gradient * gradient
    step_size = (lr.double() / (1 - betas[0] ** step)).float()
    correction = (1 - betas[1] ** step).sqrt().float()
    return [flat - step_size * exp_avg / (exp_avg_sq.sqrt() / correction + eps), exp_avg, exp_avg_sq, steps]
