"""AsymSAC: SAC with sub-policies of several sizes and a master that picks, every few steps, which of them drives."""

import inspect
import io
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from inspect import Signature
from pathlib import Path
from pickle import UnpicklingError
from typing import Any, ClassVar, TypeVar

import numpy as np
import torch as th
from stable_baselines3 import SAC
from stable_baselines3.common.buffers import ReplayBuffer
from stable_baselines3.common.noise import ActionNoise
from stable_baselines3.common.policies import BasePolicy
from stable_baselines3.common.type_aliases import GymEnv, MaybeCallback, Schedule
from stable_baselines3.common.utils import obs_as_tensor
from torch.utils._pytree import tree_map

from sb3_asym.buffers import Batch, OptionMemory, make_option_memory, sample_transitions
from sb3_asym.checks import check_file, check_finite
from sb3_asym.compiled import NotCovered
from sb3_asym.costs import mean_flops
from sb3_asym.fast_update import FastUpdate, why_not_fast
from sb3_asym.master import MASTER_ARGUMENTS, MasterDQN
from sb3_asym.options import NO_OPTION, OptionState, OptionStatistics, check_option_arguments
from sb3_asym.policies import AsymSACPolicy, CnnPolicy, MlpPolicy, MultiInputPolicy
from sb3_asym.update import PlainUpdate

UPDATES_WORTH_COMPILING = 10_000

SelfAsymSAC = TypeVar("SelfAsymSAC", bound="AsymSAC")


class AsymSAC(SAC):
    """
    Asymmetric SAC: keeps the return of its largest network at a fraction of its compute.

    A DQN *master* picks every ``option_length`` steps which SAC *sub-policy* acts, and pays ``cost_coef`` · cost for the
    choice. All sub-policies learn from one replay buffer. Paper: Chang et al. 2021, "Reducing the Deployment-Time
    Inference Control Costs of Deep Reinforcement Learning Agents via an Asymmetric Architecture", arXiv 2105.14471.

    Every argument of :class:`stable_baselines3.SAC` works here with its meaning, in the same order; those below are
    added, by keyword. ``predict`` returns and takes an option state, as recurrent policies do with theirs.

    :param policy: "MlpPolicy", "CnnPolicy", "MultiInputPolicy", or an :class:`AsymSACPolicy`; sizes go into
        ``policy_kwargs``: ``sub_net_archs``, ``critic_net_arch``, ``master_net_arch``, or SAC's own ``net_arch``
    :param env: the environment, as for SAC
    :param args: SAC's further positional arguments
    :param option_length: env steps for which the master's choice is held, at least 1
    :param cost_coef: λ, a number or a schedule of training progress: the return per env step that the most expensive
        sub-policy must be worth; the others pay in proportion to their FLOPs
    :param critic: "shared", one critic values the agent that is deployed, or "separate", the paper's: each sub-policy
        is a SAC of its own
    :param master_kwargs: arguments of :class:`stable_baselines3.DQN` for the master (``sb3_asym.master.MASTER_ARGUMENTS``).
        ``learning_rate``, ``batch_size``, ``tau`` and ``learning_starts`` are the sub-policies' by default,
        ``train_freq`` and ``target_update_interval`` are one step, ``exploration_final_eps`` is 0.2: what a sub-policy is
        worth can only be learned where it drives. ``buffer_size`` limits the master to options that started within that
        many of the latest env steps.
    :param fast_update: whether to compile the update into one graph, which takes up to a minute, once. By default, where
        that can be done and ``learn`` has at least 10,000 updates ahead. The plain update learns the same, more slowly.
    :param kwargs: SAC's arguments
    :raises ValueError: if an argument is out of range
    """

    policy_aliases: ClassVar[dict[str, type[BasePolicy]]] = {
        "MlpPolicy": MlpPolicy,
        "CnnPolicy": CnnPolicy,
        "MultiInputPolicy": MultiInputPolicy,
    }
    policy: AsymSACPolicy
    master: MasterDQN
    option_memory: OptionMemory

    def __init__(
        self,
        policy: str | type[AsymSACPolicy],
        env: GymEnv | str | None,
        *args: Any,
        option_length: int = 5,
        cost_coef: float | Schedule = 0.05,
        critic: str = "shared",
        master_kwargs: dict[str, Any] | None = None,
        fast_update: bool | None = None,
        _init_setup_model: bool = True,
        **kwargs: Any,
    ):
        check_option_arguments(2, option_length, cost_coef(1.0) if callable(cost_coef) else cost_coef)
        unknown = set(master_kwargs or {}) - set(MASTER_ARGUMENTS)
        if unknown:
            raise ValueError(f"master_kwargs takes DQN's {', '.join(MASTER_ARGUMENTS)}; it got {', '.join(sorted(unknown))}.")
        try:
            super().__init__(policy, env, *args, **{**kwargs, "_init_setup_model": False})  # type: ignore[arg-type]
        except AssertionError as error:
            raise ValueError(str(error)) from error
        self.option_length = option_length
        self.cost_coef = cost_coef
        self.critic_kind = critic
        self.master_kwargs = dict(master_kwargs or {})
        self.fast_update = fast_update
        self._option_state: OptionState | None = None
        self._master_counters: dict[str, float] = {}
        if _init_setup_model:
            self._setup_model()

    def _setup_model(self) -> None:
        given = self.policy_kwargs  # the user's own, which may be meant for other agents too
        self.policy_kwargs = {**given, "option_length": self.option_length, "critic_kind": self.critic_kind}
        super()._setup_model()
        self.policy_kwargs = given
        n_options = self.policy.n_options
        if self.ent_coef_optimizer is not None and self.log_ent_coef is not None:
            # One entropy coefficient for each sub-policy.
            self.log_ent_coef = self.log_ent_coef.detach().repeat(n_options).requires_grad_(True)
            self.ent_coef_optimizer = th.optim.Adam([self.log_ent_coef], lr=self.lr_schedule(1), fused=True)
        self._set_option_memory(make_option_memory(self.replay_buffer, **self._memory_kwargs()))  # type: ignore[arg-type]
        defaults = dict(
            learning_rate=self.learning_rate,
            batch_size=self.batch_size,
            learning_starts=self.learning_starts,
            tau=self.tau,
            train_freq=1,
            target_update_interval=self.n_envs,
            exploration_final_eps=0.2,
        )
        costs = np.array([cost.flops for cost in self.policy.option_costs], dtype=np.float64)
        self.master = MasterDQN(
            self.policy.master,
            self.option_memory,
            costs / costs.max(),
            self.cost_coef,
            self.n_envs,
            gamma=self.gamma,
            **{**defaults, **self.master_kwargs},
        )
        self.master.__dict__.update(self._master_counters)
        self._update: PlainUpdate | FastUpdate | None = None  # made when training starts
        self._option_statistics = OptionStatistics(n_options, self.n_envs)

    def _memory_kwargs(self) -> dict[str, Any]:
        return dict(option_length=self.option_length, gamma=self.gamma, recent_steps=self.master_kwargs.get("buffer_size"))

    def _set_option_memory(self, memory: OptionMemory) -> None:
        """The memory hangs on the replay buffer, so that both are pickled together."""
        self.option_memory = memory
        self.replay_buffer.option_memory = memory  # type: ignore[union-attr]

    @property
    def option_names(self) -> tuple[str, ...]:
        """Names of the sub-policies, cheapest first."""
        return self.policy.option_names

    # --- collecting ---

    def _setup_learn(
        self,
        total_timesteps: int,
        callback: MaybeCallback = None,
        reset_num_timesteps: bool = True,
        tb_log_name: str = "run",
        progress_bar: bool = False,
    ) -> Any:
        if reset_num_timesteps or self._last_obs is None:  # SB3 resets the env now
            self._option_state = None
        if isinstance(self._update, PlainUpdate):
            self._update = None  # to be chosen anew: this call of learn may be a longer one
        result = super()._setup_learn(total_timesteps, callback, reset_num_timesteps, tb_log_name, progress_bar)
        with self._stop_where_not_finite():
            check_finite(self._last_obs, "observation")
        return result

    def _sample_action(
        self, learning_starts: int, action_noise: ActionNoise | None = None, n_envs: int = 1
    ) -> tuple[np.ndarray, np.ndarray]:
        if self.num_timesteps < learning_starts and not (self.use_sde and self.use_sde_at_warmup):
            self._option_state = None  # no sub-policy drives
            return super()._sample_action(learning_starts, action_noise, n_envs)
        obs = obs_as_tensor(self._last_obs, self.device)  # type: ignore[arg-type]
        with th.no_grad(), self._stop_where_not_finite():
            self._option_state = self.policy.advance(obs, n_envs, self._option_state, None, self.master.choose)
            scaled = self.policy.actions(obs, self._option_state.option).cpu().numpy()
            check_finite(scaled, "action")
        scaled = scaled.reshape(n_envs, *self.action_space.shape)  # type: ignore[misc]
        if action_noise is not None:
            scaled = np.clip(scaled + action_noise(), -1, 1)
        return self.policy.unscale_action(scaled), scaled

    def _store_transition(
        self,
        replay_buffer: ReplayBuffer,
        buffer_action: np.ndarray,
        new_obs: np.ndarray | dict[str, np.ndarray],
        reward: np.ndarray,
        dones: np.ndarray,
        infos: list[dict[str, Any]],
    ) -> None:
        normalization = self._vec_normalize_env
        with self._stop_where_not_finite():
            check_finite(normalization.get_original_reward() if normalization else reward, "reward")
            check_finite(normalization.get_original_obs() if normalization else new_obs, "observation")
            for i in np.flatnonzero(dones):
                check_finite(infos[i].get("terminal_observation", 0.0), f"last observation of env {i}", rows=False)
        state = self._option_state
        if state is None:
            nowhere = np.zeros(self.n_envs, dtype=bool)
            self.option_memory.add(np.full(self.n_envs, NO_OPTION), nowhere, nowhere)
        else:
            started = state.steps_left == self.option_length - 1
            self.option_memory.add(state.option, started, dones | (state.steps_left == 0))
            self._option_statistics.count(state.option, started, dones)
            # The env has been reset where the episode ended: a new option starts there.
            self._option_state = OptionState(state.option, np.where(dones, 0, state.steps_left))
        super()._store_transition(replay_buffer, buffer_action, new_obs, reward, dones, infos)

    def _on_step(self) -> None:
        with self._stop_where_not_finite():
            self.master.step(self.logger, self.num_timesteps, self._current_progress_remaining, self._vec_normalize_env)

    # --- learning ---

    def train(self, gradient_steps: int, batch_size: int = 64) -> None:
        optimizers = [*self.policy.optimizers, *([] if self.ent_coef_optimizer is None else [self.ent_coef_optimizer])]
        self._update_learning_rate(optimizers)
        steps = []
        for gradient_step in range(gradient_steps):
            batch = sample_transitions(self.replay_buffer, batch_size, self._vec_normalize_env)  # type: ignore[arg-type]
            with self._stop_where_not_finite():
                steps.append(self._gradient_step(batch, gradient_step % self.target_update_interval == 0))
        self._n_updates += gradient_steps
        self.logger.record("train/n_updates", self._n_updates, exclude="tensorboard")
        for key in [key for key, values in steps[0].items() if values] if steps else ():
            values = np.mean([step[key] for step in steps], axis=0) if len(steps) > 1 else steps[0][key]
            # SAC's own keys are the largest sub-policy's.
            self.logger.record(f"train/{key}", values[-1])
            if len(values) == len(self.option_names):
                for name, value in zip(self.option_names, values, strict=True):
                    self.logger.record(f"{name}/{key}", value)

    def _gradient_step(self, batch: Batch, update_targets: bool) -> dict[str, list[float]]:
        self._update = self._update or self._make_update(batch)
        try:
            return self._update.step(batch, update_targets)
        except NotCovered as error:  # something was changed since the update was made
            assert isinstance(self._update, FastUpdate)
            self._update.release()
            self._update = self._plain_update(str(error))
            return self._update.step(batch, update_targets)

    def _make_update(self, batch: Batch) -> PlainUpdate | FastUpdate:
        """The compiled update, where it is wanted and works."""
        steps_ahead = self._total_timesteps - self.num_timesteps
        frequency = self.train_freq.frequency * self.n_envs  # type: ignore[union-attr]
        updates_ahead = steps_ahead * self.gradient_steps / frequency if self.gradient_steps > 0 else steps_ahead
        if self.fast_update is False or (self.fast_update is None and updates_ahead < UPDATES_WORTH_COMPILING):
            return PlainUpdate(self)
        reason = why_not_fast(self)
        if reason is not None:
            return self._plain_update(reason)
        if self.verbose >= 1:
            print("Compiling the update, which can take up to a minute …")
        update = FastUpdate(self)
        try:
            update.compile(batch)
        except NotCovered as error:
            update.release()
            return self._plain_update(str(error))
        self.master.fast_update = update.master_update
        return update

    def _plain_update(self, reason: str) -> PlainUpdate:
        """Instead of the compiled one."""
        if self.verbose >= 1 or self.fast_update:
            print(f"Plain update: {reason}.")
        self.master.fast_update = None
        return PlainUpdate(self)

    def learn(
        self: SelfAsymSAC,
        total_timesteps: int,
        callback: MaybeCallback = None,
        log_interval: int = 4,
        tb_log_name: str = "AsymSAC",
        reset_num_timesteps: bool = True,
        progress_bar: bool = False,
    ) -> SelfAsymSAC:
        return super().learn(total_timesteps, callback, log_interval, tb_log_name, reset_num_timesteps, progress_bar)

    # --- logging ---

    def dump_logs(self) -> None:
        statistics = self._option_statistics
        n_steps = statistics.steps.sum()
        if n_steps > 0:
            for name, steps in zip(self.option_names, statistics.steps, strict=True):
                self.logger.record(f"asym/{name}_use", steps / n_steps)
            flops = mean_flops(self.policy, statistics.steps, statistics.n_choices)
            self.logger.record("asym/flops_per_inference", flops)
            self.logger.record("asym/flops_reduction", 1 - flops / self.policy.option_costs[-1].flops)
            if statistics.n_episodes > 0:
                self.logger.record("asym/switches_per_episode", statistics.n_switches / statistics.n_episodes)
            statistics.reset()
        super().dump_logs()

    @contextmanager
    def _stop_where_not_finite(self) -> Iterator[None]:
        """Saves the agent before it passes on what the block found."""
        try:
            yield
        except (FloatingPointError, ValueError) as error:
            reason = str(error)
            if isinstance(error, ValueError):
                if "invalid values" not in reason:
                    raise
                reason = "The output of an actor is not finite"  # found by torch.distributions
            path = Path(self.logger.dir or ".") / f"asym_sac_stopped_at_{self.num_timesteps}.zip"
            self.save(path)
            message = f"{reason} at timestep {self.num_timesteps}. Training stopped; the agent is saved as {path}."
            raise FloatingPointError(message) from error

    # --- saving ---

    def __getstate__(self) -> dict[str, Any]:
        # A compiled update belongs to this agent's memory: a copy makes its own.
        if isinstance(self._update, FastUpdate):
            self._update.release()
        return {**self.__dict__, "_update": None}

    @classmethod
    def load(cls: type[SelfAsymSAC], path: str | Path | io.BufferedIOBase, *args: Any, **kwargs: Any) -> SelfAsymSAC:
        """
        As SB3's ``load``.

        :param path: what ``save`` wrote
        :param args: SB3's arguments: ``env``, ``device``, …
        :param kwargs: likewise
        :return: the agent
        :raises ValueError: if the file is not an AsymSAC model or is damaged, or the env's spaces differ from the model's
        :raises FileNotFoundError: if there is no such file
        """
        check_file(path)
        try:
            return super().load(path, *args, **kwargs)
        except (AssertionError, AttributeError, EOFError, KeyError, RuntimeError, TypeError, UnpicklingError) as error:
            raise ValueError(f"{path} is not a model that AsymSAC saved, or it is damaged ({error}).") from error

    def save(
        self, path: str | Path | io.BufferedIOBase, exclude: Iterable[str] | None = None, include: Iterable[str] | None = None
    ) -> None:
        self._master_counters = self.master.counters()
        super().save(path, exclude, include)

    def load_replay_buffer(self, path: str | Path | io.BufferedIOBase, truncate_last_traj: bool = True) -> None:
        super().load_replay_buffer(path, truncate_last_traj)
        memory = getattr(self.replay_buffer, "option_memory", None)
        if memory is None:  # SAC's: its transitions have no option, but the sub-policies learn from them
            memory = make_option_memory(self.replay_buffer, **self._memory_kwargs())  # type: ignore[arg-type]
        memory.option_length = max(memory.option_length, self.option_length)
        memory.gamma, memory.recent_steps = self.gamma, self.master_kwargs.get("buffer_size")
        self._set_option_memory(memory)
        self.master.memory = memory

    def get_parameters(self) -> dict[str, dict[str, Any]]:
        # Copies, as the tensors may be views of one that holds the weights of all networks.
        return tree_map(lambda value: value.clone() if isinstance(value, th.Tensor) else value, super().get_parameters())

    def _excluded_save_params(self) -> list[str]:
        return [*super()._excluded_save_params(), "master", "option_memory", "_update"]

    def _get_torch_save_params(self) -> tuple[list[str], list[str]]:
        state_dicts, variables = super()._get_torch_save_params()
        networks = [f"policy.{kind}.{i}" for kind in ("actors", "critics") for i in range(len(getattr(self.policy, kind)))]
        optimizers = [f"{network}.optimizer" for network in [*networks, "policy.master"]]
        return [name for name in state_dicts if name not in ("actor.optimizer", "critic.optimizer")] + optimizers, variables


def _with_the_arguments_of_sac(signature: Signature) -> Signature:
    """What ``help`` shows: SAC's arguments in their order, then ours."""
    arguments = [p for p in inspect.signature(SAC.__init__).parameters.values() if p.name not in signature.parameters]
    own = [p for p in signature.parameters.values() if p.kind not in (p.VAR_POSITIONAL, p.VAR_KEYWORD)]
    first = [p for p in own if p.kind is not p.KEYWORD_ONLY]
    return signature.replace(parameters=[*first, *arguments, *(p for p in own if p.kind is p.KEYWORD_ONLY)])


AsymSAC.__init__.__signature__ = _with_the_arguments_of_sac(inspect.signature(AsymSAC.__init__))  # type: ignore[attr-defined]
