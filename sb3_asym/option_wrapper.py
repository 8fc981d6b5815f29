"""OptionWrapper: trained policies as the discrete actions of a Gymnasium env."""

from collections.abc import Sequence
from typing import Any

import gymnasium as gym
import numpy as np
from gymnasium import spaces
from stable_baselines3.common.preprocessing import is_image_space, is_image_space_channels_first
from stable_baselines3.common.type_aliases import PolicyPredictor
from stable_baselines3.common.vec_env import VecTransposeImage

from sb3_asym.cost_coef import check_cost_coef
from sb3_asym.costs import relative_costs
from sb3_asym.options import OptionState, advance_options, check_option_arguments, option_return


class OptionWrapper(gym.Wrapper, gym.utils.RecordConstructorArgs):
    """
    Turns an env and K trained policies into an env whose discrete action picks the policy that acts.

    One ``step(option)`` runs that policy for up to ``option_length`` env steps and returns the option transition:
    the observation after it, its discounted net reward (see :func:`option_return`), and in ``info`` the keys
    ``option_length`` (steps that ran), ``discount`` (gamma to that power) and ``option_reward`` (the undiscounted sum of
    rewards without costs). Any discrete algorithm can then be the master; as it sees options as single steps, give it
    ``gamma ** option_length`` as its discount factor. A recurrent policy keeps its state from one of its options to the
    next in the same episode. Hindsight goals (``HerReplayBuffer``) are refused: an option's reward cannot be computed
    from the goal and where the option ended.

    Example::

        env = OptionWrapper(gym.make("Pendulum-v1"), [SAC.load("small"), SAC.load("large")], costs=[0.1, 1.0])
        master = DQN("MlpPolicy", env, gamma=0.99**5).learn(10_000)

    :param env: the env to control
    :param sub_policies: models or policies with SB3's ``predict``, cheapest first; they are used, not copied
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
            _disable_deepcopy=True,  # models have replay buffers, and envs that cannot be copied
            sub_policies=sub_policies,
            option_length=option_length,
            cost_coef=cost_coef,
            costs=costs,
            gamma=gamma,
            deterministic=deterministic,
        )
        super().__init__(env)
        check_option_arguments(len(sub_policies), option_length)
        check_cost_coef(cost_coef)
        if costs is None:
            costs = list(relative_costs([getattr(model, "policy", model) for model in sub_policies]))
        if len(costs) != len(sub_policies) or min(costs) <= 0 or max(costs) > 1:
            raise ValueError(
                f"costs must hold one number in (0, 1] for each of the {len(sub_policies)} policies, got {costs}."
            )
        for index, policy in enumerate(sub_policies):
            _check_spaces(index, policy, env)
        self.sub_policies = list(sub_policies)
        self.option_length = option_length
        self.cost_coef = cost_coef
        self.costs = np.asarray(costs, dtype=np.float64)
        self.gamma = gamma
        self.deterministic = deterministic
        self.action_space = spaces.Discrete(len(sub_policies))
        self._last_obs: Any = None
        self._states: list[tuple[np.ndarray, ...] | None] = [None] * len(sub_policies)

    def reset(self, *, seed: int | None = None, options: dict[str, Any] | None = None) -> tuple[Any, dict[str, Any]]:
        self._states = [None] * len(self.sub_policies)
        self._last_obs, info = self.env.reset(seed=seed, options=options)
        return self._last_obs, info

    def step(self, action: int) -> tuple[Any, float, bool, bool, dict[str, Any]]:
        """
        Run one option.

        :param action: index of the sub-policy
        :return: Gymnasium's five values for the option as a whole
        :raises ValueError: if there is no such sub-policy
        """
        if not self.action_space.contains(action):
            raise ValueError(f"{action!r} is not an option: choose 0 to {len(self.sub_policies) - 1}.")
        option = int(action)
        rewards = np.zeros((1, self.option_length))
        clock: OptionState | None = None
        length, terminated, truncated = 0, False, False
        info: dict[str, Any] = {}
        while not (terminated or truncated) and (clock is None or clock.steps_left[0] > 0):
            clock = advance_options(clock, None, 1, self.option_length, lambda _: option)
            self._last_obs, reward, terminated, truncated, info = self.env.step(self._primitive_action(option))
            rewards[0, length] = reward
            length += 1
        transition = option_return(rewards, np.array([length]), self.gamma)
        net_reward = transition.rewards[0] - self.cost_coef * self.costs[option] * transition.durations[0]
        discount = float(transition.discounts[0])
        info = {**info, "option_length": length, "discount": discount, "option_reward": float(rewards.sum())}
        return self._last_obs, float(net_reward), terminated, truncated, info

    def _primitive_action(self, option: int) -> Any:
        """Action of a sub-policy, whose recurrent state is None at its first step of an episode."""
        state = self._states[option]
        action, self._states[option] = self.sub_policies[option].predict(
            self._last_obs, state, episode_start=np.array([state is None]), deterministic=self.deterministic
        )
        return action

    def compute_reward(self, *_: Any) -> None:
        """
        Hindsight relabelling, which options do not have.

        :raises ValueError: always
        """
        raise ValueError(
            "HerReplayBuffer cannot relabel the reward of an option, which is a sum over its steps less its cost: "
            "use DQN's own replay buffer over OptionWrapper, or AsymSAC with HerReplayBuffer."
        )


def _check_spaces(index: int, policy: Any, env: gym.Env) -> None:
    """Refuse a sub-policy for other spaces; SB3's ``predict`` takes images with their channels last, too."""
    for kind in ("observation_space", "action_space"):
        space, own = getattr(policy, kind, None), getattr(env, kind)
        if space is not None and space != own and space != _channels_first(own):
            raise ValueError(f"Sub-policy {index} has the {kind} {space}, but the env's is {own}.")


def _channels_first(space: spaces.Space) -> spaces.Space:
    """The space in which SB3's models learn: images with their channels first."""
    if isinstance(space, spaces.Dict):
        return spaces.Dict({key: _channels_first(part) for key, part in space.spaces.items()})
    if isinstance(space, spaces.Box) and is_image_space(space) and not is_image_space_channels_first(space):
        return VecTransposeImage.transpose_space(space)
    return space
