"""What an inference costs: FLOPs, MACs, parameters and bytes of the networks that run on the robot."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch as th
from gymnasium.vector.utils import create_empty_array
from stable_baselines3.common.policies import BasePolicy
from stable_baselines3.common.type_aliases import PyTorchObs
from stable_baselines3.sac.policies import Actor
from torch.utils.flop_counter import FlopCounterMode


@dataclass(frozen=True)
class InferenceCost:
    """
    Cost of one inference at batch size 1.

    :param flops: floating-point operations; one multiply-add counts as 2 (the convention of ``torch.utils.flop_counter``)
    :param parameters: parameters that deployment needs
    :param bytes: bytes of those parameters as trained
    """

    flops: int
    parameters: int
    bytes: int

    @property
    def macs(self) -> int:
        """Multiply-accumulates: half of the FLOPs."""
        return self.flops // 2


def mean_action(actor: Actor, obs: PyTorchObs) -> th.Tensor:
    """
    The deterministic path of a SAC actor, which is what deployment runs: features, latent, mean head, tanh.

    :param actor: a SAC actor
    :param obs: preprocessed observations ``(batch, …)``
    :return: actions in [-1, 1], ``(batch, action_dim)``
    """
    features = actor.extract_features(obs, actor.features_extractor)
    return th.tanh(actor.mu(actor.latent_pi(features)))


def actor_cost(actor: Actor) -> InferenceCost:
    """
    Cost of one deterministic action of a SAC actor; the head for log-std is left out, as deployment does.

    :param actor: a SAC actor
    :return: its cost
    """
    return _measure(actor, lambda obs: mean_action(actor, obs), skip="log_std")


def network_cost(network: BasePolicy) -> InferenceCost:
    """
    Cost of one deterministic action of any SB3 network or policy, such as a DQN's q-network.

    :param network: the network
    :return: its cost
    """
    return _measure(network, lambda obs: network._predict(obs, deterministic=True))


def relative_costs(policies: Sequence[Any]) -> np.ndarray:
    """
    Cost of each policy divided by that of the most expensive one.

    :param policies: SB3 policies or actors, such as ``SAC.load(...).policy``
    :return: ``(n_policies,)`` numbers in (0, 1]
    :raises TypeError: if a policy is not an SB3 one, so that its FLOPs cannot be counted
    """
    flops = []
    for policy in policies:
        if not isinstance(policy, BasePolicy):
            raise TypeError(f"Cannot count the FLOPs of a {type(policy).__name__}: pass costs=[…] yourself.")
        network = getattr(policy, "actor", policy)
        flops.append((actor_cost(network) if isinstance(network, Actor) else network_cost(network)).flops)
    return np.array(flops) / max(flops)


def mean_flops(
    option_costs: Sequence[InferenceCost], master_cost: InferenceCost, option_steps: np.ndarray, n_choices: int
) -> float:
    """
    FLOPs that deployment spends per env step: each sub-policy weighted by its use, plus the master's share.

    :param option_costs: cost of each sub-policy
    :param master_cost: cost of a choice
    :param option_steps: ``(n_options,)`` env steps that each option was in force
    :param n_choices: number of the master's choices in these steps
    :return: mean FLOPs per inference
    """
    flops = n_choices * master_cost.flops
    for cost, n_steps in zip(option_costs, option_steps, strict=True):
        flops += int(n_steps) * cost.flops
    return flops / float(np.sum(option_steps))


def _measure(network: BasePolicy, forward: Callable[[PyTorchObs], Any], skip: str = "") -> InferenceCost:
    """Run ``forward`` once on a zero observation under torch's FLOP counter; parameters named ``skip…`` do not count."""
    zeros: Any = create_empty_array(network.observation_space, n=1, fn=np.zeros)
    obs, _ = network.obs_to_tensor(zeros)
    training = network.training
    network.set_training_mode(False)
    with FlopCounterMode(display=False) as counter, th.no_grad():
        forward(obs)
    network.set_training_mode(training)
    weights = [weight for name, weight in network.named_parameters() if not skip or not name.startswith(skip)]
    return InferenceCost(
        flops=counter.get_total_flops(),
        parameters=sum(weight.numel() for weight in weights),
        bytes=sum(weight.numel() * weight.element_size() for weight in weights),
    )
