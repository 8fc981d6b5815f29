"""What a Redis or Valkey broker needs for a fleet: configuration, users with their rights, passwords and certificates."""

import hashlib
import os
import secrets
import shutil
import subprocess
from collections.abc import Iterable
from pathlib import Path

from sb3_asym.cloud_edge.protocol import check_robot
from sb3_asym.cloud_edge.redis_link import BATCHES, CONFIRMED, LEARNER, LEARNER_USER, POLICY, PREFIX, STATUS

DAYS = "3650"
CONFIGURATION = """\
# TLS only, with a certificate of both sides; users.acl says who may do what.
port 0
tls-port {port}
bind {bind}
tls-cert-file {tls}/broker.crt
tls-key-file {tls}/broker.key
tls-ca-cert-file {tls}/ca.crt
tls-auth-clients yes
aclfile {folder}/users.acl

# Robots keep what is not in a checkpoint of the learner and send it again, so a second that a power cut takes is not lost.
dir {folder}/data
appendonly yes
appendfsync everysec
save ""

# A full memory must refuse new batches (robots wait), and never delete old ones.
maxmemory {max_memory}
maxmemory-policy noeviction
"""


def write_broker(
    folder: str | Path,
    robots: Iterable[str],
    host: str,
    port: int = 6379,
    bind: str = "*",
    max_memory: str = "1gb",
) -> Path:
    """
    Write all that a broker needs for a fleet. Called again, it keeps passwords and certificates and adds what is new.

    ``redis.conf`` and ``users.acl`` stay with the broker, as ``tls``; ``keys/<robot>`` goes to that robot and ``keys/learner``
    to the learner, as the folder in ``rediss://host:6379?keys=folder``. A robot may append to its own stream, tell its own
    status, and read policies, its own cursor and where its own stream ends; all else is refused.

    :param folder: folder to write to
    :param robots: names of the robots
    :param host: name or IP address under which robots and learner reach the broker
    :param port: port of the broker
    :param bind: addresses of this machine at which it listens, "*" for all
    :param max_memory: greatest memory, in the notation of ``redis.conf``
    :return: path of ``redis.conf``
    :raises ValueError: if a name cannot be a robot's
    :raises RuntimeError: if there is no ``openssl`` to make certificates with
    """
    folder, robots = Path(folder).absolute(), list(robots)
    for robot in robots:
        check_robot(robot)
        if robot in (LEARNER_USER, "default"):
            raise ValueError(f"{robot!r} cannot be a robot's name here: it is the name of another user of the broker.")
    if shutil.which("openssl") is None:
        raise RuntimeError("Certificates are made with openssl (3.0 or newer), which is missing here: install it.")
    (folder / "data").mkdir(parents=True, exist_ok=True)
    _make_certificates(folder / "tls", host)
    lines = ["user default off"]
    for user in (LEARNER_USER, *robots):
        keys = folder / "keys" / user
        _make_client(keys, folder / "tls", user)
        password = hashlib.sha256((keys / "password").read_bytes()).hexdigest()
        rights = _learner_rights() if user == LEARNER_USER else _robot_rights(user)
        lines.append(f"user {user} on #{password} resetkeys resetchannels -@all +ping {rights}")
    _write_secret(folder / "users.acl", "\n".join([*lines, ""]))
    path = folder / "redis.conf"
    path.write_text(CONFIGURATION.format(folder=folder, tls=folder / "tls", port=port, bind=bind, max_memory=max_memory))
    return path


def _robot_rights(robot: str) -> str:
    rights = {
        "+xadd": f"%W~{BATCHES}{robot}",
        "+xinfo|stream": f"%R~{BATCHES}{robot}",
        "+set": f"%W~{STATUS}{robot}",
        "+get": f"%R~{CONFIRMED}{robot} %R~{LEARNER}",
        "+hget": f"%R~{POLICY}",
    }
    return " ".join(f"({command} {keys})" for command, keys in rights.items())


def _learner_rights() -> str:
    return f"+xread +xtrim +scan +get +mget +set +hset +hget ~{PREFIX}*"


def _make_certificates(folder: Path, host: str) -> None:
    """An authority, and the broker's certificate, which it signs."""
    folder.mkdir(parents=True, exist_ok=True)
    if not (folder / "ca.crt").exists():
        authority = ["-subj", "/CN=sb3-asym broker's authority", "-keyout", "ca.key", "-out", "ca.crt"]
        _openssl(
            folder, "req", "-x509", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:P-256", "-nodes", "-days", DAYS, *authority
        )
    kind = "IP" if host.replace(".", "").isdigit() or ":" in host else "DNS"
    names = f"subjectAltName={kind}:{host}"
    if not (folder / "names").exists() or (folder / "names").read_text() != names:
        _sign(folder, folder / "broker", host, names)
        (folder / "names").write_text(names)


def _make_client(folder: Path, tls: Path, user: str) -> None:
    """Password and certificate of a user."""
    folder.mkdir(parents=True, exist_ok=True)
    if not (folder / "password").exists():
        _write_secret(folder / "password", secrets.token_urlsafe(32))
    if not (folder / "client.crt").exists():
        _sign(tls, folder / "client", user, "extendedKeyUsage=clientAuth")
        shutil.copy(tls / "ca.crt", folder / "ca.crt")


def _sign(authority: Path, path: Path, name: str, extension: str) -> None:
    """A key and its certificate, signed by the authority."""
    key, certificate = path.with_suffix(".key"), path.with_suffix(".crt")
    request = ["-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:P-256", "-nodes", "-subj", f"/CN={name}"]
    signed_by = ["-CA", "ca.crt", "-CAkey", "ca.key", "-days", DAYS, "-addext", extension]
    _openssl(authority, "req", "-x509", *request, *signed_by, "-keyout", str(key), "-out", str(certificate))


def _openssl(folder: Path, *arguments: str) -> None:
    done = subprocess.run(["openssl", *arguments], cwd=folder, capture_output=True, text=True)
    if done.returncode != 0:
        raise RuntimeError(f"openssl failed: {done.stderr.strip()}")


def _write_secret(path: Path, text: str) -> None:
    """Write a file that only its owner can read."""
    path.unlink(missing_ok=True)
    with os.fdopen(os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600), "w") as file:
        file.write(text)
