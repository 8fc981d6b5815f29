"""
The link over a Redis or Valkey broker (7.0 or newer). Needs the extra ``cloud`` (redis).

One stream per robot and one entry per batch, whose id is the number of the batch. An id that is not greater than the
stream's last one is refused, which says *duplicate* only if no batch was left out before. So a robot sends one batch
after another, stops at the first error, and after each loss of the connection first asks where its stream ends: a broker that
came back without its last batches gets them again from the outbox.
"""

import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from functools import wraps
from pathlib import Path
from typing import Any, Concatenate, ParamSpec, TypeVar
from urllib.parse import parse_qsl, urlencode, urlsplit, urlunsplit

import redis
from redis.backoff import NoBackoff
from redis.exceptions import AuthenticationError, NoPermissionError, OutOfMemoryError, RedisError, ResponseError
from redis.retry import Retry

from sb3_asym.cloud_edge.protocol import AccessError, Entry, LinkError
from sb3_asym.cloud_edge.transitions import Number

PREFIX = "sb3-asym:"
BATCHES, CONFIRMED, STATUS = (f"{PREFIX}{name}:" for name in ("batches", "confirmed", "status"))
POLICY, LEARNER = f"{PREFIX}policy", f"{PREFIX}learner"
FRAME, VERSION = "frame", "version"
LEARNER_USER = "learner"
LOCAL = ("localhost", "127.0.0.1", "::1")

Side = TypeVar("Side", bound="_Side")
Given = ParamSpec("Given")
Result = TypeVar("Result")


class _Side:
    """
    One side of the link, for one thread: a connection that is made when it is needed and given up at the first error.

    :param url: ``rediss://host:6379?keys=folder``; ``redis://`` for a broker on this machine, and ``unix://``. The folder has
        ``password``, ``ca.crt``, ``client.crt`` and ``client.key``; :func:`sb3_asym.cloud_edge.broker.write_broker` makes
        them. Other options are those of redis-py's ``from_url``
    :param user: name of the user where the address has none
    :param timeout: longest time to wait for the broker, s
    :raises ValueError: if the address is none, or another machine's without TLS
    """

    def __init__(self, url: str, user: str, timeout: float):
        parts = urlsplit(url)
        if parts.scheme == "redis" and parts.hostname not in LOCAL:
            raise ValueError(f"{url!r} would send passwords and policies in the clear to {parts.hostname}: use rediss://.")
        self._options: dict[str, Any] = {"socket_timeout": timeout, "socket_connect_timeout": timeout}
        query = dict(parse_qsl(parts.query))
        if "keys" in query:
            self._options |= {"username": user, **_keys(Path(query.pop("keys")), parts.scheme == "rediss")}
            url = urlunsplit(parts._replace(query=urlencode(query)))
        self._url = url
        self._client: Any = None

    @property
    def client(self) -> Any:
        """The client, which never sends a command again by itself."""
        if self._client is None:
            pool = redis.ConnectionPool.from_url(self._url, protocol=2, retry=Retry(NoBackoff(), 0), **self._options)
            self._client = redis.Redis(connection_pool=pool, single_connection_client=True)
        return self._client

    def close(self) -> None:
        """Give back the connection."""
        client, self._client = self._client, None
        if client is not None:
            client.close()
            client.connection_pool.disconnect()


def _links(method: Callable[Concatenate[Side, Given], Result]) -> Callable[Concatenate[Side, Given], Result]:
    """A method whose errors of the client are those of a link; after each, the connection is made anew."""

    @wraps(method)
    def linked(self: Side, *args: Given.args, **kwargs: Given.kwargs) -> Result:
        try:
            return method(self, *args, **kwargs)
        except (RedisError, OSError) as error:
            self.close()
            raise _link_error(error) from error

    return linked


def _keys(folder: Path, tls: bool) -> dict[str, Any]:
    """Options of the client for the files in a folder of keys."""
    try:
        options = {"password": (folder / "password").read_text().strip()}
    except OSError as error:
        raise ValueError(f"The folder of keys {folder} needs a file 'password' that can be read ({error}).") from error
    files = {"ssl_ca_certs": "ca.crt", "ssl_certfile": "client.crt", "ssl_keyfile": "client.key"} if tls else {}
    return options | {option: str(folder / name) for option, name in files.items() if (folder / name).is_file()}


def _link_error(error: Exception) -> LinkError:
    if isinstance(error, LinkError):
        return error
    if isinstance(error, AuthenticationError | NoPermissionError):
        return AccessError(f"The broker refuses this user ({error}): check name, password and the broker's ACL.")
    if isinstance(error, OutOfMemoryError):
        return LinkError("The broker's memory is full: let the learner confirm, or raise maxmemory.")
    if "CERTIFICATE" in str(error).upper():
        return AccessError(f"The broker's certificate and ours do not fit ({error}): check ssl_ca_certs in the address.")
    return LinkError(f"The broker cannot be used ({error}).")


class RedisRobotLink(_Side):
    """
    The robot's side of the link over a broker, a :class:`sb3_asym.cloud_edge.protocol.RobotLink`, for one thread.

    :param url: address of the broker, see :func:`sb3_asym.cloud_edge.link.robot_link`
    :param robot: name of the robot
    :param timeout: longest time to wait for the broker, s
    """

    def __init__(self, url: str, robot: str, timeout: float = 5.0):
        super().__init__(url, robot, timeout)
        self.robot, self._stream = robot, f"{BATCHES}{robot}"
        self._known = self._exists = False
        self._position: Number | None = None

    def close(self) -> None:
        """Give back the connection, and forget where the stream ends."""
        self._known = False
        super().close()

    @_links
    def position(self) -> Number | None:
        """The last batch in the robot's stream, or the last that was confirmed if that is newer; None without any."""
        if not self._known:
            confirmed = self.confirmed()
            try:
                stream = self.client.xinfo_stream(self._stream)
            except ResponseError as error:
                if "no such key" not in str(error):
                    raise
                self._exists, last = False, None
            else:
                self._exists, last = True, Number.parse(stream["last-generated-id"].decode())
            self._position = max(filter(None, (confirmed, last)), default=None)
            self._known = True
        return self._position

    @_links
    def send(self, batches: Iterable[Entry]) -> int:
        """Append batches to the robot's stream, one after another; stop at the first error."""
        n_sent = 0
        for entry in batches:
            if not self._known:
                raise LinkError("The connection was lost: ask for the position, and send what follows it.")
            if self._position is not None and entry.number <= self._position:
                raise LinkError(f"The broker already has {self._position}: send what follows it.")
            # NOMKSTREAM: a stream that was deleted meanwhile must get its lost batches first.
            taken = self.client.xadd(self._stream, {FRAME: entry.frame}, id=str(entry.number), nomkstream=self._exists)
            if taken is None:
                raise LinkError("The broker has lost its batches: they are sent again.")
            self._position, self._exists = entry.number, True
            n_sent += 1
        return n_sent

    @_links
    def confirmed(self) -> Number | None:
        """The last batch that is in a checkpoint of the learner, or None."""
        text = self.client.get(f"{CONFIRMED}{self.robot}")
        return None if text is None else Number.parse(text.decode())

    @_links
    def policy(self, newer_than: int) -> bytes | None:
        """The newest policy, or None where there is no newer one."""
        version = self.client.hget(POLICY, VERSION)
        return self.client.hget(POLICY, FRAME) if version is not None and int(version) > newer_than else None

    @_links
    def learner(self) -> bytes | None:
        """What the learner last told of itself, or None."""
        return self.client.get(LEARNER)

    @_links
    def report(self, status: bytes) -> None:
        """Tell the status of this robot."""
        self.client.set(f"{STATUS}{self.robot}", status)


class RedisLearnerLink(_Side):
    """
    The learner's side of the link over a broker, a :class:`sb3_asym.cloud_edge.protocol.LearnerLink`, for one thread.

    :param url: address of the broker, see :func:`sb3_asym.cloud_edge.link.robot_link`
    :param timeout: longest time to wait for the broker, s
    """

    def __init__(self, url: str, timeout: float = 5.0):
        super().__init__(url, LEARNER_USER, timeout)
        self._streams: list[bytes] = []
        self._next_look = 0.0

    @_links
    def receive(self, cursors: Mapping[str, Number], max_batches: int) -> Sequence[Entry]:
        """Batches that follow the cursors, from the streams of all robots."""
        if time.monotonic() > self._next_look:  # for robots that are new
            self._streams = sorted(self._keys(BATCHES))
            self._next_look = time.monotonic() + 1
        if not self._streams:
            return []
        ids = {stream: str(cursors.get(_robot(stream), "0-0")) for stream in self._streams}
        entries = []
        for stream, items in self.client.xread(ids, count=max_batches):
            entries += [Entry(_robot(stream), Number.parse(key.decode()), fields[FRAME.encode()]) for key, fields in items]
        return entries

    @_links
    def confirm(self, cursors: Mapping[str, Number]) -> None:
        """Tell the robots which batches they may delete, and delete them from the streams."""
        with self.client.pipeline(transaction=False) as pipeline:
            for robot, number in cursors.items():
                pipeline.set(f"{CONFIRMED}{robot}", str(number))
                pipeline.xtrim(f"{BATCHES}{robot}", minid=str(number._replace(seq=number.seq + 1)), approximate=False)
            pipeline.execute()

    @_links
    def publish(self, version: int, policy: bytes) -> None:
        """Put a policy in place of the former one."""
        self.client.hset(POLICY, mapping={VERSION: version, FRAME: policy})

    @_links
    def beat(self, status: bytes) -> None:
        """Tell the status of the learner."""
        self.client.set(LEARNER, status)

    @_links
    def statuses(self) -> Mapping[str, bytes]:
        """What each robot last told of itself."""
        keys = sorted(self._keys(STATUS))
        frames = self.client.mget(keys) if keys else []
        return {_robot(key): frame for key, frame in zip(keys, frames, strict=True) if frame is not None}

    @_links
    def learner(self) -> bytes | None:
        """What the learner last told of itself, or None."""
        return self.client.get(LEARNER)

    def _keys(self, prefix: str) -> list[bytes]:
        return list(self.client.scan_iter(match=f"{prefix}*", count=1000))


def _robot(key: bytes) -> str:
    """The robot of a key ``sb3-asym:<kind>:<robot>``."""
    return key.decode().rpartition(":")[2]
