"""Adaptation to unseen dynamics as fast as possible: the learner and what acts at the edge in one process, with the real
code of both; the link between them is emulated in env steps. For ``cloud_edge.py``."""

import tempfile
import time
from collections import deque
from collections.abc import Iterator
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any

import gymnasium as gym
import numpy as np
from stable_baselines3 import SAC
from stable_baselines3.common.vec_env import DummyVecEnv

from sb3_asym.cloud_edge import make_robot, pretrain
from sb3_asym.cloud_edge.form import EdgeForm, EdgePolicy
from sb3_asym.cloud_edge.layout import Layout
from sb3_asym.cloud_edge.policy_frames import encode_policy
from sb3_asym.cloud_edge.trainer import Trainer
from sb3_asym.cloud_edge.transitions import Transitions
from sb3_asym.deployment.recording import SampledObservations
from sb3_asym.options import NO_OPTION
from sb3_asym.shared_memory import WeightBlock

N_EPISODES = 10
N_CURVE_EPISODES = 3
N_POINTS = 10
MODEL: dict[str, Any] = dict(learning_rate=1e-3, policy_kwargs=dict(net_arch=[64, 64]), learning_starts=1000)


@dataclass(frozen=True)
class Task:
    """
    A task, and dynamics on which no agent was trained.

    :param env: Gymnasium id
    :param hz: control steps per second
    :param history: number of last actions in an observation
    :param pretraining: env steps in simulation
    :param gamma: discount factor
    :param unseen: arguments of the env, by name
    """

    env: str
    hz: float
    history: int
    pretraining: int
    gamma: float
    unseen: dict[str, dict[str, float]]


TASKS = {
    "pendulum": Task(
        "ChangedPendulum-v0",
        hz=20,
        history=3,
        pretraining=15_000,
        gamma=0.98,
        unseen={
            "mass 1.5": dict(mass=1.5),
            "length 1.3": dict(length=1.3),
            "delay 2": dict(delay=2),
            "mass 1.4, friction 0.1, delay 1": dict(mass=1.4, friction=0.1, delay=1),
        },
    ),
    "cart-pole": Task(
        "CartPoleSwingUp-v0",
        hz=50,
        history=5,
        pretraining=40_000,
        gamma=0.98,
        unseen={
            "friction 12": dict(friction=12.0),
            "friction 16": dict(friction=16.0),
            "Coulomb friction 2": dict(coulomb_friction=2.0),
            "friction 10, delay 20 ms, pole 0.35 kg": dict(friction=10.0, delay=0.02, pole_mass=0.35),
        },
    ),
}


@dataclass(frozen=True)
class Run:
    """
    One agent on unseen dynamics.

    :param task: name of the task
    :param dynamics: name of the dynamics
    :param changes: arguments of the env
    :param agent: "going on", "frozen" or "from nothing"
    :param seed: seed
    :param steps: env steps
    :param push_period: time between two policies, s
    :param latency: time from one side of the link to the other, s
    :param bandwidth: bytes per second
    :param prefill: env steps before the first gradient step
    :param freeze_actor: env steps after that for which only critics learn
    """

    task: str
    dynamics: str
    changes: dict[str, float] = field(hash=False)
    agent: str
    seed: int
    steps: int
    push_period: float = 1.0
    latency: float = 0.05
    bandwidth: float = 1e6
    prefill: int = 1000
    freeze_actor: int = 0

    def __str__(self) -> str:
        link = f"push {self.push_period:g} s, latency {self.latency:g} s, {self.bandwidth:g} B/s"
        critic_first = f"prefill {self.prefill}, freeze {self.freeze_actor}"
        return f"{self.task}; {self.dynamics}; {self.agent}; {link}; {critic_first}; {self.steps} steps; seed {self.seed}"


def adapt_runs(task: str, n_seeds: int, steps: int) -> Iterator[Run]:
    """Each agent on each unseen dynamics."""
    for seed in range(n_seeds):
        for dynamics, changes in TASKS[task].unseen.items():
            for agent in ("frozen", "going on", "from nothing"):
                yield Run(task, dynamics, changes, agent, seed, steps)


def parameter_runs(task: str, n_seeds: int, steps: int) -> Iterator[Run]:
    """The going-on agent with one parameter changed at a time."""
    name, changes = list(TASKS[task].unseen.items())[-1]
    for seed in range(n_seeds):
        base = Run(task, name, changes, "going on", seed, steps)
        yield base
        yield from (replace(base, push_period=value) for value in (0.2, 5.0, 20.0))
        yield from (replace(base, latency=value) for value in (0.5, 5.0))
        yield from (replace(base, bandwidth=value) for value in (1e4, 2e3))
        yield from (replace(base, prefill=value) for value in (200, 4000))
        yield from (replace(base, freeze_actor=value) for value in (1000, 4000))
        frictions = (0.0, 10.0, 12.0, 16.0) if task == "cart-pole" else (0.05, 0.1, 0.2)
        for value in frictions:
            yield replace(base, dynamics=f"friction {value:g} only", changes=dict(friction=value))


def run_of(run: Run, folder: Path) -> dict[str, Any]:
    """Learn, and evaluate on the way and at the end."""
    task = TASKS[run.task]
    start = time.monotonic()
    path = agent_from_simulation(task, run.task, run.seed, folder)
    robot, twin = (make_robot(task.env, task.history, **run.changes) for _ in range(2))
    np.random.seed(run.seed)
    vec_env = DummyVecEnv([lambda: SampledObservations(robot)])
    if run.agent == "from nothing":
        model = SAC("MlpPolicy", vec_env, gamma=task.gamma, seed=run.seed, **MODEL)
    else:
        model = SAC.load(path, env=vec_env, seed=run.seed)
    model._setup_learn(run.steps)  # counters and logger, as in learn
    prefill = MODEL["learning_starts"] if run.agent == "from nothing" else run.prefill
    loop = Loop(run, task, Trainer(model, 1.0, prefill, run.freeze_actor), robot)
    steps = 0 if run.agent == "frozen" else run.steps
    curve = [(0, float(np.mean(loop.evaluate(twin, N_CURVE_EPISODES))))]
    for step in range(1, steps + 1):
        loop.step()
        if step % (run.steps // N_POINTS) == 0:
            curve.append((step, float(np.mean(loop.evaluate(twin, N_CURVE_EPISODES)))))
    returns = loop.evaluate(twin, N_EPISODES)
    return {
        **asdict(run),
        "mean_reward": float(np.mean(returns)),
        "std_reward": float(np.std(returns)),
        "random_reward": float(np.mean(random_returns(twin, run.seed))),
        "curve": curve,
        "seconds": time.monotonic() - start,
    }


class Loop:
    """A robot that acts with policies that come late, and a learner whose transitions come late."""

    def __init__(self, run: Run, task: Task, trainer: Trainer, robot: gym.Env):
        self.run, self.trainer, self.robot = run, trainer, robot
        self.hz = task.hz
        self.layout = Layout.of(robot.observation_space, robot.action_space)
        self._folder = tempfile.TemporaryDirectory()
        first = trainer.policy(1, 0.0)
        self.form = EdgeForm.of(first, self.layout, Path(self._folder.name), "fp32", None)
        self.policy = EdgePolicy(self.form, robot.action_space)
        self.blocks = [WeightBlock.empty_copy(self.form.n_bytes) for _ in range(2)]
        self.on_the_way: deque[tuple[float, Any]] = deque()
        self.coming: deque[tuple[float, Transitions]] = deque()
        self.time, self.version, self.next_push = 0.0, 0, 0.0
        self.observation, _ = robot.reset(seed=run.seed)
        self._push()
        self._take(self.on_the_way.popleft()[1])

    def step(self) -> None:
        """One control step, and what the learner does meanwhile."""
        run = self.run
        random = run.agent == "from nothing" and self.n_steps < MODEL["learning_starts"]
        action = self.robot.action_space.sample() if random else self.policy.act(self.observation, None)[0]
        after, reward, terminated, truncated, _ = self.robot.step(action)
        transitions = one_transition(self.n_steps, self.observation, after, action, reward, terminated, truncated)
        self.coming.append((self.time + run.latency, transitions))
        self.observation = self.robot.reset()[0] if terminated or truncated else after
        self.time += 1 / self.hz
        while self.coming and self.coming[0][0] <= self.time:
            self.trainer.add("robot", self.coming.popleft()[1], run.steps)
        while self.trainer.train_due():
            pass
        if self.time >= self.next_push:
            self._push()
        while self.on_the_way and self.on_the_way[0][0] <= self.time:
            self._take(self.on_the_way.popleft()[1])

    @property
    def n_steps(self) -> int:
        """Control steps until now."""
        return round(self.time * self.hz)

    def evaluate(self, env: gym.Env, n_episodes: int) -> list[float]:
        """Returns of the learner's present policy, without exploration."""
        model = self.trainer.model
        returns = []
        for episode in range(n_episodes):
            observation, _ = env.reset(seed=10_000 + episode)
            total, done = 0.0, False
            while not done:
                action, _ = model.predict(observation, deterministic=True)
                observation, reward, terminated, truncated, _ = env.step(action)
                total, done = total + float(reward), terminated or truncated
            returns.append(total)
        return returns

    def _push(self) -> None:
        self.version += 1
        policy = self.trainer.policy(self.version, self.time)
        seconds = len(encode_policy(policy, self.layout)) / self.run.bandwidth
        self.on_the_way.append((self.time + self.run.latency + seconds, policy))
        # A policy that is still on its way holds up the next one.
        self.next_push = self.time + max(self.run.push_period, seconds)

    def _take(self, policy: Any) -> None:
        block = self.blocks[policy.version % 2]
        self.form.write(block, policy, policy.agent, 0, 0)
        self.policy.load(block)


def agent_from_simulation(task: Task, name: str, seed: int, folder: Path) -> Path:
    """An agent that was trained on the dynamics of the simulation, made where it is missing."""
    path = folder / f"{name}_{seed}.zip"
    if not path.exists():
        new = path.with_suffix(".new.zip")
        pretrain(task.env, task.pretraining, new, history=task.history, seed=seed, gamma=task.gamma, **MODEL)
        new.replace(path)
    return path


def one_transition(number: int, observation: Any, after: Any, action: Any, reward: Any, *flags: bool) -> Transitions:
    """A batch of one transition, as the courier makes it."""
    none, no = np.full(1, NO_OPTION, dtype=np.int8), np.zeros(1, dtype=bool)
    return Transitions(
        first=number,
        observations={"observation": observation[None]},
        last_observations={"observation": after[None]},
        actions=action[None],
        rewards=np.array([reward], dtype=np.float32),
        terminated=np.array(flags[:1]),
        truncated=np.array([flags[1] and not flags[0]]),
        options=none,
        started=no,
        ended=no,
        policy_versions=np.zeros(1, dtype=np.int64),
    )


def random_returns(env: gym.Env, seed: int) -> list[float]:
    """Returns of random actions."""
    env.action_space.seed(seed)
    returns = []
    for episode in range(N_EPISODES):
        env.reset(seed=20_000 + episode)
        total, done = 0.0, False
        while not done:
            _, reward, terminated, truncated, _ = env.step(env.action_space.sample())
            total, done = total + float(reward), terminated or truncated
        returns.append(total)
    return returns
