"""What deployment runs of an SB3 model: plain layers, input normalization and how outputs become actions."""

from collections.abc import Iterator
from dataclasses import dataclass, replace
from typing import Any, NamedTuple

import gymnasium as gym
import numpy as np
import torch as th
from gymnasium import spaces
from stable_baselines3.common.base_class import BaseAlgorithm
from stable_baselines3.common.policies import ActorCriticPolicy
from stable_baselines3.common.preprocessing import is_image_space
from stable_baselines3.common.torch_layers import CombinedExtractor, FlattenExtractor
from stable_baselines3.common.vec_env import VecNormalize
from stable_baselines3.dqn.policies import DQNPolicy
from stable_baselines3.sac.policies import Actor as SACActor
from stable_baselines3.td3.policies import Actor as TD3Actor
from torch import nn

from sb3_asym.export.activations import ACTIVATIONS
from sb3_asym.policies import AsymSACPolicy


class ObservationPart(NamedTuple):
    """
    Where a part of the observation lies in the flat vector.

    :param name: its key; "observation" where the observation is no Dict
    :param shape: as in the observation space
    :param offset: index of its first number
    :param size: how many numbers it has
    """

    name: str
    shape: tuple[int, ...]
    offset: int
    size: int


@dataclass(frozen=True)
class Dense:
    """
    A dense layer and what follows it.

    :param weight: ``(n_out, n_in)``, float32, or float16 where it is only kept so and calculated with in float32
    :param bias: ``(n_out,)``, of the same type
    :param activations: torch modules of :data:`sb3_asym.export.activations.ACTIVATIONS`
    """

    weight: np.ndarray
    bias: np.ndarray
    activations: tuple[nn.Module, ...]

    @property
    def precision(self) -> str:
        """ "fp32", "fp16" or "int8"."""
        return {"float32": "fp32", "float16": "fp16", "int8": "int8"}[str(self.weight.dtype)]

    @property
    def n_bytes(self) -> int:
        """Bytes of its numbers."""
        return sum(value.nbytes for value in vars(self).values() if isinstance(value, np.ndarray))

    def linear(self, x: th.Tensor) -> th.Tensor:
        """
        :param x: ``(batch, n_in)`` float32
        :return: ``(batch, n_out)`` before the activations
        """
        return nn.functional.linear(x, th.as_tensor(self.weight).float(), th.as_tensor(self.bias).float())

    def forward(self, x: th.Tensor) -> th.Tensor:
        """
        :param x: ``(batch, n_in)`` float32
        :return: ``(batch, n_out)``
        """
        y = self.linear(x)
        for activation in self.activations:
            y = activation(y)
        return y


@dataclass(frozen=True)
class Network:
    """
    A chain of dense layers.

    :param name: of the sub-policy, or "master"
    :param layers: in order
    """

    name: str
    layers: tuple[Dense, ...]

    @property
    def n_bytes(self) -> int:
        """Bytes of its numbers."""
        return sum(layer.n_bytes for layer in self.layers)

    @property
    def precision(self) -> str:
        """ "fp32", "fp16" or "int8"."""
        return self.layers[0].precision

    def forward(self, x: th.Tensor) -> th.Tensor:
        """
        :param x: ``(batch, obs_dim)`` normalized observations
        :return: ``(batch, n_out)``
        """
        for layer in self.layers:
            x = layer.forward(x)
        return x


@dataclass(frozen=True)
class Normalization:
    """
    ``clip((observation − mean) · gain)``, as VecNormalize does.

    :param mean: ``(obs_dim,)``
    :param gain: ``(obs_dim,)``
    :param clip: ``(obs_dim,)`` greatest size of the result
    """

    mean: np.ndarray
    gain: np.ndarray
    clip: np.ndarray


@dataclass(frozen=True)
class DeployableAgent:
    """
    An agent without anything that only training needs.

    :param algorithm: name of the class that it was trained with
    :param sub_policies: cheapest first; a single one where the agent does not switch
    :param master: who picks among them, or None
    :param option_length: env steps for which a choice is held
    :param observations: the parts of an observation, in the order of the flat vector
    :param is_dict: whether an observation is a Dict
    :param normalization: of the flat vector, or None
    :param output: how the networks' outputs become actions: "unscale" from [-1, 1] to the bounds, "clip" to the bounds,
        or "argmax"
    :param low: ``(action_dim,)`` least actions
    :param high: ``(action_dim,)`` greatest actions
    """

    algorithm: str
    sub_policies: tuple[Network, ...]
    master: Network | None
    option_length: int
    observations: tuple[ObservationPart, ...]
    is_dict: bool
    normalization: Normalization | None
    output: str
    low: np.ndarray
    high: np.ndarray

    @property
    def networks(self) -> tuple[Network, ...]:
        """All of them, the master last."""
        return (*self.sub_policies, *([] if self.master is None else [self.master]))

    @property
    def n_bytes(self) -> dict[str, int]:
        """Bytes of the numbers of each network, by its name."""
        return {network.name: network.n_bytes for network in self.networks}

    @property
    def obs_dim(self) -> int:
        """Length of the flat observation."""
        return sum(part.size for part in self.observations)

    @property
    def action_dim(self) -> int:
        """Length of the action."""
        return len(self.low)

    @property
    def rest(self) -> np.ndarray:
        """``(action_dim,)`` the middle of the bounds, or what is nearest to zero where there is none."""
        if self.output == "argmax":
            return self.low
        with np.errstate(invalid="ignore"):
            middle = (self.low + self.high) / 2
        return np.where(np.isfinite(middle), middle, np.clip(0, self.low, self.high)).astype(np.float32)

    def flatten(self, observation: np.ndarray | dict[str, np.ndarray]) -> np.ndarray:
        """
        :param observation: one observation of the env
        :return: ``(obs_dim,)`` float32
        """
        parts = [observation[part.name] if isinstance(observation, dict) else observation for part in self.observations]
        return np.concatenate([np.ravel(part) for part in parts]).astype(np.float32)

    def unflatten(self, flat: np.ndarray) -> np.ndarray | dict[str, np.ndarray]:
        """
        :param flat: ``(obs_dim,)``
        :return: the observation as the env gave it
        """
        parts = {p.name: flat[p.offset : p.offset + p.size].reshape(p.shape) for p in self.observations}
        return parts if self.is_dict else parts["observation"]

    def normalize(self, observations: np.ndarray) -> th.Tensor:
        """
        :param observations: ``(batch, obs_dim)`` float32
        :return: what the networks get
        """
        if self.normalization is not None:
            mean, gain, clip = vars(self.normalization).values()
            observations = np.clip((observations - mean) * gain, -clip, clip)
        return th.as_tensor(observations)

    def choices(self, observations: np.ndarray) -> np.ndarray:
        """
        :param observations: ``(batch, obs_dim)`` float32
        :return: ``(batch,)`` the option that the master would pick
        """
        if self.master is None:
            return np.zeros(len(observations), dtype=np.int64)
        return self.master.forward(self.normalize(observations)).argmax(1).numpy()

    def actions(self, observations: np.ndarray, options: np.ndarray) -> np.ndarray:
        """
        :param observations: ``(batch, obs_dim)`` float32
        :param options: ``(batch,)`` who drives
        :return: ``(batch, action_dim)`` float32
        """
        x = self.normalize(observations)
        outputs = np.stack([sub_policy.forward(x).numpy() for sub_policy in self.sub_policies])
        return self.as_actions(outputs[options, np.arange(len(options))])

    def as_actions(self, outputs: np.ndarray) -> np.ndarray:
        """
        :param outputs: ``(batch, n_out)`` of sub-policies
        :return: ``(batch, action_dim)`` float32
        """
        if self.output == "argmax":
            return outputs.argmax(1, keepdims=True).astype(np.float32)
        if self.output == "unscale":
            outputs = self.low + np.float32(0.5) * (outputs + 1) * (self.high - self.low)
        return np.clip(outputs, self.low, self.high)

    def alone(self, option: int) -> "DeployableAgent":
        """
        :param option: index of a sub-policy
        :return: an agent that is this sub-policy only
        """
        return replace(self, sub_policies=self.sub_policies[option : option + 1], master=None, option_length=1)


def deployable(model: BaseAlgorithm, vec_normalize: VecNormalize | None = None) -> DeployableAgent:
    """
    :param model: an AsymSAC, SAC, TD3, DDPG, TQC, DQN, PPO or A2C model
    :param vec_normalize: statistics to fold in; those of the model's own env by default
    :return: what has to run on the robot
    :raises ValueError: if the model has parts that cannot be exported
    """
    policy: Any = model.policy
    observations = _observation_parts(model.observation_space)
    if isinstance(policy, AsymSACPolicy):
        pairs = zip(policy.option_names, policy.actors, strict=True)
        networks = [_network(name, actor, actor.latent_pi, actor.mu, nn.Tanh()) for name, actor in pairs]
        master = _network("master", policy.master.q_net, policy.master.q_net.q_net)
        option_length = policy.option_length
    else:
        networks, master, option_length = [_plain_network(policy)], None, 1
    output, low, high = _output(model.action_space, policy)
    return DeployableAgent(
        algorithm=type(model).__name__,
        sub_policies=tuple(networks),
        master=master,
        option_length=option_length,
        observations=observations,
        is_dict=isinstance(model.observation_space, spaces.Dict),
        normalization=_normalization(observations, vec_normalize or model.get_vec_normalize_env()),
        output=output,
        low=low,
        high=high,
    )


def _plain_network(policy: Any) -> Network:
    """The network that ``predict(deterministic=True)`` runs of an SB3 policy that does not switch."""
    if isinstance(policy, DQNPolicy):
        return _network("policy", policy.q_net, policy.q_net.q_net)
    if isinstance(policy, ActorCriticPolicy):
        squash = [nn.Tanh()] if policy.squash_output else []
        return _network("policy", policy, policy.mlp_extractor.policy_net, policy.action_net, *squash)
    actor: Any = getattr(policy, "actor", None)
    if isinstance(actor, TD3Actor):
        return _network("policy", actor, actor.mu)
    if isinstance(actor, SACActor) or type(actor).__module__.startswith("sb3_contrib.tqc"):
        return _network("policy", actor, actor.latent_pi, actor.mu, nn.Tanh())
    raise ValueError(f"A {type(policy).__module__}.{type(policy).__name__} has no deployable form here.")


def _network(name: str, owner: Any, *modules: nn.Module) -> Network:
    """Dense layers with their activations, from torch modules that run one after the other."""
    extractor = getattr(owner, "pi_features_extractor", None) or owner.features_extractor
    if not isinstance(extractor, FlattenExtractor | CombinedExtractor) or any(True for _ in extractor.parameters()):
        raise ValueError(
            f"The features extractor {type(extractor).__name__} of {name} cannot be exported: only flat inputs can."
        )
    layers: list[Dense] = []
    for module in _flat(modules):
        if isinstance(module, nn.Linear):
            bias = np.zeros(module.out_features, dtype=np.float32) if module.bias is None else _array(module.bias)
            layers.append(Dense(_array(module.weight), bias, ()))
        elif layers and type(module) in ACTIVATIONS and ACTIVATIONS[type(module)].supports(module):
            layers[-1] = replace(layers[-1], activations=(*layers[-1].activations, module))
        else:
            supported = ", ".join(["Linear", *(kind.__name__ for kind in ACTIVATIONS)])
            layer = " ".join(str(module).split())
            raise ValueError(f"The layer {layer} of {name} cannot be exported; these can: {supported}.")
    if [layer.weight.shape[1] for layer in layers] != [extractor.features_dim, *(len(layer.bias) for layer in layers[:-1])]:
        raise ValueError(f"The layers of {name} are no plain chain from the observation on: {name} cannot be exported.")
    return Network(name, tuple(layers))


def _flat(modules: tuple[nn.Module, ...]) -> Iterator[nn.Module]:
    """Modules within modules, in order, without those that do nothing in deployment."""
    for module in modules:
        if isinstance(module, nn.Sequential):
            yield from _flat(tuple(module))
        elif not isinstance(module, nn.Identity | nn.Flatten | nn.Dropout):
            yield module


def _observation_parts(space: gym.Space) -> tuple[ObservationPart, ...]:
    """The parts of an observation, in the order in which SB3 concatenates them."""
    parts: list[ObservationPart] = []
    offset = 0
    for name, part in space.spaces.items() if isinstance(space, spaces.Dict) else [("observation", space)]:
        if not isinstance(part, spaces.Box | spaces.MultiBinary) or is_image_space(part):
            raise ValueError(f"Observations of the space {part} cannot be exported: only vectors of numbers can.")
        size = int(np.prod(part.shape))
        parts.append(ObservationPart(name, tuple(part.shape), offset, size))
        offset += size
    return tuple(parts)


def _normalization(parts: tuple[ObservationPart, ...], env: VecNormalize | None) -> Normalization | None:
    if env is None or not env.norm_obs:
        return None
    size = sum(part.size for part in parts)
    mean, gain, clip = np.zeros(size), np.ones(size), np.full(size, np.finfo(np.float32).max)
    for part in parts:
        statistics: Any = env.obs_rms
        if isinstance(statistics, dict):
            if part.name not in statistics:
                continue
            statistics = statistics[part.name]
        where = slice(part.offset, part.offset + part.size)
        mean[where] = statistics.mean.ravel()
        gain[where] = 1 / np.sqrt(statistics.var.ravel() + env.epsilon)
        clip[where] = env.clip_obs
    return Normalization(*(values.astype(np.float32) for values in (mean, gain, clip)))


def _output(space: gym.Space, policy: Any) -> tuple[str, np.ndarray, np.ndarray]:
    """How outputs become actions, and the bounds of these."""
    if isinstance(space, spaces.Discrete):
        if space.start != 0:
            raise ValueError(f"Actions of the space {space} cannot be exported: they must start at 0.")
        return "argmax", np.zeros(1, dtype=np.float32), np.full(1, space.n - 1, dtype=np.float32)
    if not isinstance(space, spaces.Box):
        raise ValueError(f"Actions of the space {space} cannot be exported: only Box and Discrete can.")
    low, high = (bound.astype(np.float32).ravel() for bound in (space.low, space.high))
    return ("unscale" if policy.squash_output else "clip"), low, high


def _array(parameter: th.Tensor) -> np.ndarray:
    return parameter.detach().cpu().numpy().astype(np.float32)
