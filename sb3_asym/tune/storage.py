"""The storage of a study, from its address."""

import os
import re
import sqlite3
import time
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import optuna
import sqlalchemy.exc
from optuna.storages import BaseStorage, JournalStorage, RDBStorage
from optuna.storages.journal import JournalFileBackend, JournalFileOpenLock, JournalRedisBackend
from sqlalchemy.engine import make_url

REDIS_SCHEMES = ("redis", "rediss", "unix")
SQLITE_SUFFIXES = (".db", ".sqlite", ".sqlite3")
JOURNAL_SUFFIX = ".log"
HEARTBEAT_INTERVAL = 60
"""Seconds between two signs of life of a trial."""
GRACE_PERIOD = 180
"""Seconds without a sign of life after which a trial on another machine is given up."""
LOCK_TIMEOUT = 60
"""Seconds to wait while another process writes to SQLite."""
DRIVER_PACKAGES = {"psycopg": "'psycopg[binary]'", "psycopg2": "psycopg2-binary", "MySQLdb": "mysqlclient"}
"""Packages of database drivers whose modules have other names."""
EXAMPLES = "study.db (SQLite), study.log (a journal), postgresql://user@host/name or redis://host"


def open_storage(address: str | None, output: Path) -> BaseStorage:
    """
    The storage at an address; a file is made where there is none.

    :param address: a file or a URL, or None for SQLite in ``output``
    :param output: folder of the study's results
    :return: the storage
    :raises ValueError: if the address is none, or its file is of another kind
    :raises OSError: if the file or the server cannot be read or written
    :raises ImportError: if the driver of the database is missing
    """
    if address is None:
        address = str(output / "study.db")
    scheme, separator, _ = address.partition("://")
    with clear_errors(address):
        if separator:
            return _open_redis(address) if scheme in REDIS_SCHEMES else _open_database(address)
        path = Path(address).absolute()
        suffix = path.suffix.lower()
        if suffix not in (JOURNAL_SUFFIX, *SQLITE_SUFFIXES):
            raise ValueError(f"{address!r} is no address of a storage: give one such as {EXAMPLES}.")
        path.parent.mkdir(parents=True, exist_ok=True)
        return _open_journal(path) if suffix == JOURNAL_SUFFIX else _open_sqlite(path)


@contextmanager
def clear_errors(address: str) -> Iterator[None]:
    """
    One sentence for whatever goes wrong with a storage.

    :param address: address of the storage
    :raises ValueError: if the address is none, or its file is of another kind
    :raises OSError: if the file or the server cannot be read or written
    :raises ImportError: if the driver of the database is missing
    """
    shown = without_password(address)
    try:
        yield
    except sqlalchemy.exc.ArgumentError as error:
        raise ValueError(f"{shown!r} is no address of a storage ({error}): give one such as {EXAMPLES}.") from error
    except ImportError as error:
        module = getattr(error.__cause__ or error, "name", None)
        package = DRIVER_PACKAGES.get(module, module) if module else "its driver"
        raise ImportError(f"The storage {shown} needs another package: pip install {package}") from error
    except (sqlalchemy.exc.DBAPIError, optuna.exceptions.StorageInternalError) as error:
        cause = error.__cause__ if isinstance(error, optuna.exceptions.StorageInternalError) else error
        reason = str(getattr(cause, "orig", cause)).strip()
        raise OSError(f"The storage {shown} cannot be used ({reason}): mend that, or give another.") from error
    except OSError as error:
        reason = error.strerror or str(error)
        raise OSError(f"The storage {shown} cannot be used ({reason}): mend that, or give another.") from error
    except Exception as error:
        if not type(error).__module__.startswith("redis."):
            raise
        raise OSError(f"The storage {shown} cannot be used ({error}): mend that, or give another.") from error


def without_password(address: str) -> str:
    """
    An address that may be shown.

    :param address: address of a storage
    :return: the address with stars for its password
    """
    return re.sub(r"(://[^:/@]*):[^/]*@", r"\1:***@", address)


def _open_journal(path: Path) -> JournalStorage:
    # Windows lets few users make the symbolic link that Optuna takes for a lock.
    lock = JournalFileOpenLock(str(path)) if os.name == "nt" else None
    backend = JournalFileBackend(str(path), lock_obj=lock)
    with path.open("ab"):
        pass  # Optuna only reads a journal here; whether it can be written is better known now
    try:
        return JournalStorage(backend)
    except (ValueError, KeyError, TypeError, AssertionError) as error:
        raise ValueError(f"The file {path} is no journal of Optuna: give another.") from error


def _open_redis(address: str) -> JournalStorage:
    if find_spec("redis") is None:
        raise ImportError(name="redis")
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", optuna.exceptions.ExperimentalWarning)
        try:
            backend = JournalRedisBackend(address)
        except ValueError as error:
            raise sqlalchemy.exc.ArgumentError(str(error)) from error
        return JournalStorage(backend)


def _open_sqlite(path: Path) -> RDBStorage:
    def connect() -> sqlite3.Connection:
        return sqlite3.connect(path, timeout=LOCK_TIMEOUT, check_same_thread=False)

    # Not a URL of the path: what is special in a URL is not so in a path, and versions of SQLAlchemy differ in quoting it.
    return _open_rdb("sqlite:///study.db", {"creator": connect})


def _open_database(address: str) -> RDBStorage:
    address = re.sub(r"^postgres(?=[+:])", "postgresql", address)  # the name that libpq takes too, and SQLAlchemy does not
    try:
        url = make_url(address)
    except ValueError as error:
        raise sqlalchemy.exc.ArgumentError(str(error)) from error
    if url.get_backend_name() != "sqlite":
        return _open_rdb(address, {})
    if url.database in (None, "", ":memory:"):
        raise ValueError("The processes of a study cannot share SQLite in memory: give a file such as study.db.")
    if not url.database.startswith("file:"):
        Path(url.database).absolute().parent.mkdir(parents=True, exist_ok=True)
    return _open_rdb(address, {"connect_args": {"timeout": LOCK_TIMEOUT}})


def _open_rdb(url: str, engine_kwargs: dict[str, Any]) -> RDBStorage:
    def connect() -> RDBStorage:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", optuna.exceptions.ExperimentalWarning)
            return RDBStorage(
                url, engine_kwargs=engine_kwargs, heartbeat_interval=HEARTBEAT_INTERVAL, grace_period=GRACE_PERIOD
            )

    try:
        return connect()
    except (KeyError, IndexError) as error:
        raise ValueError("The address of the storage holds braces, which Optuna replaces: write %7B and %7D.") from error
    except (sqlalchemy.exc.OperationalError, sqlalchemy.exc.ProgrammingError, sqlalchemy.exc.IntegrityError):
        time.sleep(1)  # another process may have been making the tables at the same moment
        return connect()
