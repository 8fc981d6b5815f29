"""A simulated robot in a process of its own, which goes on in real time whether or not anybody commands it."""

import mmap
import multiprocessing
import os
import signal
import tempfile
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import cloudpickle
import gymnasium as gym
import numpy as np

from sb3_asym.cloud_edge.layout import Layout
from sb3_asym.envs import make_env
from sb3_asym.shared_memory import WeightBlock, aligned

COMMANDS = np.dtype([("reset", np.int64), ("seed", np.int64), ("stop", np.int64), ("close", np.int64)])
RESET_TIMEOUT = 120.0
POLL = 0.001


class RobotProcess(gym.Env):
    """
    An env that runs in real time in another process, as a robot does: ``step`` writes a command, reads the newest sensors
    and returns at once. Between two commands the last one holds.

    :param env: Gymnasium id of the env, or function that makes it; its observations and actions are vectors
    :param hz: steps of the env per second
    :param kwargs: arguments of the env, where an id is given
    :raises ValueError: if its observations are a Dict, or ``hz`` is not above 0
    """

    def __init__(self, env: str | Callable[[], gym.Env], hz: float = 50, **kwargs: Any):
        if hz <= 0:
            raise ValueError(f"hz must be above 0 steps per second, got {hz}.")
        env_fn = partial(make_env, env, **kwargs) if isinstance(env, str) else env
        template = env_fn()
        self.observation_space, self.action_space = template.observation_space, template.action_space
        template.close()
        spaces = Layout.of(self.observation_space, self.action_space)
        if [*spaces.observations] != ["observation"]:
            raise ValueError(f"RobotProcess needs vectors as observations, got the space {self.observation_space}.")
        self._sample = _sample_type(spaces)
        shared = "/dev/shm" if Path("/dev/shm").is_dir() else None
        self._folder = tempfile.TemporaryDirectory(prefix="sb3-asym-robot-", dir=shared)
        path = Path(self._folder.name) / "robot"
        path.write_bytes(bytes(_size(spaces)))
        self._commands, self._action, self._sensors, self._map = _open(path, spaces)
        self._copy = WeightBlock.empty_copy(self._sample.itemsize)
        context = multiprocessing.get_context("spawn")
        arguments = (str(path), spaces, cloudpickle.dumps(env_fn), hz, os.getpid())
        self._process = context.Process(target=_run, args=arguments, name="robot")
        self._process.start()
        self._episode = 0

    def reset(self, *, seed: int | None = None, options: dict | None = None) -> tuple[np.ndarray, dict]:
        """Start an episode, and wait until the robot has."""
        super().reset(seed=seed)
        self._commands["seed"] = -1 if seed is None else seed
        self._commands["stop"] = 0
        self._episode += 1
        self._commands["reset"] = self._episode
        given_up = time.monotonic() + RESET_TIMEOUT
        while self._sensors.version == 0 or (sample := self._read())["episode"] != self._episode:
            if not self._process.is_alive() or time.monotonic() > given_up:
                raise RuntimeError(f"The robot process does not reset (exit code {self._process.exitcode}).")
            time.sleep(POLL)
        return sample["observation"].copy(), {}

    def step(self, action: np.ndarray) -> tuple[np.ndarray, float, bool, bool, dict[str, Any]]:
        """Command the robot, and read its sensors."""
        if not self._process.is_alive():
            raise RuntimeError(f"The robot process has ended (exit code {self._process.exitcode}).")
        self._action[:] = action
        sample = self._read()
        ends = bool(sample["terminated"]), bool(sample["truncated"])
        return sample["observation"].copy(), float(sample["reward"]), *ends, {"robot_steps": int(sample["step"])}

    def safe_stop(self) -> None:
        """Let the robot stop by itself."""
        self._commands["stop"] = 1

    def close(self) -> None:
        """End the robot's process."""
        if self._process.is_alive():
            self._commands["close"] = 1
            self._process.join(5)
            if self._process.is_alive():
                self._process.kill()
        self._folder.cleanup()

    def _read(self) -> np.void:
        self._sensors.pull(self._copy)
        return self._copy[: self._sample.itemsize].view(self._sample)[0]


def _sample_type(spaces: Layout) -> np.dtype:
    dtype, shape = spaces.observations["observation"]
    return np.dtype(
        [
            ("episode", np.int64),
            ("step", np.int64),
            ("reward", np.float64),
            ("terminated", np.bool_),
            ("truncated", np.bool_),
            ("observation", dtype, shape),
        ]
    )


def _size(spaces: Layout) -> int:
    action = np.dtype(spaces.action[0]).itemsize * int(np.prod(spaces.action[1]))
    return aligned(COMMANDS.itemsize) + aligned(action) + WeightBlock.size(_sample_type(spaces).itemsize)


def _open(path: Path, spaces: Layout) -> tuple[np.void, np.ndarray, WeightBlock, mmap.mmap]:
    with open(path, "r+b") as file:
        memory = mmap.mmap(file.fileno(), 0)
    commands = np.frombuffer(memory, dtype=COMMANDS, count=1)[0]
    dtype, shape = np.dtype(spaces.action[0]), spaces.action[1]
    start = aligned(COMMANDS.itemsize)
    n = int(np.prod(shape))
    action = np.frombuffer(memory, dtype=dtype, count=n, offset=start).reshape(shape)
    sensors = WeightBlock(memoryview(memory)[start + aligned(dtype.itemsize * n) :], _sample_type(spaces).itemsize)
    return commands, action, sensors, memory


def _run(path: str, spaces: Layout, pickled: bytes, hz: float, parent: int) -> None:
    """The process of the robot."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    env = cloudpickle.loads(pickled)()
    commands, action, sensors, _memory = _open(Path(path), spaces)
    sample = np.zeros(1, dtype=_sample_type(spaces))
    row = sample[0]
    period, deadline = 1 / hz, time.monotonic()

    def write(block: np.ndarray) -> None:
        block[: sample.nbytes] = sample.view(np.uint8)

    while not commands["close"] and os.getppid() == parent:
        if commands["reset"] != row["episode"]:
            episode, seed = int(commands["reset"]), int(commands["seed"])
            action[...] = 0
            row["observation"], _ = env.reset(seed=None if seed < 0 else seed)
            row["episode"], row["reward"], row["terminated"], row["truncated"] = episode, 0.0, False, False
            sensors.publish(write)
            deadline = time.monotonic()
        elif row["episode"] and not (row["terminated"] or row["truncated"]):
            command = np.zeros_like(action) if commands["stop"] else action.copy()
            row["observation"], row["reward"], row["terminated"], row["truncated"], _ = env.step(command)
            row["step"] += 1
            sensors.publish(write)
        deadline = max(deadline + period, time.monotonic() - period)
        time.sleep(max(deadline - time.monotonic(), 0))
    env.close()
    os._exit(0)
