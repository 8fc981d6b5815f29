"""The master that is fitted to a critic of options, for one λ or for a whole range of them."""

import math
from typing import Any, ClassVar

import numpy as np
from stable_baselines3.common.buffers import NStepReplayBuffer
from stable_baselines3.common.logger import Logger
from stable_baselines3.common.type_aliases import PyTorchObs
from stable_baselines3.common.vec_env import VecNormalize

from sb3_asym.advantage_network import AdvantagePolicy
from sb3_asym.budget import ActingCostCoefs, Budget, DrawnCostCoefs
from sb3_asym.buffers import Batch, OptionMemory, scaled_costs
from sb3_asym.cost_coef import ROUNDING, CostCoef, CostCoefSchedule, budget_of, dial_of
from sb3_asym.master import MasterDQN
from sb3_asym.options import mean_duration
from sb3_asym.update.option_batch import OptionBatch, draw_options

LONGEST_EPISODE = 1000
"""Env steps after which another episode is taken to begin, as some envs have none that ends."""


class FittedMaster(MasterDQN):
    """
    A master that takes its values from a critic of options (:mod:`sb3_asym.update.option_batch`) and learns with it.

    With a dial, λ is drawn anew for each transition that is learned from, and for each episode. With a budget, it is steered
    over the episode (:class:`sb3_asym.budget.Budget`).

    :param policy: the networks
    :param memory: the option transitions
    :param cost_coef: λ, or a dial or a budget
    :param n_envs: number of envs that are stepped together
    :param shares: cost per env step where each option acts, its choice included, as a share of the largest sub-policy's,
        ``(n_options,)``
    :param kwargs: DQN's own arguments (``ARGUMENTS``), and ``gamma``
    :raises ValueError: if the replay memory has n-step returns, or λ is not of the kind that the networks are for
    """

    ARGUMENTS: ClassVar[tuple[str, ...]] = (
        "learning_rate",
        "exploration_fraction",
        "exploration_initial_eps",
        "exploration_final_eps",
    )
    policy: AdvantagePolicy
    acting: ActingCostCoefs | None = None
    """λ over the episodes of training, where it is no number."""

    def __init__(
        self,
        policy: AdvantagePolicy,
        memory: OptionMemory,
        cost_coef: CostCoef,
        n_envs: int,
        shares: np.ndarray,
        **kwargs: Any,
    ):
        self.network, self.shares = policy.q_net, shares
        self.costs, self.option_length = memory.costs, memory.option_length
        self._episode_steps = np.zeros(n_envs, dtype=np.int64)
        super().__init__(policy, memory, cost_coef, n_envs, **{**kwargs, "gradient_steps": 0})
        self._set_prices(None)

    def use_memory(self, memory: OptionMemory) -> None:
        """
        As a DQN.

        :param memory: option transitions
        :raises ValueError: if it has n-step returns
        """
        if isinstance(memory.replay_buffer, NStepReplayBuffer):
            other = "" if self.network.dial is not None else ", or take critic='shared'"
            raise ValueError(f"critic='option' learns from single steps: leave n_steps at 1{other}.")
        super().use_memory(memory)

    def use_cost_coef(self, cost_coef: CostCoef) -> None:
        """
        Learn for this λ from now on.

        :param cost_coef: λ, or a dial or a budget
        :raises ValueError: if the networks are for another kind of λ
        """
        learned, wanted = self.network.dial, dial_of(cost_coef)
        if wanted is not None and wanted != learned:
            networks = "one λ" if learned is None else f"{learned.low:g} to {learned.high:g}"
            raise ValueError(
                f"cost_coef={cost_coef!r} must be given where the agent is made: its networks are for {networks}."
            )
        if wanted is None:
            self.acting = None
        elif (share := budget_of(cost_coef)) is not None:
            if not self._is_learned(share):
                self.acting = Budget(wanted, self.n_envs, share, self.shares, self.option_length, self.cost_coef)
            self.set_cost_coef(self.cost_coef, share)
        elif not isinstance(self.acting, DrawnCostCoefs):
            if self.acting is not None:
                self.set_cost_coef(self.cost_coef)  # without the budget
            self.acting = DrawnCostCoefs(wanted, self.n_envs)
        self._cost_coef_schedule = None if wanted is not None else CostCoefSchedule(cost_coef)  # type: ignore[assignment]
        self._follow_schedule()

    def _is_learned(self, share: float) -> bool:
        """Whether this budget is learned already, from the λ on that the agent has."""
        known = self.acting
        return (
            isinstance(known, Budget)
            and (known.share, known.option_length) == (share, self.option_length)
            and math.isclose(known.start, self.cost_coef, rel_tol=ROUNDING)
        )

    @property
    def cost_coef(self) -> float:
        """
        λ under which the agent is deployed now, return per env step of the most expensive sub-policy; with a budget, that with
        which it begins.
        """
        return self.network.cost_coef.item()

    def set_cost_coef(self, cost_coef: float, budget: float | None = None) -> None:
        """
        Deploy under this λ.

        :param cost_coef: λ
        :param budget: share of the largest sub-policy's FLOPs for which λ is steered from there on, or None for a fixed λ
        """
        self.network.cost_coef.fill_(cost_coef)
        self.network.budget.fill_(budget or 0.0)

    @property
    def as_deployed(self) -> np.ndarray:
        """With a budget, a part of the episodes, from which it learns."""
        return super().as_deployed if self.acting is None else self.acting.as_deployed

    def greedy_options(self, obs: PyTorchObs, envs: np.ndarray) -> np.ndarray:
        """
        The best options at the λ of each env.

        :param obs: preprocessed observations, ``(n_obs, …)``
        :param envs: indices of their envs, ``(n_obs,)``
        :return: ``(n_obs,)`` options
        """
        cost_coefs = np.array([self.cost_coef]) if self.acting is None else self.acting.cost_coefs[envs]
        return self.network.choices(obs, cost_coefs)

    def batch_of(self, batch: Batch, env: VecNormalize | None) -> OptionBatch:  # type: ignore[override]
        """
        An option and a λ for each transition.

        :param batch: primitive transitions
        :param env: normalization of observations and rewards
        :return: transitions with options
        """
        n = len(batch.rewards)
        dial = self.network.dial if self._cost_coef_schedule is None else None
        cost_coefs = np.full(n, self.cost_coef) if dial is None else dial.draw(n)
        self._set_prices(env)
        return draw_options(batch, cost_coefs, self.network, self.option_length, self.gamma)

    def begin_updates(self, n_updates: int, logger: Logger, progress_remaining: float) -> None:
        """
        Follow the schedule of the learning rate, and count.

        :param n_updates: number of gradient steps to come
        :param logger: logger of the agent
        :param progress_remaining: training progress that remains, from 1 (start) to 0 (end)
        """
        super().begin_updates(n_updates, logger, progress_remaining)
        self._update_learning_rate(self.policy.optimizer)
        self._n_updates += n_updates
        self.logger.record("train/n_updates", self._n_updates, exclude="tensorboard")

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
        After each step of the envs: as DQN, and follow the schedule of λ, steer it, or draw another one with each episode.

        :param logger: logger of the agent
        :param num_timesteps: env steps so far, over all envs
        :param progress_remaining: training progress that remains, from 1 (start) to 0 (end)
        :param options: options in force, ``(n_envs,)``, negative where no sub-policy acted
        :param dones: ``(n_envs,)`` True where the episode ended with this step
        :param env: normalization of observations and rewards
        """
        super().step(logger, num_timesteps, progress_remaining, options, dones, env)
        self._follow_schedule()
        self._episode_steps += 1
        ended = dones | (self._episode_steps >= LONGEST_EPISODE)
        self._episode_steps[ended] = 0
        if self.acting is not None:
            self.acting.spend(options)
            if ended.any():
                self.acting.end_episodes(ended)
                if isinstance(self.acting, Budget):
                    self.set_cost_coef(self.acting.start, self.acting.share)
        if not isinstance(self.acting, DrawnCostCoefs):
            self.logger.record("train/cost_coef", self.cost_coef)

    def counters(self) -> dict[str, Any]:
        """
        As a DQN's, and λ of the episodes that are under way.

        :return: values by attribute
        """
        return {**super().counters(), "acting": self.acting, "_episode_steps": self._episode_steps}

    def restore(self, counters: dict[str, Any]) -> None:
        """
        Go on from saved counters; with another number of envs, in other episodes.

        :param counters: as ``counters`` gave them
        """
        if len(counters.get("_episode_steps", ())) != self.n_envs:
            counters = {name: value for name, value in counters.items() if name not in ("acting", "_episode_steps")}
        super().restore(counters)

    def _on_step(self) -> None:
        # A DQN's without the target network: the critic has one.
        self._n_calls += 1
        self._explore_less()

    def _follow_schedule(self) -> None:
        if self._cost_coef_schedule is not None:
            cost_coef = self._cost_coef_schedule(getattr(self, "_current_progress_remaining", 1.0))
            if self.network.dial is not None:
                self.network.dial.check(cost_coef)
            self.set_cost_coef(cost_coef)

    def _set_prices(self, env: VecNormalize | None) -> None:
        self.policy.set_prices(scaled_costs(self.costs, env), mean_duration(self.option_length, self.gamma))


def check_no_budget(model: Any) -> None:
    """
    Refuse an agent with a budget where other processes act for it.

    :param model: model of any algorithm
    :raises ValueError: if it has a budget
    """
    if budget_of(getattr(model, "cost_coef", 0.0)) is not None:
        raise ValueError(
            f"No budget ({model.cost_coef!r}) is kept where other processes act: make or load the agent with cost_coef='dial'."
        )
    if getattr(model.policy, "budget", None) is not None:
        raise ValueError("No budget is kept where other processes act: set λ instead, by set_cost_coef.")


MASTERS: dict[str, type[MasterDQN]] = {"shared": MasterDQN, "separate": MasterDQN, "option": FittedMaster}
"""The master of each kind of critic."""


def check_master_kwargs(critic: str, master_kwargs: dict[str, Any]) -> None:
    """
    Refuse arguments that the master of a kind of critic does not take.

    :param critic: kind of critic
    :param master_kwargs: arguments of the master
    :raises ValueError: if there is no such argument
    """
    known = MASTERS.get(critic, MasterDQN).ARGUMENTS
    unknown = set(master_kwargs) - set(known)
    if unknown:
        hint = " and more with 'shared', where the master is a DQN" if unknown <= set(MasterDQN.ARGUMENTS) else ""
        raise ValueError(
            f"master_kwargs takes {', '.join(known)} with critic={critic!r}{hint}; it got {', '.join(sorted(unknown))}."
        )


def make_master(model: Any) -> MasterDQN:
    """
    The master of an agent, which learns with the agent's own settings where ``master_kwargs`` has no others.

    :param model: an AsymSAC agent with its policy and its memories
    :return: the master
    :raises ValueError: as the masters do
    """
    policy, kind = model.policy, MASTERS[model.critic_kind]
    arguments = dict(
        learning_rate=model.learning_rate,
        batch_size=model.batch_size,
        learning_starts=model.learning_starts,
        tau=model.tau,
        train_freq=model.train_freq,
        gradient_steps=model.gradient_steps,
        target_update_interval=model.n_envs,
        exploration_final_eps=0.2,
        gamma=model.gamma,
    )
    if kind is FittedMaster:
        arguments["shares"] = policy.cost_shares
    arguments |= model.master_kwargs
    if isinstance(arguments["train_freq"], list):  # from a file
        arguments["train_freq"] = tuple(arguments["train_freq"])
    return kind(policy.master, model.option_memory, model.cost_coef, model.n_envs, **arguments)
