"""The edge: a robot acts in real time, and what it sees is carried to the cloud."""

import multiprocessing
import os
import signal
import sys
import tempfile
import time
from collections.abc import Callable
from contextlib import suppress
from functools import partial
from hashlib import sha256
from multiprocessing.connection import Connection
from multiprocessing.process import BaseProcess
from pathlib import Path
from typing import Any

import cloudpickle
import gymnasium as gym
import torch as th

from sb3_asym.cloud_edge.control import Control, EdgePlan, check_robot_env
from sb3_asym.cloud_edge.courier import RETRY_AFTER, SEND_AT_LAST, Address, Courier, Sender, first_policy
from sb3_asym.cloud_edge.edge_memory import EdgeMemory, RingFile
from sb3_asym.cloud_edge.form import EdgeForm
from sb3_asym.cloud_edge.frames import Gate
from sb3_asym.cloud_edge.layout import Layout
from sb3_asym.cloud_edge.link import LinkError, outbox_path, robot_link
from sb3_asym.cloud_edge.outbox import Outbox, OutboxFull
from sb3_asym.cloud_edge.policy_frames import Policy
from sb3_asym.cloud_edge.report import EdgeReport
from sb3_asym.envs import make_env

RING_SECONDS = 40.0
RING_SIZE_WITHOUT_RATE = 4096
MAX_IDLE_DEATHS = 3
"""Deaths of a process in a row without a step in between after which it is not started any more."""
POLL = 0.02


class EdgeFailure(RuntimeError):
    """A process of the edge failed by an error of its own, or died again and again."""


RobotEnv = gym.Env | Callable[[], gym.Env] | str


class EdgeRunner:
    """
    Runs a robot with the policies that a :class:`sb3_asym.cloud_edge.CloudLearner` publishes, and sends it all transitions.

    Two processes do the work. *Control* acts at absolute deadlines, with real-time priority where the system allows it, and
    does nothing else. *Courier* stores transitions on disk until the learner has them in its checkpoint, and fetches policies.
    Either may die at any time: it is started anew, and nothing is lost but the step in flight.

    :param robot_env: the robot: a Gymnasium env whose ``step`` returns at once (command out, sensors in), a function that
        makes it, or a Gymnasium id. A function is called here once, for the spaces, and again in the control process, which
        may open devices then.
    :param url: address of the link: a folder on this machine, or that of a broker, see
        :func:`sb3_asym.cloud_edge.link.robot_link`
    :param hz: control steps per second; 0 for as many as there can be, in simulation
    :param robot: name of the robot, unlike those of others on the link
    :param on_stale: what to do while the learner is silent: "hold" to go on with the last policy, or "stop" to call
        ``env.unwrapped.safe_stop()`` and wait; the silence is flagged and counted in both cases
    :param max_age: time since the learner's last sign of life after which it counts as silent, s; it gives four a second
    :param swap: "episode" to take new policies between episodes, "step" to take them at once
    :param precision: precision of the networks, "fp32", "fp16" or "int8"
    :param kernel: what runs them: "c" (compiled once; weights are swapped by pointer), "onnx" or "torch"; by default the
        first that this machine has
    :param deterministic: whether to act without exploration; by default the agent explores as in training: samples of the
        Gaussian for SAC and AsymSAC, whose master is ε-greedy too, and the action noise for TD3 and DDPG
    :param priority: real-time priority of control (SCHED_FIFO), 1 to 99; 0 for none
    :param outbox_bytes: greatest size of the transitions on disk; when it is full, no new episode starts
    :param seed: seed of env and exploration
    :raises ValueError: if an argument is out of range
    """

    def __init__(
        self,
        robot_env: RobotEnv,
        url: str,
        hz: float = 50,
        robot: str = "robot",
        on_stale: str = "hold",
        max_age: float = 1.0,
        swap: str = "episode",
        precision: str = "fp32",
        kernel: str | None = None,
        deterministic: bool = False,
        priority: int = 50,
        outbox_bytes: int = 1 << 30,
        seed: int | None = None,
    ):
        for name, value, known in (("on_stale", on_stale, ("hold", "stop")), ("swap", swap, ("episode", "step"))):
            if value not in known:
                raise ValueError(f"{name} must be {' or '.join(map(repr, known))}, got {value!r}.")
        if not 0 <= hz <= 1000:
            raise ValueError(f"hz must be from above 0 to 1000 steps per second, or 0 without deadlines, got {hz}.")
        if max_age <= 0 or not 0 <= priority <= 99 or outbox_bytes < 1 << 16:
            raise ValueError("max_age must be above 0 s, priority 0 to 99, and outbox_bytes at least 65536.")
        self._pickled = _pickle(robot_env)
        self._address = Address(url, robot, outbox_path(url, robot), outbox_bytes)
        robot_link(url, robot).close()
        self._options = dict(
            hz=float(hz),
            priority=priority,
            swap=swap,
            on_stale=on_stale,
            max_age=max_age,
            deterministic=deterministic,
            seed=seed,
        )
        self._precision, self._kernel = precision, kernel
        self._context = multiprocessing.get_context("forkserver" if sys.platform == "linux" else "spawn")
        if sys.platform == "linux":
            self._context.set_forkserver_preload(["sb3_asym.cloud_edge.edge"])
        self._processes: dict[str, tuple[BaseProcess, Connection]] = {}
        self.n_restarts = {"control": 0, "courier": 0}
        self._stopping = False

    @property
    def pids(self) -> dict[str, int]:
        """Process ids of control and courier, while they run."""
        return {name: int(process.pid or 0) for name, (process, _) in self._processes.items()}

    def stop(self) -> None:
        """End :meth:`run`, from another thread or a signal."""
        self._stopping = True

    def run(self, total_steps: int | None = None, seconds: float | None = None, wait: float | None = None) -> EdgeReport:
        """
        Run the robot, until it is stopped (Ctrl-C, SIGTERM, :meth:`stop`) or for a number of steps or seconds.

        :param total_steps: control steps of this run, or None
        :param seconds: seconds from the first step on, or None
        :param wait: seconds to wait for the first policy; by default as long as it takes
        :return: what happened
        :raises ValueError: if the learner's policy does not fit the robot
        :raises TimeoutError: if there is no policy in time
        :raises EdgeFailure: if a process fails by an error of its own, or dies again and again
        """
        self._stopping = False
        previous = {number: _handle(number, self.stop) for number in (signal.SIGINT, signal.SIGTERM)}
        shared = Path("/dev/shm") if Path("/dev/shm").is_dir() else self._address.outbox.parent
        shared.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(prefix="sb3-asym-edge-", dir=shared) as folder:
            try:
                plan = self._plan(shared, Path(folder), wait)
                return EdgeReport() if plan is None else self._supervise(plan, total_steps, seconds)
            finally:
                for number, handler in previous.items():
                    if handler is not None:
                        signal.signal(number, handler)

    def _plan(self, shared: Path, folder: Path, wait: float | None) -> EdgePlan | None:
        """What the processes have to know, once there is a policy; None where the edge is stopped before."""
        env = _unpickle(self._pickled)()
        try:
            spaces = Layout.of(env.observation_space, env.action_space)
            policy = self._wait_for_policy(spaces, wait)
            if policy is None:
                return None
            form = EdgeForm.of(policy, spaces, folder, self._precision, self._kernel)
            hz: Any = self._options["hz"]
            ring_size = round(RING_SECONDS * hz) if hz else RING_SIZE_WITHOUT_RATE
            ring_size = max(ring_size, 64)
            names = f"{self._address.outbox.resolve()} {spaces.fingerprint} {ring_size}"
            ring_path = shared / f"sb3-asym-ring-{sha256(names.encode()).hexdigest()[:16]}"
            plan = EdgePlan(form, folder / "memory", ring_path, ring_size, **self._options)  # type: ignore[arg-type]
            check_robot_env(env, plan)
        finally:
            env.close()
        outbox = self._address.open_outbox(spaces)
        n_left = RingFile.prepare(ring_path, spaces, ring_size, outbox.next_transition)
        outbox.close()
        if n_left:
            self._say(f"{n_left} transitions of a former run are still in the ring.")
        EdgeMemory.create(plan.memory_path, form).state["news"] = time.monotonic_ns()
        Courier(plan, self._address).take(policy)
        return plan

    def _wait_for_policy(self, spaces: Layout, wait: float | None) -> Policy | None:
        address = self._address
        link, gate = robot_link(address.url, address.robot), Gate()
        given_up = None if wait is None else time.monotonic() + wait
        told = False
        try:
            while not self._stopping:
                policy = first_policy(link, spaces, address.policy_file, gate)
                if policy is not None:
                    return policy
                if given_up is not None and time.monotonic() > given_up:
                    raise TimeoutError(f"There is no policy at {address.url} after {wait:g} s: start `sb3-asym cloud learn`.")
                if not told:
                    self._say(f"waiting for a policy at {address.url} …")
                    told = True
                time.sleep(0.2)
        finally:
            link.close()
        return None

    def _supervise(self, plan: EdgePlan, total_steps: int | None, seconds: float | None) -> EdgeReport:
        memory = plan.open_memory()
        state = memory.state
        state["steps_to_do"] = total_steps or 0
        started, first_step = time.time(), None
        idle_deaths, steps_at_death = dict.fromkeys(self.n_restarts, 0), dict.fromkeys(self.n_restarts, 0)
        told: set[str] = set()
        for name in ("courier", "control"):
            self._start(name, plan)
        try:
            while not state["control_gone"]:
                time.sleep(POLL)
                if first_step is None and state["steps"] > 0:
                    first_step = time.monotonic()
                is_over = seconds is not None and first_step is not None and time.monotonic() > first_step + seconds
                state["stop"] = self._stopping or is_over
                told = self._tell(state, told)
                for name, (process, errors) in list(self._processes.items()):
                    if process.is_alive():
                        continue
                    _raise_failure(name, errors)
                    if name == "control" and process.exitcode == 0:
                        state["control_gone"] = 1
                        continue
                    moved = int(state["steps"]) > steps_at_death[name]
                    idle_deaths[name] = 1 if moved else idle_deaths[name] + 1
                    steps_at_death[name] = int(state["steps"])
                    if idle_deaths[name] >= MAX_IDLE_DEATHS:
                        raise EdgeFailure(
                            f"The {name} process died {MAX_IDLE_DEATHS} times without a step (exit code {process.exitcode}): "
                            "look at its output above."
                        )
                    self._say(f"{name} died (exit code {process.exitcode}) and is started anew.")
                    self.n_restarts[name] += 1
                    self._start(name, plan)
            self._processes["courier"][0].join()
            _raise_failure("courier", self._processes["courier"][1])
        finally:
            state["stop"] = state["control_gone"] = 1
            for process, errors in self._processes.values():
                process.join(10)
                if process.is_alive():
                    process.kill()
                    process.join()
                errors.close()
            self._processes = {}
        outbox = Outbox(self._address.outbox, self._address.robot, None)
        report = EdgeReport.of(state, plan, time.time() - started, dict(self.n_restarts), outbox.n_batches)
        outbox.close()
        n_left = len(plan.open_ring().ring)
        if n_left:
            self._say(f"{n_left} transitions stay in {plan.ring_path}, in memory, for the next run: the outbox has no room.")
        else:
            plan.ring_path.unlink(missing_ok=True)
        return report

    def _start(self, name: str, plan: EdgePlan) -> None:
        if name in self._processes:
            self._processes[name][1].close()
        errors, send = self._context.Pipe(duplex=False)
        what = self._pickled if name == "control" else self._address
        process = self._context.Process(target=_run, args=(name, plan, what, send), name=f"edge-{name}")  # type: ignore[attr-defined]
        process.start()
        send.close()
        self._processes[name] = process, errors

    def _tell(self, state: Any, told: set[str]) -> set[str]:
        """Print what a person should know when it begins and when it ends."""
        now = set()
        if state["stale"] and state["steps"] > 0:
            now.add("the learner is silent; " + ("stopped." if self._options["on_stale"] == "stop" else "the policy is held."))
        if state["outbox_full"]:
            now.add("the outbox is full; no new episode starts until the learner has confirmed what is in it.")
        for message in sorted(now - told):
            self._say(message)
        for message in sorted(told - now):
            self._say(f"over: {message}")
        return now

    def _say(self, message: str) -> None:
        print(f"{self._address.robot}: {message}", flush=True)


def drain(url: str, robot: str = "robot", seconds: float | None = None) -> int:
    """
    Send what is left in a robot's outbox, without running the robot.

    :param url: address of the link
    :param robot: name of the robot
    :param seconds: time after which to give up; by default as long as it takes
    :return: number of batches that the learner has not confirmed yet
    :raises OutboxError: if there is no outbox
    """
    outbox = Outbox(outbox_path(url, robot), robot, None)
    link = robot_link(url, robot)
    sender = Sender(outbox, link)
    given_up = None if seconds is None else time.monotonic() + seconds
    try:
        while outbox.n_batches and (given_up is None or time.monotonic() < given_up):
            n_sent, left = 0, SEND_AT_LAST if given_up is None else given_up - time.monotonic()
            try:
                n_sent = sender.send(min(left, SEND_AT_LAST))
                with suppress(OutboxFull):  # deleting takes room too
                    sender.forget_confirmed()
            except LinkError:
                sender.doubt()
            if outbox.n_batches and not n_sent:
                time.sleep(RETRY_AFTER)
        return outbox.n_batches
    finally:
        link.close()
        outbox.close()


def _run(name: str, plan: EdgePlan, what: Any, errors: Connection) -> None:
    """The process of control or courier."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C ends the supervisor, and that the others
    signal.signal(signal.SIGTERM, signal.SIG_IGN)
    th.set_num_threads(1)
    parent = multiprocessing.parent_process()
    assert parent is not None
    code = 0
    try:
        if name == "control":
            Control(plan, _unpickle(what), lambda: not parent.is_alive()).run()
        else:
            Courier(plan, what).run(lambda: not parent.is_alive())
    except Exception as error:
        code = 1
        with suppress(OSError):
            errors.send((type(error).__name__, str(error)))
    sys.stdout.flush()
    os._exit(code)  # views of the shared memory still exist, which its own clean-up would complain of


def _raise_failure(name: str, errors: Connection) -> None:
    """Raise the error by which a process ended, if there was one."""
    with suppress(EOFError, OSError):
        if errors.poll():
            kind, message = errors.recv()
            known = {"ValueError": ValueError, "TypeError": TypeError}.get(kind, EdgeFailure)
            raise known(f"The {name} process failed: {message if known is not EdgeFailure else f'{kind}: {message}'}")


def _pickle(robot_env: RobotEnv) -> bytes:
    """The robot's env in a form that another process takes."""
    if isinstance(robot_env, str):
        robot_env = partial(make_env, robot_env)
    if not isinstance(robot_env, gym.Env) and not callable(robot_env):
        raise TypeError(f"robot_env must be a Gymnasium env, a function that makes one, or an id, got {robot_env!r}.")
    try:
        return cloudpickle.dumps(robot_env)
    except Exception as error:  # whatever the env holds
        raise TypeError(
            f"The robot's env cannot be handed to the control process ({error}): pass a function that makes it instead."
        ) from error


def _unpickle(pickled: bytes) -> Callable[[], gym.Env]:
    robot_env = cloudpickle.loads(pickled)
    return (lambda: robot_env) if isinstance(robot_env, gym.Env) else robot_env


def _handle(number: int, stop: Callable[[], None]) -> Any:
    """Let a signal stop the edge; None where that can only be done by the main thread, which this is not."""
    try:
        return signal.signal(number, lambda *_: stop())
    except ValueError:
        return None
