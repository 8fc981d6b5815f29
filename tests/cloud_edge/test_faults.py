"""Processes are killed at any moment, and every transition arrives once."""

import pytest
from link_faults import Broker, Learner, Sender, needs_server


def run(url, path, n_transitions, n_kills, *others):
    """Kill sender, learner and others in turn while transitions pass, and return what arrived."""
    learner = Learner(url)
    sender = Sender(url, path, n_transitions)
    victims = [sender, learner, *others]
    try:
        for i in range(n_kills * len(victims)):
            learner.run_until((i + 1) * n_transitions // (n_kills * len(victims) + 1))
            victims[i % len(victims)].kill()
        learner.run_until(n_transitions)
        while sender.process.is_alive():
            learner.step()
        assert sender.process.exitcode == 0
    finally:
        sender.process.kill()
    return learner.numbers


def test_kills_on_one_machine(tmp_path):
    assert run(tmp_path, tmp_path / "robots/robot-1/outbox.sqlite", 3000, 4) == [*range(3000)]


@needs_server
@pytest.mark.parametrize("fsync", ["always", "everysec"])
def test_kills_with_a_broker(tmp_path, fsync):
    with Broker(tmp_path / "broker", "--appendfsync", fsync) as broker:
        assert run(broker.url, tmp_path / "outbox.sqlite", 3000, 4, broker) == [*range(3000)]
