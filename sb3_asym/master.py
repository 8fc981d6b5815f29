"""The master: SB3's DQN, learning which sub-policy should act."""

from functools import partial
from typing import Any, ClassVar

import numpy as np
import torch as th
from stable_baselines3 import DQN
from stable_baselines3.common.logger import Logger
from stable_baselines3.common.type_aliases import PyTorchObs, ReplayBufferSamples, TrainFrequencyUnit
from stable_baselines3.common.vec_env import VecNormalize
from stable_baselines3.dqn.policies import DQNPolicy

from sb3_asym.buffers import STEPS_AT_ONCE, Batch, OptionMemory, split
from sb3_asym.cost_coef import CostCoef, CostCoefSchedule, dial_of
from sb3_asym.update.compiled_master import CompiledMasterUpdate
from sb3_asym.update.graph import CompiledUpdateUnavailable


class _OptionReplay:
    """The replay buffer of ``DQN.train``: the master's option memory, less λ · cost at the present λ."""

    def __init__(self, master: "MasterDQN"):
        self.master = master

    def sample(self, batch_size: int, env: VecNormalize | None = None) -> ReplayBufferSamples:
        return self.master.memory.sample(batch_size, env=env).net(self.master.cost_coef)


class _MasterLogger:
    """Passes what DQN logs on under ``master/``, and stops at a loss that is not finite."""

    def __init__(self, logger: Logger):
        self._logger = logger

    def record(self, key: str, value: Any, exclude: str | tuple[str, ...] | None = None) -> None:
        name = key.split("/")[-1]
        if name == "loss" and not np.isfinite(value):
            raise FloatingPointError(f"The master loss is {value}")
        self._logger.record(f"master/{name}", value, exclude)


class MasterDQN(DQN):
    """
    DQN over option transitions. Its discrete action is the index of the sub-policy that acts next.

    Loss, target network and exploration schedule are SB3's: option transitions carry their own discounts γ^k, which
    ``DQN.train`` honours, so a DQN that knows nothing of options learns an SMDP correctly.

    :param policy: the q-networks
    :param memory: the option transitions
    :param cost_coef: λ, a number or a schedule
    :param n_envs: number of envs that are stepped together
    :param kwargs: DQN's own arguments (``ARGUMENTS``); ``train_freq`` counts steps of all envs together, or
        episodes over all envs, and ``gradient_steps=-1`` makes as many as there were env steps since the last
    """

    ARGUMENTS: ClassVar[tuple[str, ...]] = (
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

    def __init__(self, policy: DQNPolicy, memory: OptionMemory, cost_coef: CostCoef, n_envs: int, **kwargs: Any):
        # The policy exists already: a class that builds it is a function that returns it.
        policy_class: Any = partial(_existing, policy)
        super().__init__(policy_class, None, device=policy.device, _init_setup_model=False, **kwargs)  # type: ignore[arg-type]
        self.observation_space, self.action_space, self.n_envs = policy.observation_space, policy.action_space, n_envs
        self.use_cost_coef(cost_coef)
        self.use_memory(memory)
        self.replay_buffer = _OptionReplay(self)  # type: ignore[assignment]
        self.exploration_rate = self.exploration_initial_eps
        self.compiled_update: CompiledMasterUpdate | None = None  # set where the sub-policies' update is compiled too
        self._n_steps_waiting = self._n_episodes_waiting = 0
        self._setup_model()

    def use_memory(self, memory: OptionMemory) -> None:
        """
        Learn from this memory from now on.

        :param memory: option transitions
        """
        self.memory = memory

    def use_cost_coef(self, cost_coef: CostCoef) -> None:
        """
        Learn for this λ from now on.

        :param cost_coef: λ, a number or a schedule
        :raises ValueError: if it is neither
        """
        if dial_of(cost_coef) is not None:
            raise ValueError(f"cost_coef={cost_coef!r} needs critic='option', which knows λ.")
        self._cost_coef_schedule = CostCoefSchedule(cost_coef)

    @property
    def cost_coef(self) -> float:
        """λ at the present progress of training, return per env step of the most expensive sub-policy."""
        return self._cost_coef_schedule(self._current_progress_remaining)

    @property
    def as_deployed(self) -> np.ndarray:
        """Envs whose episodes are run as deployed, with mean actions and greedy choices, ``(n_envs,)`` bool."""
        return np.zeros(self.n_envs, dtype=bool)

    def choose(self, obs: PyTorchObs, envs: np.ndarray) -> np.ndarray:
        """
        ε-greedy choice, drawn for each env on its own.

        :param obs: preprocessed observations ``(n_obs, …)`` of the envs in which a new option is due
        :param envs: indices of these envs, ``(n_obs,)``
        :return: ``(n_obs,)`` options
        """
        explore = (np.random.rand(len(envs)) < self.exploration_rate) & ~self.as_deployed[envs]
        options = np.random.randint(int(self.action_space.n), size=len(envs))  # type: ignore[attr-defined]
        if not explore.all():
            with th.no_grad():
                greedy = self.greedy_options(obs, envs)
            options = np.where(explore, options, greedy)
        return options

    def greedy_options(self, obs: PyTorchObs, envs: np.ndarray) -> np.ndarray:
        """
        The best options, as training knows them.

        :param obs: preprocessed observations, ``(n_obs, …)``
        :param envs: indices of their envs, ``(n_obs,)``
        :return: ``(n_obs,)`` options
        """
        return self.q_net._predict(obs).cpu().numpy()

    def batch_of(self, batch: Batch, env: VecNormalize | None) -> Batch:
        """
        What critics and actors learn from.

        :param batch: primitive transitions
        :param env: normalization of observations and rewards
        :return: the same, with what this master adds
        """
        return batch

    def begin_updates(self, n_updates: int, logger: Logger, progress_remaining: float) -> None:
        """
        What this master does before critics and actors learn.

        :param n_updates: number of gradient steps to come
        :param logger: logger of the agent
        :param progress_remaining: training progress that remains, from 1 (start) to 0 (end)
        """
        self._logger = _MasterLogger(logger)  # type: ignore[assignment]
        self._current_progress_remaining = progress_remaining

    def step(
        self,
        logger: Logger,
        num_timesteps: int,
        progress_remaining: float,
        options: np.ndarray,
        dones: np.ndarray,
        env: VecNormalize | None,
    ) -> None:
        """
        DQN's duties after each step of the envs: update exploration and target network, and learn when it is due.

        :param logger: logger of the agent
        :param num_timesteps: env steps so far, over all envs
        :param progress_remaining: training progress that remains, from 1 (start) to 0 (end)
        :param options: options in force, ``(n_envs,)``, negative where no sub-policy acted
        :param dones: ``(n_envs,)`` True where the episode ended with this step
        :param env: normalization of observations and rewards
        :raises FloatingPointError: if the loss is not finite
        """
        self._logger = _MasterLogger(logger)  # type: ignore[assignment]
        self.num_timesteps, self._current_progress_remaining, self._vec_normalize_env = num_timesteps, progress_remaining, env
        self._on_step()
        self._n_steps_waiting += 1
        self._n_episodes_waiting += int(np.count_nonzero(dones))
        frequency, unit = self.train_freq  # type: ignore[misc]
        waited = self._n_steps_waiting if unit == TrainFrequencyUnit.STEP else self._n_episodes_waiting
        if waited < frequency:
            return
        gradient_steps = self.gradient_steps if self.gradient_steps >= 0 else self._n_steps_waiting * self.n_envs
        self._n_steps_waiting = self._n_episodes_waiting = 0
        if num_timesteps > self.learning_starts and gradient_steps > 0 and self.memory.can_sample():
            self.train(gradient_steps, self.batch_size)

    def _on_step(self) -> None:
        if self.compiled_update is None:
            super()._on_step()
            return
        self._n_calls += 1
        if self._n_calls % max(self.target_update_interval // self.n_envs, 1) == 0:
            self.compiled_update.update_target(self.tau)
        self._explore_less()

    def _explore_less(self) -> None:
        self.exploration_rate = self.exploration_schedule(self._current_progress_remaining)
        self.logger.record("rollout/exploration_rate", self.exploration_rate)

    def train(self, gradient_steps: int, batch_size: int = 100) -> None:
        if self.compiled_update is None:
            super().train(gradient_steps, batch_size)
            self.policy.set_training_mode(False)
            return
        self._update_learning_rate(self.policy.optimizer)
        losses: list[float] = []
        while len(losses) < gradient_steps:
            n_rows = min(gradient_steps - len(losses), STEPS_AT_ONCE) * batch_size
            batch = self.replay_buffer.sample(n_rows, env=self._vec_normalize_env)  # type: ignore[union-attr]
            try:
                losses += self.compiled_update.steps(split(batch, batch_size), self.max_grad_norm)
            except CompiledUpdateUnavailable as error:  # something was changed since it was made
                print(f"Plain update of the master: {error}.")
                self.compiled_update = None
                super().train(gradient_steps - len(losses), batch_size)
                self.policy.set_training_mode(False)
                break
        else:
            self.logger.record("train/loss", np.mean(losses))
        self._n_updates += len(losses)
        self.logger.record("train/n_updates", self._n_updates, exclude="tensorboard")

    def __getstate__(self) -> dict[str, Any]:
        # It belongs to this agent's memory: a copy makes its own. A logger has open files.
        return {**self.__dict__, "compiled_update": None, "_logger": None}

    def counters(self) -> dict[str, Any]:
        """
        Counters that must be saved beside the networks to go on training.

        :return: values by attribute
        """
        names = (
            "exploration_rate",
            "_n_calls",
            "_n_updates",
            "_n_steps_waiting",
            "_n_episodes_waiting",
            "_current_progress_remaining",
        )
        return {name: getattr(self, name) for name in names}

    def restore(self, counters: dict[str, Any]) -> None:
        """
        Go on from saved counters.

        :param counters: as ``counters`` gave them
        """
        self.__dict__.update(counters)


def _existing(policy: DQNPolicy, *_: Any, **__: Any) -> DQNPolicy:
    """A policy that was built already, called as SB3 calls the class that would build one."""
    return policy
