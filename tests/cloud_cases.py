"""A robot whose observations count its steps, a learner in a process of its own, and what arrived there."""

import mmap
import multiprocessing
import threading
import time
from functools import partial

import gymnasium as gym
import numpy as np
from gymnasium import spaces
from stable_baselines3 import SAC

from sb3_asym import AsymSAC
from sb3_asym.cloud_edge import CloudLearner, EdgeRunner
from sb3_asym.cloud_edge.journal import Journal
from sb3_asym.cloud_edge.layout import Layout

PROCESSES = multiprocessing.get_context("forkserver")
PROCESSES.set_forkserver_preload(["cloud_cases"])
EPISODE = 20


class CountingRobot(gym.Env):
    """
    Observes how many steps were made on it, by all processes since it was built.

    :param path: file with the count
    :param length: steps of an episode
    """

    observation_space = spaces.Box(-np.inf, np.inf, (2,), np.float64)
    action_space = spaces.Box(-2.0, 2.0, (1,))

    def __init__(self, path, length=EPISODE):
        self.length = length
        if not path.exists():
            path.write_bytes(bytes(16))
        with open(path, "r+b") as file:
            self.memory = mmap.mmap(file.fileno(), 16)
        self.counts = np.frombuffer(self.memory, np.int64)
        self.bad_step = None

    def reset(self, *, seed=None, options=None):
        super().reset(seed=seed)
        self.steps = 0
        return self._observation(), {}

    def step(self, action):
        assert self.action_space.contains(action)
        self.counts[0] += 1
        self.steps += 1
        observation = self._observation()
        if self.counts[0] == self.bad_step:
            observation[1] = np.nan
        return observation, float(self.counts[0] % 1000), False, self.steps >= self.length, {}

    def safe_stop(self):
        self.counts[1] += 1

    def _observation(self):
        return np.array([self.counts[0], self.steps], dtype=np.float64)


def make_model(path, env, algorithm=SAC, **kwargs):
    """A tiny agent, untrained, as it may come from simulation."""
    nets = dict(sub_net_archs=dict(small=[4], large=[8])) if algorithm is AsymSAC else dict(net_arch=[8])
    arguments = dict(batch_size=16, learning_starts=0, buffer_size=100_000, policy_kwargs=nets, seed=0)
    model = algorithm("MlpPolicy", env, **{**arguments, **kwargs})
    model.save(path)
    return model


def learn(path, url, total, kwargs):
    """A learner, which may be killed."""
    learner = CloudLearner.load(path, url, **kwargs)
    learner.learn(total)
    learner.close()


class LearnerProcess:
    """
    A learner in a process of its own.

    :param path: agent from simulation
    :param url: address of the link
    :param total: transitions to learn from
    """

    def __init__(self, path, url, total, **kwargs):
        arguments = dict(ratio=0.01, prefill=32, push_period=0.05, checkpoint_period=0.5)
        self.arguments = path, url, total, {**arguments, **kwargs}
        self.start()

    def start(self):
        self.process = PROCESSES.Process(target=learn, args=self.arguments, daemon=True)
        self.process.start()

    def kill(self):
        self.process.kill()
        self.process.join()

    def wait(self):
        self.process.join(300)
        assert self.process.exitcode == 0

    def __enter__(self):
        return self

    def __exit__(self, *_):
        self.process.kill()


def run_while(edge, function, **kwargs):
    """Run an edge, and a function beside it once the robot acts; the edge ends when the function does."""
    failures = []

    def beside():
        try:
            while "control" not in edge.pids:
                time.sleep(0.01)
            function()
        except BaseException as error:
            failures.append(error)
        finally:
            edge.stop()

    thread = threading.Thread(target=beside)
    thread.start()
    report = edge.run(**kwargs)
    thread.join()
    if failures:
        raise failures[0]
    return report


def edge_for(tmp_path, robot=CountingRobot, url=None, **kwargs):
    """An edge for a counting robot, on one machine where no other link is named."""
    arguments = dict(hz=0, priority=0, kernel="torch", seed=0)
    return EdgeRunner(partial(robot, tmp_path / "count"), url or str(tmp_path), **{**arguments, **kwargs})


def stored(tmp_path, algorithm="SAC", env_class=CountingRobot):
    """The batches in a learner's checkpoint."""
    layout = Layout.of(env_class.observation_space, env_class.action_space)
    journal = Journal(tmp_path / "cloud" / "journal.sqlite", layout, algorithm, 100_000)
    batches = [batch.transitions for batch in journal.batches()]
    journal.close()
    return batches


def check_counts(batches):
    """The counts of the robot in the transitions, after a check that each transition is of one piece."""
    counts = []
    first = 0
    for batch in batches:
        assert batch.first == first
        first += len(batch)
        before, after = batch.observations["observation"], batch.next_observations()["observation"]
        np.testing.assert_array_equal(after - before, 1.0)
        np.testing.assert_array_equal(batch.rewards, after[:, 0] % 1000)
        # An episode goes on in the next row unless it has ended.
        np.testing.assert_array_equal((before[1:, 1] == 0) | (after[:-1, 0] != before[1:, 0]), batch.truncated[:-1])
        counts += after[:, 0].astype(int).tolist()
    return counts


def wait_until(condition, seconds=120.0):
    """Wait until something is true."""
    end = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < end, "it does not happen"
        time.sleep(0.01)
