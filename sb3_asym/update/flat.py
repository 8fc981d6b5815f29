"""Networks of one shape, their weights and their optimizers' state in a few flat tensors, for compiled updates."""

from collections.abc import Callable, Iterable, Iterator, Sequence

import torch as th
from torch import nn

from sb3_asym.update.graph import CompiledUpdateUnavailable

Layer = tuple[th.Tensor, th.Tensor]
"""Weights ``(n_networks, out, in)`` and biases ``(n_networks, out)`` of one layer of a stack of networks."""
Activation = Callable[[th.Tensor], th.Tensor]


class Stack:
    """
    Networks of one shape, stacked layer by layer.

    :param networks: layers of each network; a layer is one or more ``nn.Linear`` with the same input, side by side
    """

    def __init__(self, networks: Sequence[Sequence[Sequence[nn.Linear]]]):
        self.layers: list[list[Sequence[nn.Linear]]] = [[network[i] for network in networks] for i in range(len(networks[0]))]
        self.shapes = []
        for layer in self.layers:
            n_out = sum(part.out_features for part in layer[0])
            self.shapes.append((len(networks), n_out, layer[0][0].in_features))

    @property
    def size(self) -> int:
        """Number of weights and biases."""
        return sum(n_networks * n_out * (n_in + 1) for n_networks, n_out, n_in in self.shapes)

    def views(self, flat: th.Tensor) -> list[Layer]:
        """
        The layers in a flat tensor.

        :param flat: this stack's weights, ``(size,)``
        :return: its layers, as views
        """
        layers, start = [], 0
        for n_networks, n_out, n_in in self.shapes:
            middle, end = start + n_networks * n_out * n_in, start + n_networks * n_out * (n_in + 1)
            layers.append((flat[start:middle].view(n_networks, n_out, n_in), flat[middle:end].view(n_networks, n_out)))
            start = end
        return layers

    def parameters(self, flat: th.Tensor) -> Iterator[tuple[th.Tensor, th.Tensor]]:
        """
        The parameters in a flat tensor.

        :param flat: this stack's weights, ``(size,)``
        :return: each parameter with its view
        """
        for networks, (weights, biases) in zip(self.layers, self.views(flat), strict=True):
            for parts, weight, bias in zip(networks, weights, biases, strict=True):
                row = 0
                for part in parts:
                    end = row + part.out_features
                    yield part.weight, weight[row:end]
                    yield part.bias, bias[row:end]
                    row = end


class FlatNetworks:
    """
    Networks of one kind (actors, critics, the master's) and their optimizers' state in flat tensors. Call ``bind`` before
    use.

    :param stacks: the networks
    :param optimizers: the Adam optimizers of their parameters
    :param targets: target networks, of the same shapes
    """

    def __init__(self, stacks: Sequence[Stack], optimizers: Sequence[th.optim.Optimizer], targets: Sequence[Stack] = ()):
        self.stacks = stacks
        self.optimizers = optimizers
        self._linears = [part for stack in stacks for layer in stack.layers for network in layer for part in network]
        device = self._linears[0].weight.device
        self.flat, self.exp_avg, self.exp_avg_sq = (
            th.zeros(sum(stack.size for stack in stacks), device=device) for _ in range(3)
        )
        self.target = th.zeros(sum(stack.size for stack in targets), device=device)
        self._parameter_views = [*_parameters(stacks, self.flat), *_parameters(targets, self.target)]
        moments = {name: dict(_parameters(stacks, getattr(self, name))) for name in ("exp_avg", "exp_avg_sq")}
        self.steps = th.zeros(len(moments["exp_avg"]), device=device)
        self.in_step: bool | None = None
        """Whether all optimizers have taken the same number of steps, if known."""
        self._optimizer_states = {
            parameter: {"step": step, **{name: views[parameter] for name, views in moments.items()}}
            for parameter, step in zip(moments["exp_avg"], self.steps, strict=True)
        }

    @property
    def state(self) -> list[th.Tensor]:
        """Parameters, first and second moments, and steps, as for :func:`adam`."""
        return [self.flat, self.exp_avg, self.exp_avg_sq, self.steps]

    def bind(self) -> None:
        """
        Make parameters and optimizers' states views of the flat ones, keeping their values: after loading, they are not.

        :raises CompiledUpdateUnavailable: if the optimizers have not taken the same number of steps, or training is quantized
        """
        if not are_plain(self._linears):
            raise CompiledUpdateUnavailable("training is quantized")
        self.bind_parameters()
        for optimizer in self.optimizers:
            parameters = optimizer.param_groups[0]["params"]
            if optimizer.state.get(parameters[0]) is self._optimizer_states[parameters[0]]:
                continue
            for parameter in parameters:
                views = self._optimizer_states[parameter]
                state = optimizer.state.get(parameter, {})
                for name, view in views.items():
                    view.copy_(state.get(name, th.zeros(())))
                optimizer.state[parameter] = views
            self.in_step = None
        if self.in_step is None:
            self.in_step = bool((self.steps == self.steps[0]).all())
        if not self.in_step:
            raise CompiledUpdateUnavailable("the optimizers have not taken the same number of steps")

    def bind_parameters(self) -> None:
        """Make the parameters views of the flat ones, and leave the optimizers' states."""
        for parameter, view in self._parameter_views:
            if parameter.data_ptr() != view.data_ptr():
                view.copy_(parameter.detach())
                parameter.data = view

    def release(self) -> None:
        """Give parameters and optimizers' states memory of their own again, until ``bind``."""
        for parameter, _ in self._parameter_views:
            parameter.data = parameter.data.clone()
        for optimizer in self.optimizers:
            for tensor, state in optimizer.state.items():
                optimizer.state[tensor] = {name: value.clone() for name, value in state.items()}

    def layers(self, flat: th.Tensor) -> list[list[Layer]]:
        """
        The layers of all stacks in a flat tensor.

        :param flat: weights of these networks or of their targets
        :return: layers of each stack, as views
        """
        return [stack.views(part) for stack, part in _parts(self.stacks, flat)]


def _parts(stacks: Sequence[Stack], flat: th.Tensor) -> Iterator[tuple[Stack, th.Tensor]]:
    """Each stack with its part of the weights."""
    start = 0
    for stack in stacks:
        yield stack, flat[start : start + stack.size]
        start += stack.size


def _parameters(stacks: Sequence[Stack], flat: th.Tensor) -> Iterator[tuple[th.Tensor, th.Tensor]]:
    """Each parameter with its view of the weights."""
    for stack, part in _parts(stacks, flat):
        yield from stack.parameters(part)


def are_plain(layers: Iterable[nn.Linear]) -> bool:
    """
    Whether layers do what torch's own do; those that learn quantized are of a subclass.

    :param layers: linear layers
    :return: True if none is of a subclass
    """
    return all(type(layer) is nn.Linear for layer in layers)


def forward(layers: Sequence[Layer], inputs: Sequence[th.Tensor], activation: Activation) -> th.Tensor:
    """
    Outputs of a stack of networks.

    :param layers: layers of the stack
    :param inputs: inputs side by side, each ``(batch, …)``; the same for every network
    :param activation: activation function between the layers
    :return: ``(n_networks, batch, n_out)``
    """
    hidden = th.cat(tuple(inputs), dim=-1)
    for index, (weight, bias) in enumerate(layers):
        # The bias apart, so that it becomes one loop with the activation. A single number needs no matrix product at all.
        if weight.shape[1] == 1:
            hidden = (hidden * weight).sum(dim=-1, keepdim=True) + bias.unsqueeze(1)
        elif len(weight) == 1:
            hidden = hidden @ weight[0].t() + bias[0]
        else:
            hidden = th.bmm(hidden.expand(len(weight), -1, -1), weight.transpose(1, 2)) + bias.unsqueeze(1)
        if index < len(layers) - 1:
            hidden = activation(hidden)
    return hidden if hidden.dim() == 3 else hidden.unsqueeze(0)


def assign(tensors: Sequence[th.Tensor], values: Sequence[th.Tensor]) -> None:
    """
    In-place assignment.

    :param tensors: tensors to change
    :param values: their new values
    """
    for tensor, value in zip(tensors, values, strict=True):
        tensor.copy_(value)


def concatenate(stacks: Sequence[Sequence[Layer]]) -> th.Tensor:
    """
    The layers of all stacks as one flat tensor.

    :param stacks: layers of each stack, or their gradients
    :return: all of them flat, as :class:`FlatNetworks` keeps them
    """
    return th.cat([tensor.reshape(-1) for layers in stacks for layer in layers for tensor in layer])


def adam(
    valid: th.Tensor,
    state: list[th.Tensor],
    gradient: th.Tensor,
    lr: th.Tensor,
    betas: tuple[float, float],
    eps: float,
) -> list[th.Tensor]:
    """
    One step of Adam (Kingma & Ba 2015, algorithm 1), as ``torch.optim.Adam`` computes it.

    :param valid: scalar; if it is False, there is no step
    :param state: parameters, first and second moments (flat), and steps so far
    :param gradient: flat
    :param lr: learning rate, scalar
    :param betas: decay rates of the moments
    :param eps: constant in the denominator
    :return: the new state
    """
    flat, exp_avg, exp_avg_sq, steps = state
    new_steps = steps + 1
    new_avg = exp_avg.lerp(gradient, 1 - betas[0])
    new_avg_sq = exp_avg_sq * betas[1] + (1 - betas[1]) * gradient * gradient
    # All steps are the same; the maximum has Inductor compute these once, and not for each parameter.
    step_size = (lr.double() / (1 - betas[0] ** new_steps.double())).max().float()
    correction = (1 - betas[1] ** new_steps.double()).sqrt().max().float()
    new_flat = flat - step_size * new_avg / (new_avg_sq.sqrt() / correction + eps)
    new_state = [new_flat, new_avg, new_avg_sq, new_steps]
    return [th.where(valid, new, old) for new, old in zip(new_state, state, strict=True)]
