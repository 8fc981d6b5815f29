"""The network of a master that is fitted to a critic of options: one for every λ."""

from copy import deepcopy
from typing import Any

import numpy as np
import torch as th
from stable_baselines3.common.type_aliases import PyTorchObs
from stable_baselines3.dqn.policies import DQNPolicy, QNetwork
from torch import nn

from sb3_asym.cost_coef import Dial


class AdvantageNetwork(QNetwork):
    """
    What each option's return is worth beyond the mean of all, less its price.

    Its layers give the advantages A(s, ω; λ) of the return in units of ``scale``, and the choice is the option of the greatest
    ``A(s, ω; λ) − λ · prices / scale``. So λ is a threshold, and beside it an input, as what comes after the option depends on
    it. Both go into two biases where λ is set, so that what is deployed is a plain network (:meth:`folded`).

    Buffers: ``cost_coef`` is λ, ``budget`` the share of the largest sub-policy's FLOPs for which it is steered from there
    on, or 0, ``prices`` the cost c_ω of holding each option for its mean discounted duration, ``(n_options,)``, and
    ``scale`` the spread of the advantages, both in the units of the rewards that are learned from.

    :param features_dim: number of features of an observation
    :param dial: range of λ that is learned, or None where λ is no input
    :param kwargs: further arguments of :class:`stable_baselines3.dqn.policies.QNetwork`
    """

    cost_coef: th.Tensor
    budget: th.Tensor
    scale: th.Tensor
    prices: th.Tensor

    def __init__(self, *, features_dim: int, dial: Dial | None, **kwargs: Any):
        super().__init__(features_dim=features_dim + (dial is not None), **kwargs)
        self.dial = dial
        self.register_buffer("cost_coef", th.tensor(0.0 if dial is None else dial.middle))
        self.register_buffer("budget", th.tensor(0.0))
        self.register_buffer("scale", th.tensor(1.0))
        self.register_buffer("prices", th.zeros(int(self.action_space.n)))

    def forward(self, obs: PyTorchObs) -> th.Tensor:
        """
        Net advantages at the present λ.

        :param obs: preprocessed observations, ``(batch, …)``
        :return: ``(batch, n_options)``, in units of ``scale``
        """
        return self.net_advantages(obs, self.cost_coef.reshape(1, 1))

    def net_advantages(self, obs: PyTorchObs, cost_coefs: th.Tensor) -> th.Tensor:
        """
        Net advantages, each row at its own λ.

        :param obs: preprocessed observations, ``(batch, …)``
        :param cost_coefs: λ, ``(batch, 1)`` or ``(1, 1)``
        :return: ``(batch, n_options)``, in units of ``scale``
        """
        return self.advantages(obs, self.positions(cost_coefs)) - cost_coefs * self.prices / self.scale

    @th.no_grad()
    def choices(self, obs: PyTorchObs, cost_coefs: np.ndarray) -> np.ndarray:
        """
        The best options, each row at its own λ.

        :param obs: preprocessed observations, ``(batch, …)``
        :param cost_coefs: λ, ``(batch,)`` or ``(1,)``
        :return: ``(batch,)`` options
        """
        column = th.as_tensor(cost_coefs.astype(np.float32), device=self.device).unsqueeze(1)
        return self.net_advantages(obs, column).argmax(dim=1).cpu().numpy()

    def advantages(self, obs: PyTorchObs, positions: th.Tensor) -> th.Tensor:
        """
        Advantages of the return, without prices.

        :param obs: preprocessed observations, ``(batch, …)``
        :param positions: what the network sees of λ, ``(batch, 1)`` or ``(batch, 0)``; or of one row for all
        :return: ``(batch, n_options)``, in units of ``scale``
        """
        features = self.extract_features(obs, self.features_extractor)
        return self.q_net(th.cat([features, positions.expand(len(features), -1)], dim=1))

    def positions(self, cost_coefs: th.Tensor) -> th.Tensor:
        """
        What the network sees of λ.

        :param cost_coefs: λ, ``(batch, 1)``
        :return: ``(batch, 1)`` with a dial, ``(batch, 0)`` without
        """
        return cost_coefs[:, :0] if self.dial is None else self.dial.position(cost_coefs)

    @th.no_grad()
    def folded(self) -> QNetwork:
        """
        The plain network that chooses as this one does at the present λ.

        :return: q-network over the same features; its layers are copies
        """
        n_features = self.features_dim - (self.dial is not None)
        with th.random.fork_rng(devices=[]):  # first weights, which are not used, must not change a seeded run
            plain = QNetwork(
                self.observation_space,
                self.action_space,
                self.features_extractor,
                n_features,
                self.net_arch,
                self.activation_fn,
                self.normalize_images,
            )
        layers: list[Any] = [*deepcopy(self.q_net)]
        if self.dial is not None:
            column = layers[0].weight[:, -1]
            layers[0].bias.add_(column * self.positions(self.cost_coef.reshape(1, 1)).squeeze())
            layers[0].weight = nn.Parameter(layers[0].weight[:, :-1].clone())
            layers[0].in_features -= 1
        layers[-1].bias.sub_(self.cost_coef * self.prices / self.scale)
        plain.q_net = nn.Sequential(*layers)
        return plain.to(self.device)

    def _get_constructor_parameters(self) -> dict[str, Any]:
        data = super()._get_constructor_parameters()
        return {**data, "features_dim": self.features_dim - (self.dial is not None), "dial": self.dial}


class AdvantagePolicy(DQNPolicy):
    """
    A master's networks where it is fitted.

    :param args: arguments of :class:`stable_baselines3.dqn.policies.DQNPolicy`
    :param dial: range of λ that is learned, or None
    :param kwargs: further arguments of ``DQNPolicy``
    """

    q_net: AdvantageNetwork

    def __init__(self, *args: Any, dial: Dial | None = None, **kwargs: Any):
        self.dial = dial
        super().__init__(*args, **kwargs)

    def make_q_net(self) -> AdvantageNetwork:
        arguments = self._update_features_extractor({**self.net_args, "dial": self.dial}, features_extractor=None)
        return AdvantageNetwork(**arguments).to(self.device)

    def _get_constructor_parameters(self) -> dict[str, Any]:
        return {**super()._get_constructor_parameters(), "dial": self.dial}

    def set_prices(self, costs: np.ndarray, duration: float) -> None:
        """
        Say what options cost.

        :param costs: costs c_ω of an env step, in the units of the rewards at λ = 1, ``(n_options,)``
        :param duration: mean discounted duration of an option, env steps
        """
        self.q_net.prices.copy_(th.as_tensor(costs * duration))
