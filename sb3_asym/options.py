"""Options of fixed length: the clock, the SMDP return, and the Gymnasium wrapper built on both.

An option is one sub-policy held for ``option_length`` env steps, or until the episode ends
(Sutton, Precup & Singh, 1999, "Between MDPs and semi-MDPs").
"""

from collections.abc import Callable, Sequence
from numbers import Real
from typing import Any, NamedTuple

import gymnasium as gym
import numpy as np
from gymnasium import spaces
from stable_baselines3.common.type_aliases import PolicyPredictor

from sb3_asym.costs import relative_costs

NO_OPTION = -1
"""Stands for "no sub-policy drives", as in the random warm-up before learning starts."""


class OptionState(NamedTuple):
    """
    Which option drives each env, and for how many more steps. One row per env.

    :param option: ``(n_envs,)`` index of the option in force
    :param steps_left: ``(n_envs,)`` env steps that the option has left; at 0 the next step starts a new option
    """

    option: np.ndarray
    steps_left: np.ndarray


def advance_options(
    state: tuple[np.ndarray, ...] | None,
    episode_start: np.ndarray | None,
    n_envs: int,
    option_length: int,
    choose: Callable[[np.ndarray], np.ndarray | int],
) -> OptionState:
    """
    The option clock: the options that drive the coming env step.

    A new option starts where there is no state yet, where the last option has run out, and where an episode starts.
    Nothing that was passed in is changed.

    :param state: the state after the last step (see ``OptionState``), or None to start a new option everywhere
    :param episode_start: ``(n_envs,)`` True where the coming step is the first of an episode
    :param n_envs: number of envs
    :param option_length: env steps for which an option is held
    :param choose: takes the mask ``(n_envs,)`` of envs that need a new option, returns one option for each of them
    :return: the state for the coming step; ``steps_left`` is what remains after it
    :raises ValueError: if the state does not have one row per env
    """
    if state is None:
        option, steps_left = np.full(n_envs, NO_OPTION), np.zeros(n_envs, dtype=np.int64)
    else:
        option, steps_left = state
        if len(option) != n_envs:
            raise ValueError(
                f"The option state has {len(option)} rows but there are {n_envs} envs: pass state=None to start over."
            )
    due = steps_left <= 0
    if episode_start is not None:
        due = due | np.asarray(episode_start, dtype=bool)
    if due.any():
        option = option.copy()
        option[due] = choose(due)
        steps_left = np.where(due, option_length, steps_left)
    return OptionState(option, steps_left - 1)


def option_return(
    rewards: np.ndarray, lengths: np.ndarray, gamma: float, cost: np.ndarray | float = 0.0
) -> tuple[np.ndarray, np.ndarray]:
    r"""
    Reward and discount of option transitions (SMDP, Sutton et al. 1999, section 3):
    :math:`R = \sum_{i<k} \gamma^i (r_{t+i} - \lambda c_\omega)` and :math:`\gamma^k`.

    :param rewards: ``(n_options, option_length)`` rewards of the primitive steps; what follows the end is ignored
    :param lengths: ``(n_options,)`` steps k that each option ran
    :param gamma: discount factor of one primitive step
    :param cost: ``(n_options,)`` or a number: :math:`\lambda c_\omega`, return per step that the option pays
    :return: option rewards and discounts, both ``(n_options,)``
    """
    powers = gamma ** np.arange(rewards.shape[1] + 1)
    ran = np.arange(rewards.shape[1]) < lengths[:, None]
    return np.where(ran, rewards - np.reshape(cost, (-1, 1)), 0.0) @ powers[:-1], powers[lengths]


class OptionStatistics:
    """
    Counts what the options did: ``steps`` that each drove ``(n_options,)``, ``n_choices``, ``n_switches`` from one
    sub-policy to another within an episode, and ``n_episodes`` that ended.

    :param n_options: number of sub-policies
    :param n_envs: number of envs
    """

    def __init__(self, n_options: int, n_envs: int):
        self._last_options = np.full(n_envs, NO_OPTION)
        self.steps = np.zeros(n_options, dtype=np.int64)
        self.reset()

    def reset(self) -> None:
        """Start counting anew, in the middle of episodes if need be."""
        self.steps = np.zeros_like(self.steps)
        self.n_choices = self.n_switches = self.n_episodes = 0

    def count(self, options: np.ndarray, started: np.ndarray, dones: np.ndarray, counted: np.ndarray | None = None) -> None:
        """
        Count one step of all envs.

        :param options: ``(n_envs,)`` options in force
        :param started: ``(n_envs,)`` True where this is the option's first step
        :param dones: ``(n_envs,)`` True where the episode ends with this step
        :param counted: ``(n_envs,)`` False where the env does not count
        """
        counted = np.ones(len(options), dtype=bool) if counted is None else counted
        self.steps += np.bincount(options[counted], minlength=len(self.steps))
        self.n_choices += int(np.count_nonzero(started & counted))
        self.n_switches += int(np.count_nonzero(counted & (self._last_options != NO_OPTION) & (options != self._last_options)))
        self.n_episodes += int(np.count_nonzero(dones & counted))
        self._last_options = np.where(dones, NO_OPTION, options)


class OptionWrapper(gym.Wrapper, gym.utils.RecordConstructorArgs):
    """
    Turns an env and K trained policies into an env whose discrete action picks the policy that drives.

    One ``step(option)`` runs that policy for up to ``option_length`` env steps and returns the option transition:
    the observation after it, its discounted net reward (see :func:`option_return`), and in ``info`` the keys
    ``option_length`` (steps that ran), ``discount`` (gamma to that power) and ``option_reward`` (the undiscounted sum of
    rewards without costs). Any discrete algorithm can then be the master; as it sees options as single steps, give it
    ``gamma ** option_length`` as its discount factor.

    Example::

        env = OptionWrapper(gym.make("Pendulum-v1"), [SAC.load("small"), SAC.load("large")], costs=[0.1, 1.0])
        master = DQN("MlpPolicy", env, gamma=0.99**5).learn(10_000)

    :param env: the env to control
    :param sub_policies: models or policies with SB3's ``predict``, cheapest first
    :param option_length: env steps for which an option is held
    :param cost_coef: weight λ of the cost, in units of return per step of the most expensive policy
    :param costs: cost of one inference of each policy relative to the most expensive one, in (0, 1];
        by default they are counted in FLOPs (:func:`sb3_asym.costs.relative_costs`)
    :param gamma: discount factor of one env step
    :param deterministic: whether the sub-policies act deterministically
    :raises ValueError: if an argument is out of range, or a policy was made for other spaces than the env's
    """

    def __init__(
        self,
        env: gym.Env,
        sub_policies: Sequence[PolicyPredictor],
        option_length: int = 5,
        cost_coef: float = 0.05,
        costs: Sequence[float] | None = None,
        gamma: float = 0.99,
        deterministic: bool = True,
    ):
        gym.utils.RecordConstructorArgs.__init__(
            self,
            sub_policies=sub_policies,
            option_length=option_length,
            cost_coef=cost_coef,
            costs=costs,
            gamma=gamma,
            deterministic=deterministic,
        )
        super().__init__(env)
        check_option_arguments(len(sub_policies), option_length, cost_coef)
        if costs is None:
            costs = list(relative_costs([getattr(model, "policy", model) for model in sub_policies]))
        if len(costs) != len(sub_policies) or min(costs) <= 0 or max(costs) > 1:
            raise ValueError(
                f"costs must hold one number in (0, 1] for each of the {len(sub_policies)} policies, got {costs}."
            )
        for index, policy in enumerate(sub_policies):
            for kind in ("observation_space", "action_space"):
                space = getattr(policy, kind, None)
                if space is not None and space != getattr(env, kind):
                    raise ValueError(f"Sub-policy {index} has the {kind} {space}, but the env's is {getattr(env, kind)}.")
        self.sub_policies = list(sub_policies)
        self.option_length = option_length
        self.cost_coef = cost_coef
        self.costs = np.asarray(costs, dtype=np.float64)
        self.gamma = gamma
        self.deterministic = deterministic
        self.action_space = spaces.Discrete(len(sub_policies))
        self._last_obs: Any = None

    def reset(self, *, seed: int | None = None, options: dict[str, Any] | None = None) -> tuple[Any, dict[str, Any]]:
        self._last_obs, info = self.env.reset(seed=seed, options=options)
        return self._last_obs, info

    def step(self, action: int) -> tuple[Any, float, bool, bool, dict[str, Any]]:
        """
        Run one option.

        :param action: index of the sub-policy
        :return: Gymnasium's five values for the option as a whole
        """
        if not self.action_space.contains(action):
            raise ValueError(f"{action!r} is not an option: choose 0 to {len(self.sub_policies) - 1}.")
        sub_policy = self.sub_policies[int(action)]
        rewards = np.zeros((1, self.option_length))
        state: OptionState | None = None
        length, terminated, truncated = 0, False, False
        info: dict[str, Any] = {}
        while not (terminated or truncated) and (state is None or state.steps_left[0] > 0):
            state = advance_options(state, None, 1, self.option_length, lambda _: int(action))
            primitive_action, _ = sub_policy.predict(self._last_obs, deterministic=self.deterministic)
            self._last_obs, reward, terminated, truncated, info = self.env.step(primitive_action)
            rewards[0, length] = reward
            length += 1
        reward, discount = option_return(rewards, np.array([length]), self.gamma, self.cost_coef * self.costs[int(action)])
        info = {**info, "option_length": length, "discount": float(discount[0]), "option_reward": float(rewards.sum())}
        return self._last_obs, float(reward[0]), terminated, truncated, info


def check_option_arguments(n_options: int, option_length: int, cost_coef: float = 0.0) -> None:
    """
    :param n_options: number of sub-policies
    :param option_length: env steps for which an option is held
    :param cost_coef: weight λ of the cost
    :raises ValueError: if there are fewer than two sub-policies, no step in an option, or a negative weight
    """
    if n_options < 2:
        raise ValueError(f"Switching needs at least two sub-policies, got {n_options}.")
    if not isinstance(option_length, int | np.integer) or option_length < 1:
        raise ValueError(f"option_length must be an integer of at least 1 env step, got {option_length!r}.")
    check_cost_coef(cost_coef)


def check_cost_coef(cost_coef: float) -> None:
    """
    :param cost_coef: weight λ of the cost
    :raises ValueError: if it is negative or not a finite number
    """
    if not isinstance(cost_coef, Real) or not 0 <= cost_coef < float("inf"):
        raise ValueError(f"cost_coef (λ) must be a finite number of at least 0, got {cost_coef!r}.")
