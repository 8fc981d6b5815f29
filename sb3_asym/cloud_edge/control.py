"""The control process: it acts in real time and does nothing else. What reads, writes and sends is the courier."""

import gc
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import gymnasium as gym
import numpy as np

from sb3_asym.acting.policy import clock_of
from sb3_asym.cloud_edge.edge_memory import Doing, EdgeMemory, RingFile, bin_of
from sb3_asym.cloud_edge.form import EdgeForm, EdgePolicy
from sb3_asym.cloud_edge.real_time import Deadlines, become_real_time
from sb3_asym.options import NO_OPTION
from sb3_asym.shared_memory import WeightBlock

GREATEST = float(np.finfo(np.float32).max)
POLL = 0.002
"""Seconds between two looks at what an episode waits for."""


@dataclass(frozen=True)
class EdgePlan:
    """
    What the processes of an edge have to know.

    :param form: form of the policies
    :param memory_path: file of policy and state
    :param ring_path: file of the ring
    :param ring_size: greatest number of transitions in it
    :param hz: control steps per second; 0 for as many as there can be
    :param priority: real-time priority; 0 for none
    :param swap: "episode" to take new policies between episodes, "step" to take them at once
    :param on_stale: "hold" to go on with the policy while the learner is silent, "stop" for a safe stop
    :param max_age: time since the learner's last sign of life after which it counts as silent, s
    :param deterministic: whether to act without exploration
    :param seed: seed of the env and of the exploration
    """

    form: EdgeForm
    memory_path: Path
    ring_path: Path
    ring_size: int
    hz: float
    priority: int
    swap: str
    on_stale: str
    max_age: float
    deterministic: bool
    seed: int | None

    def open_memory(self) -> EdgeMemory:
        """
        The policy and the state.

        :return: the shared memory
        """
        return EdgeMemory(self.memory_path, self.form)

    def open_ring(self) -> RingFile:
        """
        The ring.

        :return: the shared memory
        """
        return RingFile(self.ring_path, self.form.spaces, self.ring_size)


class Control:
    """
    Acts on a robot, episode after episode.

    :param plan: what it has to know
    :param env_fn: function that makes the robot's env
    :param is_alone: function that tells whether the process that started this one has died
    """

    def __init__(self, plan: EdgePlan, env_fn: Callable[[], gym.Env], is_alone: Callable[[], bool] = lambda: False):
        self.plan, self._is_alone = plan, is_alone
        self.env = env_fn()
        self._ring_file, self._memory = plan.open_ring(), plan.open_memory()
        self.ring, self.state = self._ring_file.ring, self._memory.state
        self._policy = EdgePolicy(plan.form, self.env.action_space)
        self._acting, self._spare = (WeightBlock.empty_copy(plan.form.n_bytes) for _ in range(2))
        self._block_version = 0
        self._parts = tuple(plan.form.spaces.observations)
        self._is_dict = isinstance(self.env.observation_space, gym.spaces.Dict)
        self._max_age = round(plan.max_age * 1e9)
        life = time.time_ns()
        np.random.seed((life if plan.seed is None else plan.seed) % 2**32)
        self.state["life"], self._seed = life, plan.seed

    def run(self) -> None:
        """Act until the edge ends."""
        state = self.state
        state["is_fifo"] = become_real_time(self.plan.priority)
        try:
            while self._wait_for_episode():
                gc.collect()
                self._run_episode()
            state["doing"] = Doing.ENDED
        finally:  # whatever the env fails with, the robot stops
            try:
                self._safe_stop()
            finally:
                self.env.close()

    @property
    def _has_to_end(self) -> bool:
        return bool(self.state["stop"]) or 0 < self.state["steps_to_do"] <= self.state["steps"] or self._is_alone()

    def _wait_for_episode(self) -> bool:
        """Wait until an episode may start; False where there will be none."""
        while not self._has_to_end:
            self._look_at_age()
            has_room = not self.state["outbox_full"] and len(self.ring) < self.ring.capacity // 2
            is_stopped = self.state["stale"] and self.plan.on_stale == "stop"
            if has_room and not is_stopped and self._swap():
                self.state["doing"] = Doing.ACTING
                return True
            self.state["doing"] = Doing.STOPPED_STALE if is_stopped else Doing.WAITING_FOR_ROOM
            time.sleep(POLL)
        return False

    def _run_episode(self) -> None:
        plan, state, ring, env = self.plan, self.state, self.ring, self.env
        observation, _ = env.reset(seed=self._seed)
        self._seed = None
        if not _is_finite(observation, 0.0, 0.0):
            self._end_at_last_good_step()
            return
        clock: Any = None
        total = 0.0
        deadlines = Deadlines(plan.hz, state)
        deadlines.start()
        done = False
        while not done:
            version, age = self._loaded.version, self._policy_age()
            action, clock = self._policy.act(observation, clock, plan.deterministic)
            deadlines.wait()
            after, reward, terminated, truncated, _ = env.step(action)
            self._look_at_age()
            if not _is_finite(after, action, reward):
                self._end_at_last_good_step()
                return
            state["steps"] += 1
            is_stopped = bool(state["stale"]) and plan.on_stale == "stop"
            is_cut = self._has_to_end or is_stopped or len(ring) >= ring.capacity - 2
            done = bool(terminated or truncated or is_cut)
            option, steps_left = clock_of(clock)
            started = option != NO_OPTION and steps_left == plan.form.weights.agent.option_length - 1
            ended = option != NO_OPTION and (done or steps_left == 0)
            flags = terminated, done and not terminated, option, started, ended
            ring.push((state["life"], version, self._fields(observation), self._fields(after), action, reward, *flags))
            total += float(reward)
            state["policy_age"][bin_of(age)] += 1
            observation = after
            if plan.swap == "step":
                self._swap()
            if is_cut:
                self._safe_stop()
        state["episodes"] += 1
        state["last_return"] = total

    def _end_at_last_good_step(self) -> None:
        """
        End an episode whose step brought numbers that are not finite. As after a crash, the next step has another ``life``,
        from which the courier sees that the last good one ended its episode.
        """
        self.state["life"] += 1
        self.state["bad_steps"] += 1
        self._safe_stop()

    def _swap(self) -> bool:
        """Take the newest policy; False where there is none yet."""
        policies = self._memory.policies
        if policies.version != self._block_version:
            version = policies.try_pull(self._spare)
            if version is None:
                self.state["torn"] += 1
            else:
                self._acting, self._spare = self._spare, self._acting
                self._loaded = self._policy.load(self._acting)
                self._block_version = version
                self.state["swaps"] += 1
                self.state["version"] = self._loaded.version
                self.state["weights_made"] = self._loaded.arrived - self._loaded.transit
        return self._block_version > 0

    def _policy_age(self) -> int:
        """Time since the learner made the policy that acts, ns."""
        return time.monotonic_ns() - int(self.state["weights_made"])

    def _look_at_age(self) -> None:
        """Flag the learner's silence."""
        state = self.state
        stale = time.monotonic_ns() - int(state["news"]) > self._max_age
        if stale and not state["stale"]:
            state["times_stale"] += 1
        state["stale"] = stale

    def _safe_stop(self) -> None:
        stop = getattr(self.env.unwrapped, "safe_stop", None)
        if stop is not None:
            stop()

    def _fields(self, observation: Any) -> tuple:
        return tuple(observation[part] for part in self._parts) if self._is_dict else (observation,)


def _is_finite(observation: Any, action: Any, reward: Any) -> bool:
    parts = observation.values() if isinstance(observation, dict) else (observation,)
    # The reward is kept in float32.
    return abs(float(reward)) <= GREATEST and all(np.isfinite(values).all() for values in (*parts, action))


def check_robot_env(env: gym.Env, plan: EdgePlan) -> None:
    """
    Refuse an env that cannot be run so.

    :param env: the robot's env
    :param plan: what is asked of it
    :raises ValueError: if it has no safe stop where one is asked for
    """
    if plan.on_stale == "stop" and not callable(getattr(env.unwrapped, "safe_stop", None)):
        raise ValueError(
            f'on_stale="stop" needs an env with a method safe_stop(), which {type(env.unwrapped).__name__} has not: '
            'give it one, or choose on_stale="hold".'
        )
