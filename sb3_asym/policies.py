"""The networks of an AsymSAC agent: actors and master, which are deployed, and critics, which only training needs."""

from collections.abc import Callable, Iterable
from functools import partial
from typing import Any

import numpy as np
import torch as th
from gymnasium import spaces
from stable_baselines3.common.policies import ContinuousCritic
from stable_baselines3.common.preprocessing import get_action_dim
from stable_baselines3.common.torch_layers import BaseFeaturesExtractor, CombinedExtractor, NatureCNN
from stable_baselines3.common.type_aliases import PyTorchObs, Schedule
from stable_baselines3.dqn.policies import DQNPolicy, QNetwork
from stable_baselines3.sac.policies import Actor, SACPolicy
from torch import nn

from sb3_asym.advantage_network import AdvantageNetwork, AdvantagePolicy
from sb3_asym.cost_coef import Dial
from sb3_asym.costs import actor_cost, mean_action, mean_flops, network_cost
from sb3_asym.options import OptionState, SteeredState, advance_options, check_option_arguments
from sb3_asym.sub_policies import NetArchs, check_order, parse_critic_net_archs, parse_sub_net_archs

Chooser = Callable[[PyTorchObs, np.ndarray], np.ndarray]
"""Function from preprocessed observations ``(n_obs, …)`` and the indices of their envs, ``(n_obs,)``, to options."""


class AsymSACPolicy(SACPolicy):
    """
    Policy of several SAC actors from cheapest to most expensive, a master that chooses one of them, and their critics.

    ``actor``, ``critic`` and ``critic_target`` are those of the largest sub-policy.

    :param observation_space: observation space
    :param action_space: action space
    :param lr_schedule: learning rate schedule of actors and critics
    :param net_arch: SAC's argument: hidden layers of the largest sub-policy (``pi``) and of the critics (``qf``); the
        small sub-policy has each width of the largest one ÷ 8, at least 4. Either this or ``sub_net_archs``.
    :param sub_net_archs: hidden layers of each sub-policy by its name, cheapest first
    :param critic_net_arch: hidden layers of the critic; for separate critics also a mapping by the names of the sub-policies.
        By default those of the largest sub-policy for a shared critic, and of the critic's own sub-policy for separate ones.
    :param master_net_arch: hidden layers of the master's q-network; by default [32, 32], and those of the smallest sub-policy
        where the master is fitted to a critic of options
    :param option_length: env steps for which an option is held
    :param critic_kind: "shared" (one critic for the whole agent), "separate" (one for each sub-policy) or "option" (one for
        the whole agent, whose actions have the option in force behind them, one-hot, and with a dial where λ stands in it)
    :param dial: range of λ for which critic and master learn, or None; for a critic of options
    :param kwargs: further arguments of SB3's ``SACPolicy``
    :raises ValueError: if sizes are missing, contradict each other or are not ordered from cheapest to most expensive
    """

    # Module lists, of whose members mypy does not know the types.
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
        dial: Dial | None = None,
        **kwargs: Any,
    ):
        # SACPolicy's constructor ends with a call of _build, so the attributes that it reads are set before.
        self.sub_net_archs, critic_arch = parse_sub_net_archs(net_arch, sub_net_archs)
        check_option_arguments(len(self.sub_net_archs), option_length)
        self.option_names = tuple(self.sub_net_archs)
        critic_net_arch = critic_arch if critic_net_arch is None else critic_net_arch
        self.critic_net_archs = parse_critic_net_archs(self.sub_net_archs, critic_net_arch, critic_kind)
        of_smallest = self.sub_net_archs[self.option_names[0]]
        master_default = of_smallest if critic_kind == "option" else [32, 32]
        self.master_net_arch = master_default if master_net_arch is None else master_net_arch
        self.option_length = option_length
        self.critic_kind = critic_kind
        self.dial = dial
        super().__init__(
            observation_space, action_space, lr_schedule, net_arch=self.sub_net_archs[self.option_names[-1]], **kwargs
        )

    def _build(self, lr_schedule: Schedule) -> None:
        """Build all networks and their optimizers."""
        if self.optimizer_class is th.optim.Adam and not {"foreach", "differentiable"} & set(self.optimizer_kwargs):
            # One kernel for all weights is faster than a loop over them.
            self.optimizer_kwargs = {"fused": True, **self.optimizer_kwargs}
        self.actors, self.critics, self.critic_targets = nn.ModuleList(), nn.ModuleList(), nn.ModuleList()
        for arch in self.sub_net_archs.values():
            kwargs = self._update_features_extractor({**self.actor_kwargs, "net_arch": arch})
            self.actors.append(Actor(**kwargs).to(self.device))
        # A separate critic belongs to its own actor, a shared one to the largest.
        actors_of_critics = self.actors[-len(self.critic_net_archs) :]
        for arch, actor in zip(self.critic_net_archs, actors_of_critics, strict=True):
            extractor = actor.features_extractor if self.share_features_extractor else None
            self.critics.append(self._make_sub_critic(arch, extractor))
        for arch in self.critic_net_archs:
            self.critic_targets.append(self._make_sub_critic(arch, None))
        self.critic_targets.load_state_dict(self.critics.state_dict())
        self.critic_targets.train(False)
        for actor in self.actors:
            actor.optimizer = self._make_optimizer(actor.parameters(), lr_schedule)
        for critic in self.critics:
            parameters = []
            for name, parameter in critic.named_parameters():
                # As in SACPolicy, a shared features extractor learns from the actor's loss alone.
                if not self.share_features_extractor or "features_extractor" not in name:
                    parameters.append(parameter)
            critic.optimizer = self._make_optimizer(parameters, lr_schedule)
        self.optimizers = [network.optimizer for network in (*self.actors, *self.critics)]
        self._noise_of_largest: th.Tensor | None = None
        is_fitted = self.critic_kind == "option"
        master_class = partial(AdvantagePolicy, dial=self.dial) if is_fitted else DQNPolicy
        self.master = master_class(
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
        self.master_cost = network_cost(self.deployed_master())
        flops = np.array([cost.flops for cost in self.option_costs]) + self.master_cost.flops / self.option_length
        self.cost_shares = flops / self.option_costs[-1].flops
        """FLOPs per env step of each option, its choice included, as shares of the largest sub-policy's, ``(n_options,)``."""
        check_order(self.option_names, self.option_costs)

    def _make_sub_critic(self, net_arch: list[int], features_extractor: BaseFeaturesExtractor | None) -> ContinuousCritic:
        kwargs = self._update_features_extractor({**self.critic_kwargs, "net_arch": net_arch}, features_extractor)
        if self.critic_kind == "option":
            n_inputs = get_action_dim(self.action_space) + self.n_options + (self.dial is not None)
            kwargs["action_space"] = spaces.Box(-1.0, 1.0, (n_inputs,))
        return ContinuousCritic(**kwargs).to(self.device)

    def _make_optimizer(self, parameters: Iterable[nn.Parameter], lr_schedule: Schedule) -> th.optim.Optimizer:
        return self.optimizer_class(parameters, lr=lr_schedule(1), **self.optimizer_kwargs)  # type: ignore[call-arg]

    @property
    def n_options(self) -> int:
        """Number of sub-policies."""
        return len(self.option_names)

    @property
    def advantage_network(self) -> AdvantageNetwork:
        """The master's network where it is fitted to a critic of options."""
        network = self.master.q_net
        assert isinstance(network, AdvantageNetwork)
        return network

    @property
    def budget(self) -> float | None:
        """Share of the largest sub-policy's FLOPs for which λ is steered where the agent acts, or None."""
        return None if self.dial is None else self.advantage_network.budget.item() or None

    def deployed_master(self) -> QNetwork:
        """
        The master as it is deployed.

        :return: plain q-network of observations, with the present λ in its biases
        """
        network = self.master.q_net
        return network.folded() if isinstance(network, AdvantageNetwork) else network

    def mean_flops(self, option_steps: np.ndarray, n_choices: int) -> float:
        """
        Mean FLOPs of the deployed agent per env step, the master's share included.

        :param option_steps: env steps in which each option was in force, ``(n_options,)``
        :param n_choices: number of the master's choices in these steps
        :return: mean FLOPs per inference
        """
        return mean_flops(self.option_costs, self.master_cost, option_steps, n_choices)

    @property
    def actor(self) -> Actor:  # type: ignore[override]
        """The actor of the largest sub-policy."""
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
        """
        Draw new gSDE noise for all sub-policies.

        :param batch_size: number of noise matrices, one for each env
        """
        self.actor.reset_noise(batch_size=batch_size)
        self._renew_noise()

    def _renew_noise(self) -> None:
        """Draw new gSDE noise for the other sub-policies where SB3 has drawn it for the largest, ``actor``."""
        largest = self.actor.action_dist.exploration_mat
        if largest is not self._noise_of_largest:
            self._noise_of_largest = largest
            for actor in self.actors[:-1]:
                actor.reset_noise(batch_size=len(self.actor.action_dist.exploration_matrices))

    def set_training_mode(self, mode: bool) -> None:
        """
        Switch all networks but the master to training or evaluation mode.

        :param mode: True for training mode, False for evaluation mode
        """
        if mode == self.training:  # a walk through all modules takes as long as an action
            return
        for network in (*self.actors, *self.critics):
            network.set_training_mode(mode)
        self.master.set_training_mode(False)  # the master sets its own training mode when it learns
        self.training = mode

    def greedy_options(self, obs: PyTorchObs, envs: np.ndarray | None = None) -> np.ndarray:
        """
        Options that the master chooses, by the greatest q-value.

        :param obs: preprocessed observations, ``(n_obs, …)``
        :param envs: indices of their envs, which do not matter
        :return: ``(n_obs,)`` options
        """
        return self.master.q_net._predict(obs).cpu().numpy()

    def actions(self, obs: PyTorchObs, options: np.ndarray, deterministic: bool = False) -> th.Tensor:
        """
        Actions of the given options; each observation runs through the network of its own option only.

        :param obs: preprocessed observations, ``(batch, …)``
        :param options: options in force, ``(batch,)``
        :param deterministic: True for mean actions, False for samples
        :return: actions in [-1, 1], ``(batch, action_dim)``
        """
        if not deterministic and self.actor_kwargs["use_sde"]:
            self._renew_noise()
        first = int(options[0])
        if len(options) == 1 or (options == first).all():
            return self._act(first, obs, deterministic)
        actions = th.empty(len(options), get_action_dim(self.action_space), device=self.device)
        for option in np.unique(options):
            rows = th.as_tensor(options == option, device=self.device)
            # With gSDE, each noise matrix belongs to the row of an env, so all rows run through the network.
            whole = self.actor.use_sde and not deterministic
            acted = self._act(int(option), obs if whole else select_rows(obs, rows), deterministic)
            actions[rows] = acted[rows] if whole else acted
        return actions

    def _act(self, option: int, obs: PyTorchObs, deterministic: bool) -> th.Tensor:
        """Actions of one option, in [-1, 1]."""
        actor = self.actors[option]
        if deterministic:
            return mean_action(actor, obs)
        if actor.use_sde:
            return actor(obs)
        # A sample of the actor's distribution, without the cost of building one.
        mean, log_std, _ = actor.get_action_dist_params(obs)
        return th.tanh(mean + log_std.exp() * th.randn_like(mean))

    def _predict(self, observation: PyTorchObs, deterministic: bool = False) -> th.Tensor:
        """Actions of new options, which the master chooses for these observations."""
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
        Advance the option clock by one env step, and choose an option wherever a new one is due.

        :param obs: preprocessed observations, ``(n_envs, …)``
        :param n_envs: number of envs
        :param state: option state after the last step, or None to start a new option everywhere
        :param episode_start: ``(n_envs,)`` True where an episode starts
        :param choose: function that chooses the options; by default the master
        :return: option state for the coming step
        """
        pick = choose or self.greedy_options

        def choose_due(due: np.ndarray) -> np.ndarray:
            envs = np.flatnonzero(due)
            return pick(obs if len(envs) == n_envs else select_rows(obs, th.as_tensor(due, device=self.device)), envs)

        return advance_options(state, episode_start, n_envs, self.option_length, choose_due)

    def _advance_within(
        self,
        budget: float,
        obs: PyTorchObs,
        n_envs: int,
        state: tuple[np.ndarray, ...] | None,
        episode_start: np.ndarray | None,
    ) -> SteeredState:
        """Advance the option clock, with choices under a λ of each env's own, steered by what it spends."""
        network = self.advantage_network
        assert network.dial is not None
        known = state is not None and len(state) == 3
        cost_coefs = state[2] if known else np.full(n_envs, network.cost_coef.item())  # type: ignore[index]
        clock = self.advance(obs, n_envs, state, episode_start, lambda rows, envs: network.choices(rows, cost_coefs[envs]))
        excess = self.cost_shares[clock.option] - budget
        return SteeredState(*clock, network.dial.steer(cost_coefs, excess, self.option_length))

    def predict(
        self,
        observation: np.ndarray | dict[str, np.ndarray],
        state: tuple[np.ndarray, ...] | None = None,
        episode_start: np.ndarray | None = None,
        deterministic: bool = False,
        choose: Chooser | None = None,
    ) -> tuple[np.ndarray, tuple[np.ndarray, ...] | None]:
        """
        Choose actions and advance the option state, in the manner of SB3's recurrent policies.

        With the state of the last step, options are held; without a state, a new option starts.

        :param observation: a single observation, or a batch ``(n_envs, …)``
        :param state: ``OptionState`` after the last step, ``(option, steps_left)`` with one row per env, or None;
            with a budget, ``SteeredState``, ``(option, steps_left, cost_coefs)``
        :param episode_start: ``(n_envs,)`` True where an episode starts, and with it a new option
        :param deterministic: True for mean actions, False for samples; the master's choice is greedy in both cases
        :param choose: function that chooses the options; by default the master
        :return: action, or actions ``(n_envs, action_dim)``, and the option state for the next step
        :raises ValueError: if the observation is a tuple, or the state does not have one row per env
        """
        if isinstance(observation, tuple):
            raise ValueError("predict() got a tuple: pass `obs` from `obs, info = env.reset()`, not both.")
        self.set_training_mode(False)
        obs, vectorized = self.obs_to_tensor(observation)
        n_envs = len(next(iter(obs.values())) if isinstance(obs, dict) else obs)
        with th.no_grad():
            budget = None if choose else self.budget
            new_state: OptionState | SteeredState
            if budget is None:
                new_state = self.advance(obs, n_envs, state, episode_start, choose)
            else:
                new_state = self._advance_within(budget, obs, n_envs, state, episode_start)
            actions = self.actions(obs, new_state.option, deterministic)
        unscaled = self.unscale_action(actions.cpu().numpy().reshape(-1, *self.action_space.shape))  # type: ignore[misc]
        return (unscaled if vectorized else unscaled.squeeze(axis=0)), new_state

    def _get_constructor_parameters(self) -> dict[str, Any]:
        data = super()._get_constructor_parameters()
        del data["net_arch"]
        separate = self.critic_kind == "separate"
        critics = dict(zip(self.option_names, self.critic_net_archs, strict=True)) if separate else self.critic_net_archs[0]
        return {
            **data,
            "sub_net_archs": self.sub_net_archs,
            "critic_net_arch": critics,
            "master_net_arch": self.master_net_arch,
            "option_length": self.option_length,
            "critic_kind": self.critic_kind,
            "dial": self.dial,
        }


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


def select_rows(obs: PyTorchObs, rows: th.Tensor) -> PyTorchObs:
    """
    Select rows of a batch of observations.

    :param obs: observations, ``(batch, …)``
    :param rows: ``(batch,)`` True for the rows to select
    :return: observations of those rows
    """
    return {key: value[rows] for key, value in obs.items()} if isinstance(obs, dict) else obs[rows]
