"""What the edge's processes have to know of the policies that will come, and how a policy lies in shared memory."""

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import gymnasium as gym
import numpy as np

from sb3_asym.acting.kernels import choose_kernel, compile_kernel, kernel_source, make_kernel
from sb3_asym.acting.networks import Layout as WeightLayout
from sb3_asym.acting.networks import Packer
from sb3_asym.acting.policy import ActingPolicy
from sb3_asym.cloud_edge.frames import FrameError
from sb3_asym.cloud_edge.layout import Layout
from sb3_asym.cloud_edge.policy_frames import Policy
from sb3_asym.deployment.agent import DeployableAgent
from sb3_asym.deployment.recording import env_action
from sb3_asym.options import OptionState
from sb3_asym.shared_memory import CACHE_LINE

ALGORITHMS = ("AsymSAC", "SAC", "TD3", "DDPG")
"""Algorithms whose agents go on learning in the cloud."""
UNKNOWN_RANGE = 10.0
"""Greatest absolute value of an observation that int8 assumes while there are none yet."""
HEADER = np.dtype([("version", np.int64), ("arrived", np.int64), ("transit", np.int64), ("action_noise", np.float64)])


@dataclass(frozen=True)
class Loaded:
    """
    What lies beside the weights of a policy.

    :param version: version of the policy
    :param arrived: when it came to the edge, monotonic clock, ns
    :param transit: time from its making to its arrival by the clocks of both machines, at least 0, ns
    :param action_noise: standard deviation of the noise on actions in [-1, 1]
    """

    version: int
    arrived: int
    transit: int
    action_noise: float


@dataclass(frozen=True)
class EdgeForm:
    """
    The form that all policies of a run have; their numbers are swapped.

    :param weights: layout of the numbers of a policy
    :param signature: algorithm, sizes and activations
    :param is_gaussian: whether sub-policies put out means and log standard deviations
    :param kernel: what runs the networks, "c", "onnx" or "torch"
    :param precision: "fp32", "fp16" or "int8"
    :param library: compiled networks, for the kernel "c"
    :param spaces: types and shapes of observations and actions
    """

    weights: WeightLayout
    signature: tuple
    is_gaussian: bool
    kernel: str
    precision: str
    library: Path | None
    spaces: Layout

    @classmethod
    def of(cls, policy: Policy, spaces: Layout, folder: Path, precision: str, kernel: str | None) -> "EdgeForm":
        """
        The form of a policy, whose networks are compiled once, here.

        :param policy: the first policy
        :param spaces: types and shapes of observations and actions
        :param folder: folder for the compiled networks
        :param precision: "fp32", "fp16" or "int8"
        :param kernel: "c", "onnx" or "torch"; None for the fastest that this machine has
        :return: the form
        :raises ValueError: if the policy is of an algorithm that cannot explore here
        """
        if policy.agent.algorithm not in ALGORITHMS:
            raise ValueError(f"Agents of {policy.agent.algorithm} cannot explore here: {', '.join(ALGORITHMS)} can.")
        name, precision = choose_kernel(precision, kernel)
        packed = Packer(precision).pack(policy.agent, unknown_observations(spaces))
        weights = WeightLayout(packed)
        library = compile_kernel(kernel_source(packed, weights), folder) if name == "c" else None
        return cls(weights, signature(policy), policy.is_gaussian, name, precision, library, spaces)

    @property
    def n_bytes(self) -> int:
        """Bytes of a policy in shared memory."""
        return CACHE_LINE + self.weights.n_bytes

    def check(self, policy: Policy) -> None:
        """
        Refuse a policy of another form.

        :param policy: the policy
        :raises FrameError: if its algorithm, sizes or activations differ
        """
        found = signature(policy)
        if found != self.signature:
            changed = [f"{new} instead of {old}" for new, old in zip(found, self.signature, strict=True) if new != old]
            raise FrameError(
                "shape",
                f"Policy {policy.version} has another form ({'; '.join(changed)}): start the edge anew to take another agent.",
            )

    def write(self, block: np.ndarray, policy: Policy, packed: DeployableAgent, arrived: int, transit: int) -> None:
        """
        Write a policy into shared memory.

        :param block: memory of :attr:`n_bytes` bytes, uint8
        :param policy: the policy
        :param packed: its networks in the precision of the edge
        :param arrived: when it came, monotonic clock, ns
        :param transit: how long it was on its way, ns
        """
        header = block[: HEADER.itemsize].view(HEADER)
        header[0] = policy.version, arrived, transit, policy.action_noise
        self.weights.write(packed, policy.exploration_rate, block[CACHE_LINE:])


class EdgePolicy:
    """
    A policy that acts at the edge.

    :param form: form of the policies
    :param action_space: action space of the robot
    """

    def __init__(self, form: EdgeForm, action_space: gym.Space):
        self._form, self._action_space = form, action_space
        self._acting = ActingPolicy(form.weights, make_kernel(form.kernel, form.weights, form.library), form.is_gaussian)

    def load(self, block: np.ndarray) -> Loaded:
        """
        Take a policy from memory.

        :param block: memory that :meth:`EdgeForm.write` wrote, which stays as it is until the next one is loaded
        :return: what lies beside its weights
        """
        self._acting.load(block[CACHE_LINE : CACHE_LINE + self._form.weights.n_bytes])
        self._loaded = Loaded(*block[: HEADER.itemsize].view(HEADER)[0].item())
        return self._loaded

    def act(self, observation: Any, clock: OptionState | None, deterministic: bool = False) -> tuple[Any, OptionState | None]:
        """
        An action, with the exploration that the agent has in training.

        :param observation: a single observation, as the env returns it
        :param clock: state of the option clock, or None where an episode starts
        :param deterministic: whether to act without exploration
        :return: action of the env, and the state of the option clock
        """
        acting = self._acting
        x = acting.inputs(observation)
        scaled, clock = acting.exploit(x, clock) if deterministic else acting.explore(x, clock)
        if self._loaded.action_noise > 0 and not deterministic:
            noise = np.random.normal(0.0, self._loaded.action_noise, len(scaled)).astype(np.float32)
            scaled = np.clip(scaled + noise, -1, 1)
        return env_action(self._action_space, acting.agent.as_actions(scaled[None])[0]), clock


def signature(policy: Policy) -> tuple:
    """
    What must not change while the edge runs.

    :param policy: a policy
    :return: algorithm, option length, kinds of output and input, and sizes and activations of each network
    """
    agent = policy.agent
    networks = []
    for network in agent.networks:
        layers = [(layer.weight.shape, *(str(module) for module in layer.activations)) for layer in network.layers]
        networks.append((network.name, *layers))
    normalized = "normalized observations" if agent.normalization is not None else "observations as they are"
    return agent.algorithm, f"option length {agent.option_length}", policy.is_gaussian, normalized, tuple(networks)


def unknown_observations(spaces: Layout) -> np.ndarray:
    """
    Two observations between which int8 expects all others while there are none.

    :param spaces: types and shapes of observations
    :return: ``(2, obs_dim)`` float32
    """
    size = sum(int(np.prod(shape)) for _, shape in spaces.observations.values())
    return np.stack([np.full(size, -UNKNOWN_RANGE), np.full(size, UNKNOWN_RANGE)]).astype(np.float32)


def record_type(spaces: Layout) -> np.dtype:
    """
    The type of a transition in the ring.

    :param spaces: types and shapes of observations and actions
    :return: structured type; ``life`` tells the starts of the control process apart
    """
    observation: Any = [(key, dtype, shape) for key, (dtype, shape) in spaces.observations.items()]
    return np.dtype(
        [
            ("sequence", np.uint64),
            ("life", np.uint64),
            ("version", np.int64),
            ("observation", observation),
            ("next_observation", observation),
            ("action", *spaces.action),
            ("reward", np.float32),
            ("terminated", np.bool_),
            ("truncated", np.bool_),
            ("option", np.int8),
            ("started", np.bool_),
            ("ended", np.bool_),
            ("checksum", np.uint32),
        ]
    )
