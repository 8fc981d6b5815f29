"""The link that an address names: a folder on one machine, or a broker (what it does: :mod:`sb3_asym.cloud_edge.protocol`)."""

import os
from pathlib import Path
from urllib.parse import urlsplit

from sb3_asym.cloud_edge.embedded import EmbeddedLearnerLink, EmbeddedRobotLink
from sb3_asym.cloud_edge.protocol import AccessError as AccessError
from sb3_asym.cloud_edge.protocol import Entry as Entry
from sb3_asym.cloud_edge.protocol import LearnerLink, RobotLink, check_robot
from sb3_asym.cloud_edge.protocol import LinkError as LinkError


def robot_link(url: str | Path, robot: str, timeout: float = 5.0) -> RobotLink:
    """
    The robot's side of a link.

    :param url: a folder (also ``file:///folder``) for one machine; ``rediss://host:6379?keys=folder`` for many, with a
        folder from :func:`sb3_asym.cloud_edge.broker.write_broker`; ``redis://`` without TLS for a broker on this machine
    :param robot: name of the robot: letters, digits, ``_``, ``.`` and ``-``
    :param timeout: longest time to wait for the other side, s
    :return: the link
    :raises ValueError: if the address or the name is no such thing
    """
    check_robot(robot)
    folder = local_folder(url)
    if folder is not None:
        return EmbeddedRobotLink(folder, robot)
    from sb3_asym.cloud_edge.redis_link import RedisRobotLink

    return RedisRobotLink(str(url), robot, timeout)


def learner_link(url: str | Path, timeout: float = 5.0) -> LearnerLink:
    """
    The learner's side of a link.

    :param url: as for :func:`robot_link`
    :param timeout: longest time to wait for the other side, s
    :return: the link
    :raises ValueError: if the address is none
    """
    folder = local_folder(url)
    if folder is not None:
        return EmbeddedLearnerLink(folder)
    from sb3_asym.cloud_edge.redis_link import RedisLearnerLink

    return RedisLearnerLink(str(url), timeout)


def outbox_path(url: str | Path, robot: str) -> Path:
    """
    Where the outbox of a robot lies: in the link's folder on one machine, else in the user's state folder.

    :param url: as for :func:`robot_link`
    :param robot: name of the robot
    :return: path of the outbox
    """
    check_robot(robot)
    folder = local_folder(url)
    if folder is None:
        folder = Path(os.environ.get("XDG_STATE_HOME", Path.home() / ".local/state")) / "sb3-asym"
    return folder / "robots" / robot / "outbox.sqlite"


def local_folder(url: str | Path) -> Path | None:
    """
    The folder that an address names.

    :param url: as for :func:`robot_link`
    :return: the folder, or None where the address is a broker's
    :raises ValueError: if the address is neither
    """
    url = str(url)
    scheme = urlsplit(url).scheme
    if scheme in ("redis", "rediss", "unix"):
        return None
    if scheme == "file":
        return Path(urlsplit(url).path)
    if "://" in url or not url:
        raise ValueError(f"{url!r} is no link: give a folder, or rediss://host:6379?keys=folder for a Redis or Valkey broker.")
    return Path(url)
