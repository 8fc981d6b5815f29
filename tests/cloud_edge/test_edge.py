"""Robot, edge and learner together, in their real processes."""

import os
import signal
from contextlib import ExitStack
from functools import partial

import gymnasium as gym
import numpy as np
import pytest
from cloud_cases import CountingRobot, LearnerProcess, check_counts, edge_for, make_model, run_while, stored, wait_until
from envs import GoalChainEnv
from link_faults import Broker, needs_server, wait_for
from stable_baselines3 import DDPG, SAC, TD3, HerReplayBuffer

from sb3_asym import AsymSAC
from sb3_asym.cloud_edge import CloudLearner, EdgeRunner, drain
from sb3_asym.cloud_edge.edge import EdgeFailure
from sb3_asym.cloud_edge.heart import read_statuses
from sb3_asym.cloud_edge.link import learner_link
from sb3_asym.cloud_edge.statuses import LearnerStatus, encode_status

N = 3000


@pytest.fixture
def sim(tmp_path):
    make_model(tmp_path / "sim.zip", CountingRobot(tmp_path / "other"))
    return tmp_path / "sim.zip"


def kill(edge, name):
    os.kill(edge.pids[name], signal.SIGKILL)


@pytest.fixture(params=["embedded", pytest.param("broker", marks=needs_server)])
def url(request, tmp_path, monkeypatch):
    """Address of a link."""
    if request.param == "embedded":
        yield str(tmp_path)
        return
    monkeypatch.setenv("XDG_STATE_HOME", str(tmp_path))
    with Broker(tmp_path / "broker") as broker:
        wait_for(learner_link(broker.url))
        yield broker.url


def test_all_transitions_arrive_once_and_policies_are_swapped(tmp_path, sim, url):
    with LearnerProcess(sim, url, N, folder=tmp_path / "cloud") as learner:
        report = edge_for(tmp_path, url=url, kernel="c").run(total_steps=N)
        learner.wait()
    assert report.steps == N
    assert report.kernel == "c"
    assert report.swaps > 1
    batches = stored(tmp_path)
    assert check_counts(batches) == [*range(1, N + 1)]
    versions = np.concatenate([batch.policy_versions for batch in batches])
    assert (np.diff(versions) >= 0).all()
    assert len(np.unique(versions)) > 1
    assert not (tmp_path / "robots" / "robot" / "outbox.sqlite-journal").exists()
    assert drain(url, seconds=0) == 0 or drain(url, seconds=10) == 0


def test_kills(tmp_path, sim):
    """Courier, learner and control are killed in turn; only the steps in flight of control are missing."""
    n_kills = 2
    edge = edge_for(tmp_path, hz=500)
    with LearnerProcess(sim, str(tmp_path), 1 << 30) as learner:

        def kill_all():
            for _ in range(n_kills):
                for name in ("courier", "control"):
                    steps = n_steps()
                    kill(edge, name)
                    wait_until(lambda steps=steps: n_steps() > steps + 100)
                learner.kill()
                learner.start()
                steps = n_steps()
                wait_until(lambda steps=steps: n_steps() > steps + 100)

        def n_steps():
            return int(CountingRobot(tmp_path / "count").counts[0])

        report = run_while(edge, kill_all)
        assert report.restarts == {"control": n_kills, "courier": n_kills}
        assert drain(str(tmp_path), seconds=30) == 0
    counts = check_counts(stored(tmp_path))
    assert len(set(counts)) == len(counts)
    lost = set(range(1, n_steps() + 1)) - set(counts)
    assert len(lost) <= n_kills


def test_silent_learner_is_flagged_and_the_robot_stops_safely(tmp_path, sim):
    edge = edge_for(tmp_path, hz=100, on_stale="stop", max_age=0.5)
    link = learner_link(str(tmp_path))

    def robot():
        return read_statuses(link)[1].get("robot")

    with LearnerProcess(sim, str(tmp_path), 1 << 30) as learner:

        def silence():
            wait_until(lambda: robot() and robot().values["steps"] > 50)
            learner.kill()
            wait_until(lambda: robot().message == "stopped stale")
            assert robot().values["stale"] == 1
            assert robot().policy_age > 0.5
            assert CountingRobot(tmp_path / "count").counts[1] >= 1
            learner.start()
            steps = robot().values["steps"]
            wait_until(lambda: robot().values["steps"] > steps)

        report = run_while(edge, silence)
    assert report.times_stale >= 1


def test_bad_policies_are_refused_and_the_old_one_is_kept(tmp_path, sim):
    learner = CloudLearner.load(sim, str(tmp_path))
    learner._push()
    edge, link = edge_for(tmp_path), learner_link(str(tmp_path))
    good = (tmp_path / "policy").read_bytes()
    first = learner.journal.version
    make_model(tmp_path / "other.zip", CountingRobot(tmp_path / "other"), TD3)
    other = CloudLearner.load(tmp_path / "other.zip", str(tmp_path), folder=tmp_path / "other_cloud")
    torn = bytearray(good)
    torn[len(torn) // 2] ^= 1

    def robot():
        return read_statuses(link)[1].get("robot")

    def publish():
        wait_until(lambda: robot() and robot().values["steps"] > 0)
        for n_refused, frame in enumerate((bytes(torn), good[:-5], b"no frame at all"), start=1):
            link.publish(first + n_refused, frame)
            wait_until(lambda n=n_refused: robot().values["refused"] == n)
        other.journal.version = first + 10
        other._push()
        wait_until(lambda: robot().values["refused"] == 4)
        assert robot().policy_version == first
        learner.journal.version = first + 20
        learner._push()
        wait_until(lambda: robot().policy_version == first + 21)

    report = run_while(edge, publish)
    assert report.refused == 4
    assert report.restarts == {"control": 0, "courier": 0}


def test_options_of_asym_sac_reach_the_lanes(tmp_path):
    env = CountingRobot(tmp_path / "other")
    make_model(tmp_path / "sim.zip", env, AsymSAC, option_length=3, master_kwargs=dict(exploration_initial_eps=1.0))
    with LearnerProcess(tmp_path / "sim.zip", str(tmp_path), 600) as process:
        edge_for(tmp_path).run(total_steps=600)
        process.wait()
    batches = stored(tmp_path, "AsymSAC")
    check_counts(batches)
    options, started, ended, place = (
        np.concatenate(parts)
        for parts in zip(*((b.options, b.started, b.ended, b.observations["observation"][:, 1]) for b in batches), strict=True)
    )
    assert set(options) == {0, 1}
    np.testing.assert_array_equal(started, place % 3 == 0)
    np.testing.assert_array_equal(ended, (place % 3 == 2) | (place == 19))
    learner = CloudLearner.load(tmp_path / "sim.zip", str(tmp_path))
    assert learner.trainer.trained_steps == 600 - learner.trainer.prefill or learner.trainer.trained_steps > 0
    assert learner.model.master._n_updates > 0
    samples = learner.trainer.memory.sample_options(200)
    assert set(samples.actions.flatten().tolist()) == {0, 1}
    assert set(samples.discounts.flatten().tolist()) <= {float(np.float32(0.99**k)) for k in (1, 2, 3)}


@pytest.mark.parametrize("algorithm", [SAC, TD3, DDPG])
def test_exploration_is_the_algorithms(tmp_path, algorithm):
    """Actions at the edge are spread as those of the model's own training."""
    model = make_model(tmp_path / "sim.zip", CountingRobot(tmp_path / "other"), algorithm)
    CloudLearner.load(tmp_path / "sim.zip", str(tmp_path))._push()
    edge_for(tmp_path).run(total_steps=500)
    learner = CloudLearner.load(tmp_path / "sim.zip", str(tmp_path))
    transitions = [batch.transitions for batch in learner.reader.read()]
    actions = np.concatenate([batch.actions for batch in transitions])
    observations = np.concatenate([batch.observations["observation"] for batch in transitions])
    means, _ = model.predict(observations, deterministic=True)
    samples, _ = model.predict(observations, deterministic=False)
    spread = np.std(samples - means) if algorithm is SAC else 0.1 * 2
    assert np.std(actions - means) == pytest.approx(spread, rel=0.3)


@pytest.mark.parametrize(("precision", "kernel", "error"), [("fp32", "onnx", 1e-5), ("int8", "c", 0.1), ("int8", "onnx", 0.1)])
def test_forms_of_the_policy(tmp_path, precision, kernel, error):
    """Ranges of int8 come from the robot's own observations, so they are there from the second policy on."""
    model = make_model(tmp_path / "sim.zip", gym.make("Pendulum-v1"))
    learner = CloudLearner.load(tmp_path / "sim.zip", str(tmp_path))
    learner._push()
    settings = dict(hz=0, priority=0, precision=precision, kernel=kernel, deterministic=True, seed=0)
    edge = EdgeRunner(partial(gym.make, "Pendulum-v1"), str(tmp_path), **settings)

    def push():
        def robot():
            return read_statuses(learner.link)[1]["robot"]

        wait_until(lambda: "robot" in read_statuses(learner.link)[1] and robot().values["steps"] >= 2000)
        learner._push()
        first = robot().policy_version
        wait_until(lambda: robot().policy_version > first)
        steps = robot().values["steps"]
        wait_until(lambda: robot().values["steps"] > steps + 400)

    run_while(edge, push)
    batches = [batch.transitions for batch in learner.reader.read()]
    observations, actions, versions = (
        np.concatenate(parts)
        for parts in zip(*((b.observations["observation"], b.actions, b.policy_versions) for b in batches), strict=True)
    )
    newest = versions == versions.max()
    assert 400 < newest.sum() < len(versions)
    # Beyond the range of the last thousand that the robot had seen by then, int8 clips.
    seen = observations[~newest][-1000:]
    within = newest & ((observations >= seen.min(axis=0)) & (observations <= seen.max(axis=0))).all(axis=1)
    assert within.sum() > 400
    expected, _ = model.predict(observations[within], deterministic=True)
    assert np.abs(actions[within] - expected).max() < error


def test_hindsight_goals(tmp_path):
    her = dict(replay_buffer_class=HerReplayBuffer, buffer_size=10_000, learning_starts=0, batch_size=16)
    SAC("MultiInputPolicy", GoalChainEnv(), policy_kwargs=dict(net_arch=[8]), **her).save(tmp_path / "sim.zip")
    with LearnerProcess(tmp_path / "sim.zip", str(tmp_path), 300, env=GoalChainEnv()) as process:
        edge_for(tmp_path, lambda _: GoalChainEnv()).run(total_steps=300)
        process.wait()
    learner = CloudLearner.load(tmp_path / "sim.zip", str(tmp_path), env=GoalChainEnv())
    assert learner.trainer.trained_steps > 0
    samples = learner.trainer.memory.sample(200)
    goals = samples.next_observations["desired_goal"]
    assert {5.0} < set(goals.flatten().tolist())
    distances = (samples.next_observations["achieved_goal"] - goals).abs()
    np.testing.assert_allclose(samples.rewards, -distances)


def test_an_edge_goes_on_when_its_outbox_has_room_again(tmp_path, sim):
    """No new episode starts while nobody takes what is there; nothing is dropped."""
    CloudLearner.load(sim, str(tmp_path))._push()
    edge, link = edge_for(tmp_path, outbox_bytes=1 << 16), learner_link(str(tmp_path))

    with ExitStack() as learning:

        def fill():
            wait_until(lambda: read_statuses(link)[1].get("robot") and read_statuses(link)[1]["robot"].outbox_full)
            steps = read_statuses(link)[1]["robot"].values["steps"]
            wait_until(lambda: "room" in read_statuses(link)[1]["robot"].message)
            learning.enter_context(LearnerProcess(sim, str(tmp_path), 1 << 30))
            wait_until(lambda: read_statuses(link)[1]["robot"].values["steps"] > steps + 100)

        run_while(edge, fill)  # which ends when all is in the outbox, for which there has to be room
        assert drain(str(tmp_path), seconds=30) == 0
    assert check_counts(stored(tmp_path)) == [*range(1, int(CountingRobot(tmp_path / "count").counts[0]) + 1)]


def test_outbox_full(tmp_path, sim, capfd):
    """No new episode starts while nobody takes what is there; an edge that ends then leaves the rest to the next."""
    CloudLearner.load(sim, str(tmp_path))._push()
    small, link = dict(outbox_bytes=1 << 16), learner_link(str(tmp_path))
    edge = edge_for(tmp_path, partial(CountingRobot, length=4000), **small)  # more than there is room for

    def fill():
        wait_until(lambda: read_statuses(link)[1].get("robot") and read_statuses(link)[1]["robot"].outbox_full)
        wait_until(lambda: "wait to be sent" in read_statuses(link)[1]["robot"].message)

    first = run_while(edge, fill)
    told = capfd.readouterr().out
    assert "no new episode starts" in told
    assert "for the next run: the outbox has no room" in told
    with LearnerProcess(sim, str(tmp_path), 1 << 30):
        second = edge_for(tmp_path, **small).run(total_steps=100)
        assert drain(str(tmp_path), seconds=30) == 0
    assert "of a former run are still in the ring" in capfd.readouterr().out
    assert check_counts(stored(tmp_path)) == [*range(1, first.steps + second.steps + 1)]


def test_an_edge_starts_with_its_last_policy_while_the_cloud_is_away(tmp_path, sim):
    CloudLearner.load(sim, str(tmp_path))._push()
    edge_for(tmp_path).run(total_steps=20)
    (tmp_path / "policy").unlink()
    assert edge_for(tmp_path).run(total_steps=20, wait=5).steps == 20


class Failing(CountingRobot):
    """Its reward is too large for float32 at the hundredth step, and the two hundredth fails."""

    def step(self, action):
        observation, reward, *rest = super().step(action)
        if self.counts[0] == 200:
            raise OSError("The bus is down.")
        return observation, 1e39 if self.counts[0] == 100 else reward, *rest


def test_a_robot_that_fails_stops_safely(tmp_path, sim):
    edge = edge_for(tmp_path, Failing)
    with LearnerProcess(sim, str(tmp_path), 10_000, folder=tmp_path / "cloud"), pytest.raises(EdgeFailure, match="The bus is"):
        edge.run()
    counts = np.fromfile(tmp_path / "count", np.int64)
    assert counts[0] == 200
    assert counts[1] == 2  # after the bad reward, and at the end


def test_clear_messages(tmp_path, sim):
    robot = CountingRobot(tmp_path / "count")
    for kwargs, message in (
        (dict(on_stale="panic"), "on_stale must be 'hold' or 'stop', got 'panic'"),
        (dict(hz=-1), "hz must be"),
        (dict(robot="a/b"), "cannot be a robot's name"),
    ):
        with pytest.raises(ValueError, match=message):
            EdgeRunner(robot.__class__, str(tmp_path), **kwargs)
    with pytest.raises(TimeoutError, match="sb3-asym cloud learn"):
        edge_for(tmp_path).run(wait=0.1)
    CloudLearner.load(sim, str(tmp_path))._push()
    with pytest.raises(ValueError, match="other spaces"):
        EdgeRunner("Pendulum-v1", str(tmp_path)).run(wait=5)
    with pytest.raises(TypeError, match="function that makes one"):
        EdgeRunner(3, str(tmp_path))
    learner_link(str(tmp_path)).beat(encode_status(LearnerStatus(beat=1, time=0.0, policy_version=1, num_timesteps=0)))
