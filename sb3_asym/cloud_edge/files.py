"""Files that are replaced as a whole, so that no reader and no power cut ever meets half of one."""

import os
from pathlib import Path


def replace_file(path: Path, data: bytes, durable: bool = True) -> None:
    """
    Put a file in place of the former one, at once.

    :param path: path of the file; its folder is made where it is missing
    :param data: what it shall hold
    :param durable: whether to wait until a power cut cannot bring the former one back
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_name(f".{path.name}.{os.getpid()}")
    try:
        with temporary.open("wb") as file:
            file.write(data)
            if durable:
                file.flush()
                os.fsync(file.fileno())
        temporary.replace(path)
    except OSError:
        temporary.unlink(missing_ok=True)
        raise
    if durable:
        folder = os.open(path.parent, os.O_RDONLY)
        try:
            os.fsync(folder)
        finally:
            os.close(folder)


def read_file(path: Path) -> bytes | None:
    """
    What a file holds.

    :param path: path of the file
    :return: its bytes, or None where there is none
    """
    try:
        return path.read_bytes()
    except FileNotFoundError:
        return None
