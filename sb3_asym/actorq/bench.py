"""How many steps an actor makes per second of processor time, by kernel and precision."""

import statistics
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from functools import partial
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import gymnasium as gym
import numpy as np
import torch as th
from stable_baselines3 import DQN, SAC
from stable_baselines3.common.off_policy_algorithm import OffPolicyAlgorithm

from sb3_asym.acting.kernels import choose_kernel
from sb3_asym.acting.networks import LOOK_EVERY, Packer, acting_form
from sb3_asym.actorq.actor import PARTS, Actor, make_form
from sb3_asym.shared_memory import WeightBlock
from sb3_asym.text_table import text_table

CONTENDERS = (("c", "int8"), ("c", "fp32"), ("c", "fp16"), ("onnx", "fp32"), ("torch", "fp32"))
"""Kernels and precisions that are compared."""
N_PACKINGS = 16


@dataclass(frozen=True)
class ActorSpeed:
    """
    Speed of an actor with one kernel and precision.

    :param kernel: kernel
    :param precision: precision
    :param steps_per_cpu_second: env steps per second of processor time in each round
    :param inference_us: time of the policy per step, µs, median of the rounds
    :param env_us: time of the env per step, µs, median of the rounds
    :param pull_and_load: share of an actor's time for new weights, median of the rounds
    :param pack_ms: processor time for the conversion of the model's policy, ms, mean
    :param publish_ms: processor time for writing it into shared memory, ms, median
    """

    kernel: str
    precision: str
    steps_per_cpu_second: list[float]
    inference_us: float
    env_us: float
    pull_and_load: float
    pack_ms: float
    publish_ms: float

    @property
    def median(self) -> float:
        """Median of the env steps per second of processor time."""
        return statistics.median(self.steps_per_cpu_second)


@dataclass(frozen=True)
class ActorBench:
    """
    Speed of actors, measured side by side.

    :param env: id of the env
    :param net_arch: hidden layers of the policy
    :param pull_every: env steps between two pulls
    :param rows: speed by kernel and precision
    """

    env: str
    net_arch: list[int]
    pull_every: int
    rows: list[ActorSpeed]

    def to_dict(self) -> dict[str, Any]:
        """
        The report as plain data.

        :return: values by name
        """
        return asdict(self)

    def __str__(self) -> str:
        header = ["kernel", "precision", "steps per CPU s", "÷ torch fp32", "policy µs", "env µs", "pull + load", "pack ms"]
        base = next((row.median for row in self.rows if (row.kernel, row.precision) == ("torch", "fp32")), float("nan"))
        rows = [
            [
                row.kernel,
                row.precision,
                f"{row.median:,.0f}",
                f"{row.median / base:.2f}",
                f"{row.inference_us:.1f}",
                f"{row.env_us:.1f}",
                f"{row.pull_and_load:.2%}",
                f"{row.pack_ms + row.publish_ms:.1f}",
            ]
            for row in self.rows
        ]
        title = f"{self.env}, hidden layers {'-'.join(map(str, self.net_arch))}, new weights every {self.pull_every} steps\n"
        return title + text_table(header, rows, n_left=2)


def bench_actors(
    env_id: str,
    net_arch: Sequence[int] = (2048, 2048, 2048),
    n_rounds: int = 5,
    n_steps: int = 1000,
    pull_every: int = 1000,
    make_env: Callable[[str], gym.Env] = gym.make,
    on_round: Callable[[], Any] = lambda: None,
) -> ActorBench:
    """
    Measure actors in this process, on one thread, in rounds that alternate between them.

    :param env_id: Gymnasium id of the env
    :param net_arch: hidden layers of the policy, SAC's or, for discrete actions, DQN's
    :param n_rounds: number of rounds, of which the medians are reported
    :param n_steps: env steps of each contender in a round
    :param pull_every: env steps between two pulls of new weights
    :param make_env: function that makes the env
    :param on_round: called after each contender's round
    :return: the speeds; contenders whose library is missing are left out
    """
    model = _model(make_env(env_id), list(net_arch))
    contenders = []
    with one_thread(), tempfile.TemporaryDirectory() as folder:
        for i, (kernel, precision) in enumerate(CONTENDERS):
            if kernel == "onnx" and not (find_spec("onnx") and find_spec("onnxruntime")):
                continue
            if kernel == "c" and choose_kernel("fp32")[0] != "c":
                continue
            (Path(folder) / str(i)).mkdir()
            contenders.append(
                _Contender(model, kernel, precision, partial(make_env, env_id), Path(folder) / str(i), pull_every)
            )
        for _ in range(n_rounds):
            for contender in contenders:
                contender.run(n_steps)
                on_round()
        return ActorBench(env_id, list(net_arch), pull_every, [contender.speed() for contender in contenders])


class _Contender:
    """An actor with its block of weights, and what was measured of it."""

    def __init__(
        self,
        model: OffPolicyAlgorithm,
        kernel: str,
        precision: str,
        env_fn: Callable[[], gym.Env],
        folder: Path,
        pull_every: int,
    ):
        self.kernel, self.precision, self._pull_every = kernel, precision, pull_every
        packer, observations = Packer(precision, LOOK_EVERY), _observations(env_fn())
        self._form = make_form(model, kernel, precision, pull_every)
        layout = self._form.layout
        self._weights = WeightBlock(bytearray(WeightBlock.size(layout.n_bytes)), layout.n_bytes)
        self._copy = WeightBlock.empty_copy(layout.n_bytes)
        self._pack_ms: list[float] = []
        self._publish_ms: list[float] = []
        for _ in range(N_PACKINGS):
            start = time.process_time()
            packed = packer.pack(acting_form(model)[0], observations)
            packed_at = time.process_time()
            self._weights.publish(partial(layout.write, packed, 0.0))
            self._pack_ms.append(1e3 * (packed_at - start))
            self._publish_ms.append(1e3 * (time.process_time() - packed_at))
        self._packed = packed
        self.actor = Actor(self._form, env_fn, 0, 0, 0, folder)
        self._rounds: list[float] = []
        self._parts: list[np.ndarray] = []

    def run(self, n_steps: int) -> None:
        """One round, with new weights at its start."""
        self.actor.spent[:] = 0
        seconds = 0.0
        for first in range(0, n_steps, self._pull_every):
            self._weights.publish(partial(self._form.layout.write, self._packed, 0.0))
            start = time.process_time()
            pulled = time.perf_counter_ns()
            version = self._weights.pull(self._copy)
            self.actor.spend("pull", pulled)
            self.actor.load(self._copy, version)
            for _ in range(min(self._pull_every, n_steps - first)):
                self.actor.step()
            seconds += time.process_time() - start
        self._rounds.append(n_steps / seconds)
        self._parts.append(np.append(self.actor.spent, n_steps))

    def speed(self) -> ActorSpeed:
        """What was measured."""
        parts = np.array(self._parts, dtype=np.float64)
        of = {part: parts[:, i] for i, part in enumerate(PARTS)}
        share = (of["pull"] + of["load"]) / parts[:, : len(PARTS)].sum(1)
        return ActorSpeed(
            kernel=self.kernel,
            precision=self.precision,
            steps_per_cpu_second=self._rounds,
            inference_us=float(np.median(of["inference"] / parts[:, -1]) / 1e3),
            env_us=float(np.median(of["env"] / parts[:, -1]) / 1e3),
            pull_and_load=float(np.median(share)),
            pack_ms=statistics.mean(self._pack_ms),
            publish_ms=statistics.median(self._publish_ms),
        )


@contextmanager
def one_thread() -> Iterator[None]:
    """Torch on one thread, as in an actor."""
    n_threads = th.get_num_threads()
    th.set_num_threads(1)
    try:
        yield
    finally:
        th.set_num_threads(n_threads)


def _model(env: gym.Env, net_arch: list[int]) -> OffPolicyAlgorithm:
    if isinstance(env.action_space, gym.spaces.Discrete):
        return DQN("MlpPolicy", env, buffer_size=1, policy_kwargs={"net_arch": net_arch}, device="cpu", seed=0)
    arch = {"pi": net_arch, "qf": [8]}
    return SAC("MlpPolicy", env, buffer_size=1, policy_kwargs={"net_arch": arch}, device="cpu", seed=0)


def _observations(env: gym.Env, n_steps: int = 1000) -> np.ndarray:
    """Observations of random actions."""
    env.action_space.seed(0)
    found = [env.reset(seed=0)[0]]
    for _ in range(n_steps - 1):
        observation, _, terminated, truncated, _ = env.step(env.action_space.sample())
        found.append(env.reset()[0] if terminated or truncated else observation)
    return np.array(found, dtype=np.float32)
