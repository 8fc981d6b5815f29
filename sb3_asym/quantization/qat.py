"""Quantization-aware training: a callback that has any SB3 agent learn with quantized numbers."""

import warnings
from typing import Any

from stable_baselines3.common.base_class import BaseAlgorithm
from stable_baselines3.common.callbacks import BaseCallback

from sb3_asym.deployment.from_sb3 import deployable, learned_networks, linear_layers
from sb3_asym.quantization.fake import QuantizedPolicy, quantizers
from sb3_asym.quantization.schemes import Scheme


class QuantizedTraining(BaseCallback):
    """
    Train with quantization in the loop: ``model.learn(100_000, callback=QuantizedTraining("int8", delay=50_000))``.

    After ``delay`` env steps in full precision, the networks that are deployed calculate with weights and activations on
    their grids, in training and in acting, and gradients pass straight through the rounding (Jacob et al. 2018, arXiv
    1712.05877, section 3; QuaRL, Krishnan et al. 2019, arXiv 1910.01055, section 3.2). The grids are those of the exported
    int8, over the range of inputs that a layer has in training: running averages of their minimum and maximum. Target networks
    calculate as the networks that they follow.

    When training ends, the weights lie on their grids. The agent is quantized from then on: it is saved and loaded so, and
    :func:`sb3_asym.deployment.deployable` takes grids and ranges over, so that an export has no ranges of its own to find.

    :param scheme: scheme of weights and activations, see :class:`sb3_asym.quantization.schemes.Scheme`
    :param delay: env steps in full precision, counted as ``model.num_timesteps``
    :param critic: whether the critic is quantized too, which only training needs
    :param verbose: 1 to print when quantization starts
    :raises ValueError: if the scheme has no grids, or the delay is negative; and when training starts, if the policy cannot be
        deployed or has no critic
    """

    def __init__(self, scheme: str | Scheme = "int8", delay: int = 0, critic: bool = False, verbose: int = 0):
        super().__init__(verbose)
        self.scheme = Scheme.parse(scheme)
        if self.scheme.is_float or self.scheme.gptq:
            raise ValueError(f"Training is quantized in schemes such as int8, int4 or w4, not in {scheme}.")
        if delay < 0:
            raise ValueError(f"delay must be at least 0 env steps, got {delay}.")
        self.delay, self.critic = delay, critic

    def _init_callback(self) -> None:
        model: Any = self.model
        deployable(model)  # refuses what cannot be deployed
        if getattr(model.policy, "dial", None) is not None:
            raise ValueError(
                "A master with a dial or a budget cannot learn quantized: make the agent with a number as cost_coef."
            )
        given: Any = model.policy_class
        critic = self.critic
        if isinstance(given, QuantizedPolicy):
            given, critic = given.policy_class, critic or given.critic
        policy_class = QuantizedPolicy(given, self.scheme, critic)
        policy_class.quantize(model.policy)
        model.policy_class = policy_class  # SB3 builds the policy of it when it loads the agent
        self._quantizers = quantizers(model.policy)

    @property
    def _is_on(self) -> bool:
        return self._quantizers[0].on

    def _on_training_start(self) -> None:
        self._start_if_due()

    def _on_step(self) -> bool:
        self._start_if_due()
        return True

    def _start_if_due(self) -> None:
        """Start to quantize once all ranges are known."""
        if self._is_on or self.num_timesteps < self.delay or not all(quantizer.is_ready for quantizer in self._quantizers):
            return
        for quantizer in self._quantizers:
            quantizer.on = True
        if self.verbose >= 1:
            print(f"Training is quantized with {self.scheme} from timestep {self.num_timesteps:,} on.")

    def _on_rollout_end(self) -> None:
        self.logger.record("quantization/weight_bits", self.scheme.weight_bits if self._is_on else 32)

    def _on_training_end(self) -> None:
        if not self._is_on:
            warnings.warn(
                f"Training ended at timestep {self.num_timesteps} in full precision: delay is {self.delay}.", stacklevel=2
            )
            return
        finish(self.model)


def finish(model: BaseAlgorithm) -> None:
    """
    Put the weights that are deployed of an agent that learned quantized on their grids, which changes nothing that it does.

    :param model: agent that learned with :class:`QuantizedTraining`
    """
    policy: Any = model.policy
    policy.set_training_mode(False)  # ranges stay
    for part in learned_networks(policy).values():
        for layer in linear_layers(part.modules):
            layer.weight.data.copy_(layer.trained()[0])  # type: ignore[operator]
