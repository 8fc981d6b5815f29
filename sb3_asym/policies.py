"""The networks of an AsymSAC agent: what is deployed (actors and master) and what only training needs (critics)."""

from collections.abc import Callable, Mapping
from typing import Any

import numpy as np
import torch as th
from gymnasium import spaces
from stable_baselines3.common.policies import ContinuousCritic
from stable_baselines3.common.preprocessing import get_action_dim
from stable_baselines3.common.torch_layers import (
    BaseFeaturesExtractor,
    CombinedExtractor,
    FlattenExtractor,
    NatureCNN,
    get_actor_critic_arch,
)
from stable_baselines3.common.type_aliases import PyTorchObs, Schedule
from stable_baselines3.dqn.policies import DQNPolicy
from stable_baselines3.sac.policies import Actor, SACPolicy
from torch import nn

from sb3_asym.costs import InferenceCost, actor_cost, mean_action, network_cost
from sb3_asym.options import OptionState, advance_options, check_option_arguments

CRITICS = ("shared", "separate")
LOG_SECTIONS = ("asym", "eval", "master", "rollout", "time", "train")
NetArchs = Mapping[str, list[int]]
Chooser = Callable[[PyTorchObs, int], np.ndarray]
"""Takes preprocessed observations and their number, returns an option for each."""


class AsymSACPolicy(SACPolicy):
    """
    K SAC actors from cheapest to most expensive, a master that picks one of them, and their critics.

    ``actor``, ``critic`` and ``critic_target`` are the largest sub-policy's.

    :param observation_space: observation space
    :param action_space: action space
    :param lr_schedule: learning rate schedule of actors and critics
    :param net_arch: SAC's argument: sizes the largest sub-policy (``pi``) and the critics (``qf``); the small
        sub-policy is then derived from it (each width ÷ 8, at least 4). Either this or ``sub_net_archs``.
    :param sub_net_archs: hidden layers of each sub-policy by its name, cheapest first
    :param critic_net_arch: hidden layers of the critic. Default: for a shared critic as the largest sub-policy,
        for separate critics each as its own sub-policy. Separate critics also take a mapping by name.
    :param master_net_arch: hidden layers of the master's q-network
    :param option_length: env steps for which an option is held
    :param critic_kind: "shared" (one critic for the agent as a whole) or "separate" (one for each sub-policy)
    :param kwargs: further arguments of SB3's ``SACPolicy``
    :raises ValueError: if sizes are missing, contradict each other or are not ordered from cheapest to most expensive
    """

    # Module lists, whose members mypy does not know.
    actors: Any
    critics: Any
    critic_targets: Any

    def __init__(
        self,
        observation_space: spaces.Space,
        action_space: spaces.Box,
        lr_schedule: Schedule,
        net_arch: list[int] | dict[str, list[int]] | None = None,
        sub_net_archs: NetArchs | None = None,
        critic_net_arch: list[int] | NetArchs | None = None,
        master_net_arch: list[int] | None = None,
        option_length: int = 5,
        critic_kind: str = "shared",
        **kwargs: Any,
    ):
        # SACPolicy's constructor ends by building the networks, so what they need is set before it.
        self.sub_net_archs, critic_arch = _sub_net_archs(net_arch, sub_net_archs)
        check_option_arguments(len(self.sub_net_archs), option_length)
        self.option_names = tuple(self.sub_net_archs)
        self.critic_net_archs = _critic_net_archs(self.sub_net_archs, critic_net_arch or critic_arch, critic_kind)
        self.master_net_arch = [32, 32] if master_net_arch is None else master_net_arch
        self.option_length = option_length
        self.critic_kind = critic_kind
        super().__init__(
            observation_space, action_space, lr_schedule, net_arch=self.sub_net_archs[self.option_names[-1]], **kwargs
        )

    def _build(self, lr_schedule: Schedule) -> None:
        if self.optimizer_class is th.optim.Adam and not {"foreach", "differentiable"} & set(self.optimizer_kwargs):
            # One kernel instead of a loop over all weights.
            self.optimizer_kwargs = {"fused": True, **self.optimizer_kwargs}
        self.actors = nn.ModuleList(self._make_sub_actor(arch) for arch in self.sub_net_archs.values())
        shared = (
            [self.actors[-1].features_extractor]
            if self.critic_kind == "shared"
            else [a.features_extractor for a in self.actors]
        )
        extractors = shared if self.share_features_extractor else [None] * len(shared)
        self.critics = nn.ModuleList(map(self._make_sub_critic, self.critic_net_archs, extractors))
        self.critic_targets = nn.ModuleList(self._make_sub_critic(arch, None) for arch in self.critic_net_archs)
        self.critic_targets.load_state_dict(self.critics.state_dict())
        self.critic_targets.train(False)
        for network in (*self.actors, *self.critics):
            # As in SACPolicy, a features extractor that is shared learns from the actor's loss alone.
            skip = "features_extractor" if self.share_features_extractor and network in self.critics else "\0"
            weights = [weight for name, weight in network.named_parameters() if skip not in name]
            network.optimizer = self.optimizer_class(weights, lr=lr_schedule(1), **self.optimizer_kwargs)  # type: ignore[call-arg]
        self.optimizers = [network.optimizer for network in (*self.actors, *self.critics)]
        self.master = DQNPolicy(
            self.observation_space,
            spaces.Discrete(self.n_options),
            lr_schedule,
            net_arch=self.master_net_arch,
            activation_fn=self.activation_fn,
            features_extractor_class=self.features_extractor_class,
            features_extractor_kwargs=self.features_extractor_kwargs,
            normalize_images=self.normalize_images,
            optimizer_class=self.optimizer_class,
            optimizer_kwargs=self.optimizer_kwargs,
        )
        self.option_costs = [actor_cost(actor) for actor in self.actors]
        self.master_cost = network_cost(self.master.q_net)
        _check_order(self.option_names, self.option_costs)

    def _make_sub_actor(self, net_arch: list[int]) -> "SubPolicyActor":
        kwargs = self._update_features_extractor({**self.actor_kwargs, "net_arch": net_arch})
        return SubPolicyActor(self, **kwargs).to(self.device)

    def _make_sub_critic(self, net_arch: list[int], features_extractor: BaseFeaturesExtractor | None) -> ContinuousCritic:
        kwargs = self._update_features_extractor({**self.critic_kwargs, "net_arch": net_arch}, features_extractor)
        return ContinuousCritic(**kwargs).to(self.device)

    @property
    def n_options(self) -> int:
        """Number of sub-policies."""
        return len(self.option_names)

    @property
    def actor(self) -> Actor:  # type: ignore[override]
        """The largest sub-policy's actor."""
        return self.actors[-1]

    @property
    def critic(self) -> ContinuousCritic:  # type: ignore[override]
        """The critic of the largest sub-policy."""
        return self.critics[-1]

    @property
    def critic_target(self) -> ContinuousCritic:  # type: ignore[override]
        """The target critic of the largest sub-policy."""
        return self.critic_targets[-1]

    def reset_noise(self, batch_size: int = 1) -> None:
        self.actor.reset_noise(batch_size=batch_size)

    def set_training_mode(self, mode: bool) -> None:
        if mode == self.training:  # walking through all modules takes as long as an action
            return
        for network in (*self.actors, *self.critics):
            network.set_training_mode(mode)
        self.master.set_training_mode(False)  # it learns at times of its own
        self.training = mode

    def greedy_options(self, obs: PyTorchObs, n_obs: int = 1) -> np.ndarray:
        """
        The master's choice.

        :param obs: preprocessed observations
        :param n_obs: how many these are
        :return: ``(n_obs,)`` options
        """
        return self.master.q_net._predict(obs).cpu().numpy()

    def actions(self, obs: PyTorchObs, options: np.ndarray, deterministic: bool = False) -> th.Tensor:
        """
        Actions of the given options; each observation runs through its own option's network only.

        :param obs: preprocessed observations ``(batch, …)``
        :param options: ``(batch,)`` options in force
        :param deterministic: mean action instead of a sample
        :return: actions in [-1, 1], ``(batch, action_dim)``
        """
        first = int(options[0])
        if len(options) == 1 or (options == first).all():
            return self._act(first, obs, deterministic)
        actions = th.empty(len(options), get_action_dim(self.action_space), device=self.device)
        for option in np.unique(options):
            rows = th.as_tensor(options == option, device=self.device)
            # A gSDE noise matrix belongs to an env, so there all rows go through.
            whole = self.actor.use_sde and not deterministic
            acted = self._act(int(option), obs if whole else select_rows(obs, rows), deterministic)
            actions[rows] = acted[rows] if whole else acted
        return actions

    def _act(self, option: int, obs: PyTorchObs, deterministic: bool) -> th.Tensor:
        actor = self.actors[option]
        if deterministic:
            return mean_action(actor, obs)
        if actor.use_sde:
            return actor(obs)
        # What the actor's distribution does, without building one.
        mean, log_std, _ = actor.get_action_dist_params(obs)
        return th.tanh(mean + log_std.exp() * th.randn_like(mean))

    def _predict(self, observation: PyTorchObs, deterministic: bool = False) -> th.Tensor:
        """Action of options that start here."""
        return self.actions(observation, self.greedy_options(observation), deterministic)

    def advance(
        self,
        obs: PyTorchObs,
        n_envs: int,
        state: tuple[np.ndarray, ...] | None,
        episode_start: np.ndarray | None,
        choose: Chooser | None = None,
    ) -> OptionState:
        """
        Tick the option clock; ``choose`` (the master, by default) picks where a new option is due.

        :param obs: preprocessed observations
        :param n_envs: how many these are
        :param state: option state after the last step
        :param episode_start: where an episode starts
        :param choose: who picks
        :return: option state for the coming step
        """
        pick = choose or self.greedy_options

        def choose_due(due: np.ndarray) -> np.ndarray:
            n_due = int(np.count_nonzero(due))
            return pick(obs if n_due == n_envs else select_rows(obs, th.as_tensor(due, device=self.device)), n_due)

        return advance_options(state, episode_start, n_envs, self.option_length, choose_due)

    def predict(
        self,
        observation: np.ndarray | dict[str, np.ndarray],
        state: tuple[np.ndarray, ...] | None = None,
        episode_start: np.ndarray | None = None,
        deterministic: bool = False,
        choose: Chooser | None = None,
    ) -> tuple[np.ndarray, tuple[np.ndarray, ...] | None]:
        """
        Action and option state, the way SB3's recurrent policies do it. Pass the state of the last step back in, and
        options are held; pass none, and a new option starts.

        :param observation: observation(s)
        :param state: an ``OptionState``, ``(option, steps_left)`` with one row per env, or None
        :param episode_start: ``(n_envs,)`` True where an episode starts, so that a new option does
        :param deterministic: mean actions instead of samples; the master's choice is greedy in both cases
        :param choose: who picks the options instead of the master (see :mod:`sb3_asym.evaluation`)
        :return: action(s) and the new option state
        """
        if isinstance(observation, tuple):
            raise ValueError("predict() got a tuple: pass `obs` from `obs, info = env.reset()`, not both.")
        self.set_training_mode(False)
        obs, vectorized = self.obs_to_tensor(observation)
        n_envs = len(next(iter(obs.values())) if isinstance(obs, dict) else obs)
        with th.no_grad():
            new_state = self.advance(obs, n_envs, state, episode_start, choose)
            actions = self.actions(obs, new_state.option, deterministic)
        unscaled = self.unscale_action(actions.cpu().numpy().reshape(-1, *self.action_space.shape))  # type: ignore[misc]
        return (unscaled if vectorized else unscaled.squeeze(axis=0)), new_state

    def _get_constructor_parameters(self) -> dict[str, Any]:
        data = super()._get_constructor_parameters()
        del data["net_arch"]
        shared = self.critic_kind == "shared"
        critics = self.critic_net_archs[0] if shared else dict(zip(self.option_names, self.critic_net_archs, strict=True))
        return {
            **data,
            "sub_net_archs": self.sub_net_archs,
            "critic_net_arch": critics,
            "master_net_arch": self.master_net_arch,
            "option_length": self.option_length,
            "critic_kind": self.critic_kind,
        }


class SubPolicyActor(Actor):
    """
    A SAC actor beside others. When the exploration noise of the largest is reset (gSDE), so is that of all.

    :param policy: the policy that the actor is part of
    :param kwargs: arguments of SB3's ``Actor``
    """

    def __init__(self, policy: AsymSACPolicy, **kwargs: Any):
        super().__init__(**kwargs)
        self._siblings = [policy]  # in a list, so that torch does not see a submodule

    def reset_noise(self, batch_size: int = 1) -> None:
        super().reset_noise(batch_size)
        policy = self._siblings[0]
        if self is policy.actor:
            for actor in policy.actors[:-1]:
                actor.reset_noise(batch_size)


class CnnPolicy(AsymSACPolicy):
    """AsymSACPolicy for images: every network has its own ``NatureCNN``."""

    def __init__(self, *args: Any, features_extractor_class: type[BaseFeaturesExtractor] = NatureCNN, **kwargs: Any):
        super().__init__(*args, features_extractor_class=features_extractor_class, **kwargs)


class MultiInputPolicy(AsymSACPolicy):
    """AsymSACPolicy for Dict observations."""

    def __init__(self, *args: Any, features_extractor_class: type[BaseFeaturesExtractor] = CombinedExtractor, **kwargs: Any):
        super().__init__(*args, features_extractor_class=features_extractor_class, **kwargs)


class MlpPolicy(AsymSACPolicy):
    """AsymSACPolicy for vectors."""

    def __init__(self, *args: Any, features_extractor_class: type[BaseFeaturesExtractor] = FlattenExtractor, **kwargs: Any):
        super().__init__(*args, features_extractor_class=features_extractor_class, **kwargs)


def select_rows(obs: PyTorchObs, rows: th.Tensor) -> PyTorchObs:
    """
    :param obs: observations ``(batch, …)``
    :param rows: mask ``(batch,)``
    :return: those rows
    """
    return {key: value[rows] for key, value in obs.items()} if isinstance(obs, dict) else obs[rows]


def _sub_net_archs(
    net_arch: list[int] | dict[str, list[int]] | None, sub_net_archs: NetArchs | None
) -> tuple[dict[str, list[int]], list[int] | None]:
    """Hidden layers of each sub-policy, and of the critic where ``net_arch`` names it."""
    if sub_net_archs is not None:
        if net_arch is not None:
            raise ValueError(
                "Give either net_arch (the small sub-policy is derived) or sub_net_archs in policy_kwargs, not both."
            )
        if not isinstance(sub_net_archs, Mapping):
            raise TypeError(
                f"sub_net_archs must map names to layers, such as dict(small=[8, 8], large=[64, 64]), got {sub_net_archs!r}."
            )
        clashing = sorted(set(sub_net_archs) & set(LOG_SECTIONS))
        if clashing:
            raise ValueError(f"A sub-policy cannot be called {clashing[0]!r}: the log has a section of that name.")
        archs, critic = {name: list(arch) for name, arch in sub_net_archs.items()}, None
    else:
        net_arch = [256, 256] if net_arch is None else net_arch
        large, of_critic = get_actor_critic_arch(net_arch)
        archs = {"small": [min(max(width // 8, 4), width) for width in large], "large": large}
        critic = of_critic if isinstance(net_arch, dict) else None
    for name, arch in archs.items():
        if name == "" or any(width < 1 for width in arch):
            raise ValueError(f"A sub-policy needs a name and layers of at least one unit, got {name!r}: {arch}.")
    return archs, critic


def _critic_net_archs(sub_net_archs: dict[str, list[int]], critic: list[int] | NetArchs | None, kind: str) -> list[list[int]]:
    """Hidden layers of the critics: one for ``kind="shared"``, else one for each sub-policy."""
    if kind not in CRITICS:
        raise ValueError(f'critic must be "shared" or "separate", got {kind!r}.')
    names = list(sub_net_archs)
    if isinstance(critic, Mapping):
        if kind == "shared" or set(critic) != set(names):
            raise ValueError(f"critic_net_arch by name needs critic='separate' and the names {names}, got {critic}.")
        return [list(critic[name]) for name in names]
    if kind == "shared":
        return [list(sub_net_archs[names[-1]] if critic is None else critic)]
    return [list(sub_net_archs[name] if critic is None else critic) for name in names]


def _check_order(names: tuple[str, ...], costs: list[InferenceCost]) -> None:
    """Sub-policies come cheapest first."""
    flops = [cost.flops for cost in costs]
    if flops != sorted(flops):
        listed = ", ".join(f"{name} {cost}" for name, cost in zip(names, flops, strict=True))
        raise ValueError(f"Order the sub-policies from cheapest to most expensive; their FLOPs are: {listed}.")
