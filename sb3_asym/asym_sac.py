"""AsymSAC: SAC with sub-policies of several sizes and a master that picks, every few steps, which of them acts."""

import inspect
import io
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any, ClassVar, TypeVar

import numpy as np
import torch as th
from stable_baselines3 import SAC, HerReplayBuffer, sac
from stable_baselines3.common.buffers import ReplayBuffer
from stable_baselines3.common.noise import ActionNoise
from stable_baselines3.common.policies import BasePolicy
from stable_baselines3.common.type_aliases import GymEnv, MaybeCallback, TrainFrequencyUnit
from stable_baselines3.common.utils import obs_as_tensor
from torch.utils._pytree import tree_map

from sb3_asym.arguments import FixedAtConstruction, with_arguments_of
from sb3_asym.buffers import STEPS_AT_ONCE, Batch, OptionMemory, buffer_without_env, sample_transitions, split
from sb3_asym.checks import check_device, check_finite, check_model_file, stop_where_not_finite
from sb3_asym.cost_coef import CostCoef, Dial, cost_coef_for, dial_of
from sb3_asym.fitted_master import check_master_kwargs, make_master
from sb3_asym.master import MasterDQN
from sb3_asym.options import NO_OPTION, OptionState, OptionStatistics, check_option_arguments
from sb3_asym.policies import AsymSACPolicy, CnnPolicy, MlpPolicy, MultiInputPolicy, select_rows
from sb3_asym.update.choice import ChosenUpdate
from sb3_asym.update.option_batch import OptionBatch
from sb3_asym.update.plain import PlainUpdate

STOCK_POLICIES: dict[type[BasePolicy], type[AsymSACPolicy]] = {
    sac.MlpPolicy: MlpPolicy,
    sac.CnnPolicy: CnnPolicy,
    sac.MultiInputPolicy: MultiInputPolicy,
}
"""Our policy for each of SAC's, so that code that passes the class runs with the algorithm swapped."""

SelfAsymSAC = TypeVar("SelfAsymSAC", bound="AsymSAC")


class AsymSAC(SAC):
    """
    Asymmetric SAC: sub-policies of several sizes, and a master that learns which of them has to act.

    A *master* picks every ``option_length`` steps which SAC *sub-policy* acts, and pays ``cost_coef`` · cost for the choice.
    All sub-policies learn from one replay buffer. Paper: Chang et al. 2021, "Reducing the Deployment-Time Inference Control
    Costs of Deep Reinforcement Learning Agents via an Asymmetric Architecture", arXiv 2105.14471.

    Every argument of :class:`stable_baselines3.SAC` works here with its meaning, in the same order; those below are
    added, by keyword. ``predict`` returns and takes an option state, as recurrent policies do with theirs.

    :param policy: "MlpPolicy", "CnnPolicy", "MultiInputPolicy", or an :class:`AsymSACPolicy`; sizes go into
        ``policy_kwargs``: ``sub_net_archs``, ``critic_net_arch``, ``master_net_arch``, or SAC's own ``net_arch``
    :param env: the environment, as for SAC
    :param args: SAC's further positional arguments
    :param option_length: env steps for which the master's choice is held, at least 1
    :param cost_coef: λ, a number or a schedule of training progress: the return per env step that the most expensive
        sub-policy must be worth; the others pay in proportion to their FLOPs. Or "dial", or a range ``(low, high)``: one
        master learns for every λ of it (0.001 to 10), and :meth:`set_cost_coef` picks one, which is the geometric mean until
        then. Or a budget such as "auto_0.4": λ, from 0.001 to 10, is steered so that the agent spends 40 % of the FLOPs of its
        largest sub-policy, or less where even the least λ leads to less; with which λ it begins is learned
    :param critic: "option", one critic that knows the option in force, to which the master is fitted; "shared", one critic of
        the agent that is deployed, with a DQN as master, by default with n-step returns; or "separate", the paper's: each
        sub-policy is a SAC of its own, with a DQN as master
    :param master_kwargs: arguments of the master, by DQN's names: ``learning_rate`` and the schedule of exploration, and for
        a DQN those of :class:`stable_baselines3.DQN` (``MasterDQN.ARGUMENTS``). ``learning_rate``, ``batch_size``, ``tau``,
        ``learning_starts``, ``train_freq`` and ``gradient_steps`` are the sub-policies' by default, ``target_update_interval``
        is one step, ``exploration_final_eps`` is 0.2: what a sub-policy is worth can only be learned where it acts.
        ``buffer_size`` limits a DQN to options that started within that many of the latest env steps.
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
    option_length: Any = FixedAtConstruction()
    critic_kind: Any = FixedAtConstruction()
    master_kwargs: Any = FixedAtConstruction()

    def __init__(
        self,
        policy: str | type[AsymSACPolicy],
        env: GymEnv | str | None,
        *args: Any,
        option_length: int = 5,
        cost_coef: CostCoef = 0.05,
        critic: str | None = None,
        master_kwargs: dict[str, Any] | None = None,
        fast_update: bool | None = None,
        _init_setup_model: bool = True,
        **kwargs: Any,
    ):
        check_option_arguments(2, option_length)
        self.dial = dial_of(cost_coef)
        if isinstance(policy, type):
            policy = STOCK_POLICIES.get(policy, policy)
            if not issubclass(policy, AsymSACPolicy):
                raise ValueError(f"policy must be a name such as 'MlpPolicy' or an AsymSACPolicy, got {policy.__name__}.")
        try:
            super().__init__(policy, env, *args, **{**kwargs, "_init_setup_model": False})  # type: ignore[arg-type]
        except AssertionError as error:
            raise ValueError(str(error)) from error
        if critic is None:
            critic = "shared" if self.n_steps > 1 and self.dial is None else "option"
        check_master_kwargs(critic, master_kwargs or {})
        self.option_length = option_length
        self.cost_coef = cost_coef
        self.cost_curve: Sequence[Sequence[float]] = ()  # λ, cost as a share of the largest sub-policy's, and return
        self.critic_kind = critic
        self.master_kwargs = dict(master_kwargs or {})
        self.fast_update = fast_update
        self._option_state: OptionState | None = None
        self._dones = np.zeros(0, dtype=bool)
        self._master_counters: dict[str, Any] = {}
        if _init_setup_model:
            self._setup_model()

    def _setup_model(self) -> None:
        if self.env is None and self.replay_buffer_class and issubclass(self.replay_buffer_class, HerReplayBuffer):
            self.replay_buffer = buffer_without_env(self)
        given = self.policy_kwargs  # the user's own, which may be meant for other agents too
        own = dict(option_length=self.option_length, critic_kind=self.critic_kind, dial=self.dial)
        self.policy_kwargs = {**given, **own}
        super()._setup_model()
        self.policy_kwargs = given
        n_options = self.policy.n_options
        if self.ent_coef_optimizer is not None and self.log_ent_coef is not None:
            # One entropy coefficient for each sub-policy.
            self.log_ent_coef = self.log_ent_coef.detach().repeat(n_options).requires_grad_(True)
            self.ent_coef_optimizer = th.optim.Adam([self.log_ent_coef], lr=self.lr_schedule(1), fused=True)
        self._set_option_memory(OptionMemory(self.replay_buffer, **self._memory_kwargs()))  # type: ignore[arg-type]
        self.master = make_master(self)
        self.master.restore(self._master_counters)
        self._update = ChosenUpdate(self)
        self._option_statistics = OptionStatistics(n_options, self.n_envs)

    def _memory_kwargs(self) -> dict[str, Any]:
        flops = np.array([cost.flops for cost in self.policy.option_costs], dtype=np.float64)
        recent_steps = self.master_kwargs.get("buffer_size")
        return dict(option_length=self.option_length, gamma=self.gamma, costs=flops / flops.max(), recent_steps=recent_steps)

    def set_env(self, env: GymEnv, force_reset: bool = True) -> None:
        super().set_env(env, force_reset)
        if isinstance(self.replay_buffer, HerReplayBuffer):
            self.replay_buffer.env = self.env  # it relabels with the env's own function

    def _set_option_memory(self, memory: OptionMemory) -> None:
        """The memory hangs on the replay buffer, so that both are pickled together."""
        self.option_memory = memory
        self.replay_buffer.option_memory = memory  # type: ignore[union-attr]

    def set_cost_coef(self, cost_coef: float) -> None:
        """
        Act under another λ from now on, without training, and without a budget until the agent learns on for one. ``save`` and
        exports keep it.

        :param cost_coef: λ, return per env step of the most expensive sub-policy
        :raises ValueError: if the agent has no dial, or λ is out of its range
        """
        self._check_dial().check(cost_coef)
        self.master.set_cost_coef(cost_coef)  # type: ignore[attr-defined]

    def set_budget(self, budget: float) -> None:
        """
        Spend a budget from now on. The agent begins with the least λ that kept to it, of those that ``evaluate(model,
        cost_coef=…)`` measured; from there on, ``predict`` steers λ by what is spent, and returns it with the option state.
        ``save`` keeps both.

        :param budget: mean cost per env step, as a share of the largest sub-policy's FLOPs
        :raises ValueError: if the agent has no dial, no curve was measured since it learned, all of it costs more, or it is no
            share
        """
        self._check_dial()
        if not self.cost_curve:
            raise ValueError("The agent's cost was not measured under several λ yet: evaluate(model, cost_coef='dial') does.")
        self.master.set_cost_coef(cost_coef_for(budget, self.cost_curve), budget)  # type: ignore[attr-defined]

    def _check_dial(self) -> Dial:
        if self.dial is None:
            raise ValueError("The agent learned for one λ: make it with cost_coef='dial' or a range to set λ later.")
        return self.dial

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
        if isinstance(self._update.present, PlainUpdate) or self.fast_update is False:
            self._update.forget()  # this call of learn may be a longer one
        self.master.use_cost_coef(self.cost_coef)
        self.master.gamma = self.gamma
        self.option_memory.adapt(**self._memory_kwargs())
        if "learning_rate" not in self.master_kwargs:
            self.master.lr_schedule = self.lr_schedule
        result = super()._setup_learn(total_timesteps, callback, reset_num_timesteps, tb_log_name, progress_bar)
        with stop_where_not_finite(self):
            check_finite(self._last_obs, "observation")
        return result

    def _sample_action(
        self, learning_starts: int, action_noise: ActionNoise | None = None, n_envs: int = 1
    ) -> tuple[np.ndarray, np.ndarray]:
        if self.num_timesteps < learning_starts and not (self.use_sde and self.use_sde_at_warmup):
            self._option_state = None  # no sub-policy acts
            return super()._sample_action(learning_starts, action_noise, n_envs)
        obs = obs_as_tensor(self._last_obs, self.device)  # type: ignore[arg-type]
        with th.no_grad(), stop_where_not_finite(self):
            self._option_state = self.policy.advance(obs, n_envs, self._option_state, None, self.master.choose)
            options, as_deployed = self._option_state.option, self.master.as_deployed
            actions = self.policy.actions(obs, options)
            if as_deployed.any():
                rows = th.as_tensor(as_deployed, device=self.device)
                actions[rows] = self.policy.actions(select_rows(obs, rows), options[as_deployed], deterministic=True)
            scaled = actions.cpu().numpy()
            check_finite(scaled, "action")
        scaled = scaled.reshape(n_envs, *self.action_space.shape)  # type: ignore[misc]
        if action_noise is not None:
            noise = np.where(as_deployed.reshape(-1, *[1] * (scaled.ndim - 1)), 0.0, action_noise())
            scaled = np.clip(scaled + noise, -1, 1)
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
        with stop_where_not_finite(self):
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
        self._dones = dones
        super()._store_transition(replay_buffer, buffer_action, new_obs, reward, dones, infos)

    def _on_step(self) -> None:
        state = self._option_state
        with stop_where_not_finite(self):
            self.master.step(
                self.logger,
                self.num_timesteps,
                self._current_progress_remaining,
                np.full(self.n_envs, NO_OPTION) if state is None else state.option,
                self._dones,
                self._vec_normalize_env,
            )

    # --- learning ---

    def train(self, gradient_steps: int, batch_size: int = 64) -> None:
        self.cost_curve = ()  # it was that of other weights
        optimizers = [*self.policy.optimizers, *([] if self.ent_coef_optimizer is None else [self.ent_coef_optimizer])]
        self._update_learning_rate(optimizers)
        self.master.begin_updates(gradient_steps, self.logger, self._current_progress_remaining)
        updates_ahead = max(self._updates_ahead(), gradient_steps)
        steps: list[dict[str, list[float]]] = []
        while len(steps) < gradient_steps:
            n = min(gradient_steps - len(steps), STEPS_AT_ONCE)
            update_targets = [step % self.target_update_interval == 0 for step in range(len(steps), len(steps) + n)]
            batches = split(self._sample(n * batch_size), batch_size)
            with stop_where_not_finite(self):
                steps += self._update.steps(batches, update_targets, updates_ahead)
        self._n_updates += gradient_steps
        self.logger.record("train/n_updates", self._n_updates, exclude="tensorboard")
        for key in [key for key, values in steps[0].items() if values] if steps else ():
            values = np.mean([step[key] for step in steps], axis=0) if len(steps) > 1 else steps[0][key]
            # SAC's own keys are the largest sub-policy's.
            self.logger.record("master/loss" if key == "master_loss" else f"train/{key}", values[-1])
            if len(values) == len(self.option_names):
                for name, value in zip(self.option_names, values, strict=True):
                    self.logger.record(f"{name}/{key}", value)

    def _sample(self, batch_size: int) -> Batch | OptionBatch:
        env = self._vec_normalize_env
        return self.master.batch_of(sample_transitions(self.replay_buffer, batch_size, env), env)  # type: ignore[arg-type]

    def _updates_ahead(self) -> float:
        """About how many gradient steps are left to do in this call of ``learn``."""
        steps_ahead = self._total_timesteps - self.num_timesteps
        if self.gradient_steps < 0:
            return steps_ahead
        frequency, unit = self.train_freq  # type: ignore[misc]
        in_episodes = unit == TrainFrequencyUnit.EPISODE
        steps_each = self.num_timesteps / max(self._episode_num, 1) if in_episodes else self.n_envs
        return steps_ahead * self.gradient_steps / (frequency * max(steps_each, 1))

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
        if statistics.steps.any():
            flops = self.policy.mean_flops(statistics.steps, statistics.n_choices)
            statistics.record(self.logger, self.option_names, flops, self.policy.option_costs[-1].flops)
            statistics.reset()
        super().dump_logs()

    # --- saving ---

    def __getstate__(self) -> dict[str, Any]:
        self._update.release()
        return {**self.__dict__, "_update": None}

    def __setstate__(self, state: dict[str, Any]) -> None:
        self.__dict__.update(state)
        self._update = ChosenUpdate(self)  # a compiled one belongs to the memory of the agent that was copied

    @classmethod
    def load(
        cls: type[SelfAsymSAC],
        path: str | Path | io.BufferedIOBase,
        env: GymEnv | None = None,
        device: th.device | str = "auto",
        custom_objects: dict[str, Any] | None = None,
        print_system_info: bool = False,
        force_reset: bool = True,
        **kwargs: Any,
    ) -> SelfAsymSAC:
        """
        As SB3's ``load``. An agent that learned with hindsight goals needs an env to go on learning, but not to act.

        :param path: a file that ``save`` wrote
        :param env: the env to go on in, if any
        :param device: torch device
        :param custom_objects: objects in place of those that the file names
        :param print_system_info: whether to print the versions that saved it, and the present ones
        :param force_reset: whether the env is reset before training
        :param kwargs: attributes to replace; where ``cost_coef`` is among them, a budget that was set is given up
        :return: the agent
        :raises ValueError: if the file is not an AsymSAC model or is damaged, there is no such device, or the env's spaces
            differ from the model's
        :raises FileNotFoundError: if there is no such file
        """
        check_device(device)
        check_model_file(path, AsymSACPolicy, "AsymSAC", custom_objects)
        model = super().load(path, env, device, custom_objects, print_system_info, force_reset, **kwargs)
        if "cost_coef" in kwargs:
            if model.policy.budget is not None:
                model.set_cost_coef(model.master.cost_coef)
            model.master.use_cost_coef(kwargs["cost_coef"])
        return model

    def save(
        self, path: str | Path | io.BufferedIOBase, exclude: Iterable[str] | None = None, include: Iterable[str] | None = None
    ) -> None:
        self._master_counters = self.master.counters()
        super().save(path, exclude, include)

    def load_replay_buffer(self, path: str | Path | io.BufferedIOBase, truncate_last_traj: bool = True) -> None:
        present = getattr(self, "replay_buffer", None)  # deleted, maybe, to make room for the one that is loaded
        try:
            super().load_replay_buffer(path, truncate_last_traj)
            memory = getattr(self.replay_buffer, "option_memory", None)
            if memory is None:  # SAC's: its transitions have no option, but the sub-policies learn from them
                memory = OptionMemory(self.replay_buffer, **self._memory_kwargs())  # type: ignore[arg-type]
            n_options = int(memory.options.max()) + 1
            if n_options > len(self.option_names):
                raise ValueError(f"The memory in {path} is of {n_options} sub-policies, the agent has {self.option_names}.")
            self.master.use_memory(memory)
        except Exception:
            self.replay_buffer = present
            raise
        memory.adapt(**self._memory_kwargs())
        memory.go_on(self._option_state, self.option_length)
        self._set_option_memory(memory)

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


AsymSAC.__init__.__signature__ = with_arguments_of(SAC, inspect.signature(AsymSAC.__init__))  # type: ignore[attr-defined]
