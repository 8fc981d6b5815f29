"""A robot that sends numbered transitions, a learner that checks them, a broker, and what goes wrong between them."""

import multiprocessing
import shutil
import signal
import socket
import subprocess
import time
from pathlib import Path

import numpy as np
import pytest
from gymnasium import spaces

from sb3_asym.cloud_edge.layout import Layout
from sb3_asym.cloud_edge.link import LinkError, learner_link, robot_link
from sb3_asym.cloud_edge.outbox import Outbox
from sb3_asym.cloud_edge.reader import Reader
from sb3_asym.cloud_edge.transitions import Transitions

LAYOUT = Layout.of(spaces.Box(-np.inf, np.inf, (2,), np.float64), spaces.Box(-1, 1, (1,)))
EPISODE = 7
SERVER = shutil.which("redis-server") or shutil.which("valkey-server")
needs_server = pytest.mark.skipif(SERVER is None, reason="needs redis-server or valkey-server: apt-get install redis-server")
PROCESSES = multiprocessing.get_context("forkserver")
PROCESSES.set_forkserver_preload(
    ["sb3_asym.cloud_edge.redis_link", "sb3_asym.cloud_edge.embedded", "sb3_asym.cloud_edge.outbox"]
)


def numbered(first, n):
    """Transitions whose observations tell their number and that of the next one, in episodes of seven."""
    number = np.arange(first, first + n)
    truncated = number % EPISODE == EPISODE - 1
    breaks = truncated.copy()
    breaks[-1] = True
    return Transitions(
        first=first,
        observations={"observation": np.stack([number, np.zeros(n)], axis=1)},
        last_observations={"observation": np.stack([number, np.ones(n)], axis=1)[breaks]},
        actions=(number[:, None] % 2).astype(np.float32),
        rewards=(number % 1000).astype(np.float32),
        terminated=np.zeros(n, dtype=bool),
        truncated=truncated,
        options=(number % 3).astype(np.int8) - 1,
        started=number % 2 == 0,
        ended=number % 2 == 1,
        policy_versions=number // 100,
    )


def send_numbered(url, path, robot, n_transitions, batch_size):
    """A robot's courier: stores and sends transitions until the learner has confirmed them all."""
    outbox, link = Outbox(path, robot, LAYOUT), robot_link(url, robot)
    while outbox.next_transition < n_transitions or outbox.n_batches > 0:
        if outbox.next_transition < n_transitions and not outbox.full:
            n = min(batch_size, n_transitions - outbox.next_transition)
            outbox.append(numbered(outbox.next_transition, n))
        try:
            link.send(outbox.after(link.position()))
            outbox.delete_through(link.confirmed())
        except LinkError:
            time.sleep(0.01)


class Sender:
    """
    The process of a courier that can be killed.

    :param url: address of the link
    :param path: path of its outbox
    :param n_transitions: number of transitions that it sends
    :param batch_size: transitions of a batch
    """

    def __init__(self, url, path, n_transitions, batch_size=20, robot="robot-1"):
        self.arguments = url, path, robot, n_transitions, batch_size
        self.start()

    def start(self):
        self.process = PROCESSES.Process(target=send_numbered, args=self.arguments, daemon=True)
        self.process.start()

    def kill(self):
        """Kill it at whatever it does, and start it again."""
        self.process.kill()
        self.process.join()
        self.start()


class Learner:
    """
    A learner whose checkpoint is a list of the transitions' numbers, with the cursors.

    :param url: address of the link
    :param every: number of reads between checkpoints
    """

    def __init__(self, url, every=5):
        self.url, self.every = url, every
        self.numbers, self.n_reads, self.n_duplicates = [], 0, 0
        self.checkpoint, self.reader = (0, {}), None
        self.restart()

    def restart(self):
        """Forget all that is not in the checkpoint."""
        if self.reader is not None:
            self.n_duplicates += self.reader.n_duplicates
        n, cursors = self.checkpoint
        del self.numbers[n:]
        self.link = learner_link(self.url)
        self.reader = Reader(self.link, LAYOUT, cursors)

    kill = restart

    def step(self):
        """Read, and now and then write a checkpoint."""
        try:
            batches = self.reader.read()
            for batch in batches:
                self.numbers += check_numbered(batch.transitions)
            self.n_reads += 1
            if self.n_reads % self.every == 0:
                self.checkpoint = len(self.numbers), dict(self.reader.cursors)
                self.reader.confirm()
        except LinkError:
            batches = []
        if not batches:
            time.sleep(0.005)

    def run_until(self, n):
        """
        Learn until there are so many transitions.

        :param n: number of transitions
        """
        end = time.monotonic() + 120
        while len(self.numbers) < n:
            self.step()
            assert time.monotonic() < end, f"only {len(self.numbers)} of {n} transitions came in two minutes"


def check_numbered(transitions):
    """The numbers of transitions, after a check that all their parts belong together."""
    expected = numbered(transitions.first, len(transitions))
    for name, value in vars(expected).items():
        np.testing.assert_equal(getattr(transitions, name), value)
    after = transitions.next_observations()["observation"]
    numbers = transitions.observations["observation"][:, 0]
    np.testing.assert_array_equal(after[:, 0] - after[:, 1], numbers + 1 - 2 * after[:, 1])
    return numbers.astype(int).tolist()


class Broker:
    """
    A broker of its own that can be killed.

    :param folder: folder for its files
    :param options: its options, in the notation of the command line
    :param configuration: path of its configuration, or None
    """

    def __init__(self, folder: Path, *options, configuration=None):
        self.port, self.folder = free_port(), folder
        self.url = f"redis://127.0.0.1:{self.port}"
        folder.mkdir(parents=True, exist_ok=True)
        own = ["--port", str(self.port), "--dir", str(folder), "--appendonly", "yes", "--save", ""]
        self.command = [SERVER, *([str(configuration)] if configuration else own), *options]
        self.start()

    def start(self):
        self.process = subprocess.Popen(self.command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)

    def stop(self, how=signal.SIGKILL):
        self.process.send_signal(how)
        self.process.wait()

    def kill(self):
        """Kill it at whatever it does, and start it again."""
        self.stop()
        self.start()

    def __enter__(self):
        return self

    def __exit__(self, *_):
        self.stop()


def wait_for(link):
    """Wait until a broker answers."""
    end = time.monotonic() + 20
    while True:
        try:
            return link.learner()
        except LinkError:
            assert time.monotonic() < end, "the broker does not answer"
            time.sleep(0.01)


def free_port():
    """A port at which nobody listens."""
    with socket.socket() as server:
        server.bind(("127.0.0.1", 0))
        return server.getsockname()[1]
