"""The master: SB3's DQN, learning which sub-policy should drive."""

from typing import Any

import numpy as np
import torch as th
from stable_baselines3 import DQN
from stable_baselines3.common.logger import Logger
from stable_baselines3.common.type_aliases import PyTorchObs, ReplayBufferSamples, Schedule
from stable_baselines3.common.utils import FloatSchedule
from stable_baselines3.common.vec_env import VecNormalize
from stable_baselines3.dqn.policies import DQNPolicy

from sb3_asym.buffers import OptionMemory
from sb3_asym.compiled import NotCovered
from sb3_asym.fast_master import FastMasterUpdate
from sb3_asym.options import check_cost_coef

MASTER_ARGUMENTS = (
    "learning_rate",
    "buffer_size",
    "learning_starts",
    "batch_size",
    "tau",
    "train_freq",
    "gradient_steps",
    "target_update_interval",
    "exploration_fraction",
    "exploration_initial_eps",
    "exploration_final_eps",
    "max_grad_norm",
)


class _OptionReplay:
    """What ``DQN.train`` samples from: the master's option memory at the present λ."""

    def __init__(self, master: "MasterDQN"):
        self.master = master

    def sample(self, batch_size: int, env: VecNormalize | None = None) -> ReplayBufferSamples:
        return self.master.memory.sample(batch_size, env=env, costs=self.master.costs_per_step)


class _MasterLogger:
    """Passes what DQN logs on under ``master/``, and stops at a loss that is not finite."""

    def __init__(self, logger: Logger):
        self._logger = logger

    def record(self, key: str, value: Any, exclude: str | tuple[str, ...] | None = None) -> None:
        name = key.split("/")[-1]
        if name == "loss" and not np.isfinite(value):
            raise FloatingPointError(f"The master's loss is {value}")
        self._logger.record(f"master/{name}", value, exclude)


class MasterDQN(DQN):
    """
    DQN over option transitions. Its discrete action is the index of the sub-policy that drives next.

    Loss, target network and exploration schedule are SB3's: option transitions carry their own discounts γ^k, which
    ``DQN.train`` honours, so a DQN that knows nothing of options learns an SMDP correctly.

    :param policy: the q-networks
    :param memory: where option transitions come from
    :param costs: ``(n_options,)`` relative costs c_ω
    :param cost_coef: λ, a number or a schedule
    :param n_envs: number of envs that are stepped together
    :param kwargs: DQN's own arguments (``MASTER_ARGUMENTS``)
    """

    def __init__(
        self,
        policy: DQNPolicy,
        memory: OptionMemory,
        costs: np.ndarray,
        cost_coef: float | Schedule,
        n_envs: int,
        **kwargs: Any,
    ):
        # The policy exists already: a class that builds it is a function that returns it.
        super().__init__(lambda *_, **__: policy, None, device=policy.device, _init_setup_model=False, **kwargs)  # type: ignore[arg-type]
        self.costs = costs
        self.cost_coef_schedule = FloatSchedule(cost_coef)
        self.observation_space, self.action_space, self.n_envs = policy.observation_space, policy.action_space, n_envs
        self.memory = memory
        self.replay_buffer = _OptionReplay(self)  # type: ignore[assignment]
        self.exploration_rate = self.exploration_initial_eps
        self.fast_update: FastMasterUpdate | None = None  # set where the sub-policies' update is compiled too
        self._setup_model()

    @property
    def costs_per_step(self) -> np.ndarray:
        """λ·c_ω at the present progress of training, ``(n_options,)``, in units of return per step."""
        # With several envs, the last step may go beyond the end of training.
        cost_coef = self.cost_coef_schedule(max(self._current_progress_remaining, 0.0))
        check_cost_coef(cost_coef)
        return cost_coef * self.costs

    def choose(self, obs: PyTorchObs, n_obs: int) -> np.ndarray:
        """
        ε-greedy choice, drawn for each env on its own.

        :param obs: preprocessed observations of the envs that need an option
        :param n_obs: how many these are
        :return: ``(n_obs,)`` options
        """
        explore = np.random.rand(n_obs) < self.exploration_rate
        options = np.random.randint(int(self.action_space.n), size=n_obs)  # type: ignore[attr-defined]
        if not explore.all():
            with th.no_grad():
                greedy = self.q_net._predict(obs).cpu().numpy()
            options = np.where(explore, options, greedy)
        return options

    def step(self, logger: Logger, num_timesteps: int, progress_remaining: float, env: VecNormalize | None) -> None:
        """
        What DQN does after each step of the envs: update exploration and target network, and learn when it is due.

        :param logger: where to log
        :param num_timesteps: env steps so far, over all envs
        :param progress_remaining: from 1 (start of training) to 0 (its end)
        :param env: normalizes observations and rewards
        :raises FloatingPointError: if the loss is not finite
        """
        self._logger = _MasterLogger(logger)  # type: ignore[assignment]
        self.num_timesteps, self._current_progress_remaining, self._vec_normalize_env = num_timesteps, progress_remaining, env
        self._on_step()
        frequency = self.train_freq.frequency  # type: ignore[union-attr]
        gradient_steps = self.gradient_steps if self.gradient_steps >= 0 else frequency
        due = self._n_calls % frequency == 0 and num_timesteps > self.learning_starts
        if due and gradient_steps > 0 and self.memory.can_sample():
            self.train(gradient_steps, self.batch_size)

    def _on_step(self) -> None:
        if self.fast_update is None:
            super()._on_step()
            return
        self._n_calls += 1
        if self._n_calls % max(self.target_update_interval // self.n_envs, 1) == 0:
            self.fast_update.update_target(self.tau)
        self.exploration_rate = self.exploration_schedule(self._current_progress_remaining)
        self.logger.record("rollout/exploration_rate", self.exploration_rate)

    def train(self, gradient_steps: int, batch_size: int = 100) -> None:
        if self.fast_update is None:
            super().train(gradient_steps, batch_size)
            self.policy.set_training_mode(False)
            return
        self._update_learning_rate(self.policy.optimizer)
        try:
            losses = [self.fast_update.step(batch_size, self._vec_normalize_env) for _ in range(gradient_steps)]
        except NotCovered as error:  # something was changed since it was made
            print(f"Plain update of the master: {error}.")
            self.fast_update = None
            self.train(gradient_steps, batch_size)
            return
        self._n_updates += gradient_steps
        self.logger.record("train/n_updates", self._n_updates, exclude="tensorboard")
        self.logger.record("train/loss", np.mean(losses))

    def __getstate__(self) -> dict[str, Any]:
        # It belongs to this agent's memory: a copy makes its own.
        return {**self.__dict__, "fast_update": None}

    def counters(self) -> dict[str, float]:
        """
        :return: what must be saved beside the networks to go on training
        """
        return {name: getattr(self, name) for name in ("exploration_rate", "_n_calls", "_n_updates")}
