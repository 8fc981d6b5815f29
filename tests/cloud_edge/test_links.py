"""What each link does for robot and learner, on one machine and with a real broker, and what the broker refuses."""

import shutil
import signal

import numpy as np
import pytest
import redis
from frame_fuzz import LAYOUT, valid_frames
from link_faults import Broker, Learner, needs_server, numbered, wait_for

from sb3_asym.cloud_edge.broker import write_broker
from sb3_asym.cloud_edge.emulation import EmulatedLink
from sb3_asym.cloud_edge.frames import POLICY, FrameError
from sb3_asym.cloud_edge.link import AccessError, LinkError, learner_link, outbox_path, robot_link
from sb3_asym.cloud_edge.outbox import Outbox
from sb3_asym.cloud_edge.policy_frames import decode_policy
from sb3_asym.cloud_edge.reader import Reader
from sb3_asym.cloud_edge.redis_link import RedisRobotLink


@pytest.fixture(scope="module")
def broker(tmp_path_factory):
    """A broker without TLS."""
    with Broker(tmp_path_factory.mktemp("broker"), "--maxmemory", "24mb", "--maxmemory-policy", "noeviction") as broker:
        wait_for(learner_link(broker.url))
        yield broker


@pytest.fixture(scope="module")
def secured(tmp_path_factory):
    """A broker with TLS and rights for two robots; its address for each user, and its folder."""
    folder = tmp_path_factory.mktemp("secured")
    configuration = write_broker(folder, ["robot-1", "robot-2"], "127.0.0.1", bind="127.0.0.1", max_memory="64mb")
    with Broker(folder / "data", "--port", "0", configuration=configuration) as broker:
        broker.stop()
        broker.command += ["--tls-port", str(broker.port)]
        broker.start()
        urls = {
            user: f"rediss://127.0.0.1:{broker.port}?keys={folder}/keys/{user}" for user in ("learner", "robot-1", "robot-2")
        }
        wait_for(learner_link(urls["learner"]))
        yield urls, folder, broker


@pytest.fixture(params=["folder", pytest.param("redis", marks=needs_server), pytest.param("rediss", marks=needs_server)])
def links(request, tmp_path):
    """Both sides of a link and the robot's outbox."""
    if request.param == "folder":
        robot, learner = (str(tmp_path),) * 2
    elif request.param == "redis":
        robot, learner = (request.getfixturevalue("broker").url,) * 2
        redis.Redis.from_url(robot).flushall()
    else:
        urls = request.getfixturevalue("secured")[0]
        robot, learner = urls["robot-1"], urls["learner"]
    name = "robot-1"
    path = outbox_path(robot, name) if request.param == "folder" else tmp_path / "outbox.sqlite"
    return robot_link(robot, name), learner_link(learner), Outbox(path, name, LAYOUT)


def test_what_passes_a_link(links):
    robot, learner, outbox = links
    frames = valid_frames()
    assert (robot.policy(-1), robot.confirmed(), robot.position(), robot.learner()) == (None,) * 4
    for _ in range(5):
        outbox.append(numbered(outbox.next_transition, 20))
    robot.send(outbox.after(robot.position()))
    assert robot.position() == outbox.last
    assert outbox.after(robot.position()) == []
    reader = Reader(learner, LAYOUT)
    assert [batch.number.seq for batch in reader.read(2)] == [1, 2]
    reader.confirm()
    assert [batch.number.seq for batch in reader.read()] == [3, 4, 5]
    assert reader.read() == []
    outbox.delete_through(robot.confirmed())
    assert outbox.n_batches == 3
    restarted = Reader(
        learner, LAYOUT, {"robot-1": reader.cursors["robot-1"]._replace(number=robot.confirmed(), next_transition=40)}
    )
    assert [batch.number.seq for batch in restarted.read()] == [3, 4, 5]

    learner.publish(3, frames[POLICY])
    assert [robot.policy(version) for version in (-1, 2, 3, 4)] == [frames[POLICY]] * 2 + [None] * 2
    robot.report(b"status")
    learner.beat(b"beat")
    assert (learner.statuses(), robot.learner(), learner.learner()) == ({"robot-1": b"status"}, b"beat", b"beat")
    robot.close()
    learner.close()


def test_torn_policy_is_refused_once(tmp_path):
    robot, learner = robot_link(tmp_path, "r"), learner_link(tmp_path)
    frame = valid_frames()[POLICY]
    learner.publish(3, frame)
    assert robot.policy(-1) == frame
    (tmp_path / "policy").write_bytes(frame[: len(frame) // 2])
    with pytest.raises(FrameError, match="bytes"):
        decode_policy(robot.policy(3), LAYOUT)
    assert robot.policy(3) is None
    learner.publish(4, frame)
    assert robot.policy(2) == frame


def test_bad_addresses_and_names(tmp_path):
    with pytest.raises(ValueError, match="use rediss://"):
        robot_link("redis://example.org:6379", "r")
    with pytest.raises(ValueError, match="is no link"):
        learner_link("http://example.org")
    with pytest.raises(ValueError, match="robot's name"):
        robot_link(tmp_path, "a:b")
    with pytest.raises(ValueError, match="needs a file 'password'"):
        learner_link(f"rediss://localhost?keys={tmp_path}")


def test_emulated_link_takes_its_time(tmp_path):
    now, outbox = [0.0], Outbox(outbox_path(tmp_path, "r"), "r", LAYOUT)
    waits = []

    def sleep(seconds):
        waits.append(seconds)
        now[0] += seconds

    below, learner = robot_link(tmp_path, "r"), learner_link(tmp_path)
    link = EmulatedLink(below, latency=0.05, up=1000, down=2000, outages=[(10, 20)], clock=lambda: now[0], sleep=sleep)
    outbox.append(numbered(0, 20))
    assert link.send(outbox.after(None)) == 1
    assert waits == pytest.approx([0.05 + outbox.n_bytes / 1000, 0.05])
    frame = valid_frames()[POLICY]
    learner.publish(3, frame)
    assert link.policy(-1) == frame
    assert waits[2:] == pytest.approx([0.05, 0.05 + len(frame) / 2000])
    now[0] = 15
    with pytest.raises(LinkError, match="down"):
        link.report(b"status")
    now[0] = 20
    link.report(b"status")
    assert learner.statuses() == {"r": b"status"}


@needs_server
def test_full_broker_leaves_no_hole(broker, tmp_path):
    redis.Redis.from_url(broker.url).flushall()
    outbox, robot = Outbox(tmp_path / "outbox.sqlite", "r", LAYOUT), robot_link(broker.url, "r")

    def send_one():
        outbox.append(numbered(outbox.next_transition, 20_000))
        return robot.send(outbox.after(robot.position()))

    with pytest.raises(LinkError, match="memory is full"):
        sum(iter(send_one, 0))
    assert outbox.n_batches == outbox.last.seq > 5
    with pytest.raises(LinkError, match="ask for the position"):
        robot.send(outbox.after(None))
    learner = Learner(broker.url, every=1)
    while len(learner.numbers) < outbox.next_transition:
        learner.step()
        outbox.delete_through(robot.confirmed())
        robot.send(outbox.after(robot.position(), max_batches=2))
    assert learner.numbers == [*range(outbox.next_transition)]


@needs_server
@pytest.mark.parametrize("seed", range(3))
def test_a_broker_that_forgets_gets_it_again(broker, tmp_path, seed):
    """As after a power cut: streams and cursors are as they were some time ago, or gone."""
    rng = np.random.default_rng(seed)
    admin = redis.Redis.from_url(broker.url)
    admin.flushall()
    outbox, robot, learner = (
        Outbox(tmp_path / "outbox.sqlite", "r", LAYOUT),
        robot_link(broker.url, "r"),
        Learner(broker.url, 3),
    )
    former = {}
    while outbox.next_transition < 1500 or len(learner.numbers) < 1500:
        event = rng.integers(8)
        if event == 0:
            former = {key: admin.dump(key) for key in admin.scan_iter()}
        elif event == 1:
            admin.flushall()
            for key, value in former.items():
                admin.restore(key, 0, value)
            admin.client_kill_filter(_type="normal", skipme=True)
        elif event == 2:
            admin.flushall()  # nobody is told
        elif event < 5 and outbox.next_transition < 1500:
            outbox.append(numbered(outbox.next_transition, 20))
        try:
            robot.send(outbox.after(robot.position(), max_batches=int(rng.integers(1, 5))))
            outbox.delete_through(robot.confirmed())
        except LinkError:
            pass
        learner.step()
    assert learner.numbers == [*range(1500)]


@needs_server
def test_strangers_are_refused(secured):
    _, folder, broker = secured
    robot_keys = folder / "keys/robot-1"
    plain = redis.Redis(port=broker.port, socket_timeout=2)
    with pytest.raises(redis.exceptions.ConnectionError):
        plain.ping()
    address = f"rediss://127.0.0.1:{broker.port}"
    without_password = (
        f"{address}?ssl_ca_certs={robot_keys}/ca.crt&ssl_certfile={robot_keys}/client.crt&ssl_keyfile={robot_keys}/client.key"
    )
    with pytest.raises(AccessError):
        robot_link(without_password, "robot-1").position()
    with pytest.raises(AccessError):  # the certificate is right, the password is another's
        robot_link(
            without_password.replace("://", f"://robot-1:{(folder / 'keys/robot-2/password').read_text()}@"), "robot-1"
        ).position()
    password = (robot_keys / "password").read_text()
    with pytest.raises(LinkError):  # no certificate of its own
        robot_link(
            f"{address.replace('://', f'://robot-1:{password}@')}?ssl_ca_certs={robot_keys}/ca.crt", "robot-1"
        ).position()
    with pytest.raises(AccessError, match="certificate"):  # the broker's is signed by nobody we know
        robot_link(f"{address.replace('://', f'://robot-1:{password}@')}", "robot-1").position()


@needs_server
def test_a_robot_has_no_rights_but_its_own(secured):
    urls = secured[0]
    learner_link(urls["learner"]).publish(1, b"policy")
    client = RedisRobotLink(urls["robot-1"], "robot-1").client
    own, others = "sb3-asym:batches:robot-1", "sb3-asym:batches:robot-2"
    forbidden = [
        ("HSET", "sb3-asym:policy", "version", 9),
        ("SET", "sb3-asym:policy", "x"),
        ("DEL", "sb3-asym:policy"),
        ("XREAD", "STREAMS", others, "0-0"),
        ("XRANGE", others, "-", "+"),
        ("XINFO", "STREAM", others),
        ("XADD", others, "1-1", "frame", "x"),
        ("GET", "sb3-asym:confirmed:robot-2"),
        ("SET", "sb3-asym:confirmed:robot-1", "9-9"),
        ("SET", "sb3-asym:status:robot-2", "x"),
        ("SET", own, "x"),
        ("XREAD", "STREAMS", own, "0-0"),
        ("XTRIM", own, "MAXLEN", 0),
        ("DEL", own),
        ("FLUSHALL",),
        ("FLUSHDB",),
        ("KEYS", "*"),
        ("SCAN", 0),
        ("CONFIG", "SET", "maxmemory", "1"),
        ("ACL", "SETUSER", "robot-1", "allkeys"),
        ("EVAL", "return 1", 0),
        ("SHUTDOWN",),
        ("PUBLISH", "channel", "x"),
    ]
    for command in forbidden:
        with pytest.raises(redis.exceptions.NoPermissionError):
            client.execute_command(*command)
    stranger = RedisRobotLink(urls["robot-1"], "robot-2")
    with pytest.raises(AccessError, match="refuses this user"):
        stranger.position()
    learner = RedisRobotLink(urls["learner"], "learner").client
    for command in (("FLUSHALL",), ("CONFIG", "GET", "*"), ("SET", "other", "x"), ("DEL", own)):
        with pytest.raises(redis.exceptions.NoPermissionError):
            learner.execute_command(*command)


@needs_server
def test_keys_stay_where_robots_are_added(secured, tmp_path):
    shutil.copytree(secured[1] / "keys", tmp_path / "keys")
    shutil.copytree(secured[1] / "tls", tmp_path / "tls")
    before = {path: path.read_bytes() for path in tmp_path.rglob("*") if path.is_file()}
    write_broker(tmp_path, ["robot-1", "robot-2", "robot-3"], "127.0.0.1")
    assert {path: path.read_bytes() for path in before} == before
    assert (tmp_path / "keys/robot-3/password").stat().st_mode & 0o077 == 0
    assert (tmp_path / "users.acl").read_text().count("\nuser robot-") == 3
    with pytest.raises(ValueError, match="another user"):
        write_broker(tmp_path, ["learner"], "127.0.0.1")


@needs_server
def test_a_stopped_broker_is_a_link_that_is_down(tmp_path):
    with Broker(tmp_path / "broker") as broker:
        robot = robot_link(broker.url, "r")
        wait_for(robot)
        broker.stop(signal.SIGKILL)
        for call in (robot.position, robot.confirmed, lambda: robot.policy(-1), lambda: robot.report(b"")):
            with pytest.raises(LinkError):
                call()
        broker.start()
        assert wait_for(robot) is None
