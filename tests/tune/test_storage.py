"""Addresses of storages, and what is said of bad ones."""

import sys

import optuna
import pytest
import sqlalchemy.exc

from sb3_asym.tune import open_study
from sb3_asym.tune.storage import open_storage, without_password


@pytest.mark.parametrize("name", ["50% of #1?", "a&b=c {d}", "ä:λ", "plain"])
def test_any_folder_may_hold_a_study(tmp_path, make_settings, name):
    for address in (None, str(tmp_path / name / "study.log"), str(tmp_path / name / "other.sqlite3")):
        settings = make_settings(tmp_path / name, storage=address)
        open_study(settings).add_trial(optuna.trial.create_trial(values=[0.0, 1.0]))
        assert len(open_study(settings).trials) == 1
    assert {path.name for path in (tmp_path / name).iterdir()} == {"study.db", "study.log", "other.sqlite3"}


def test_a_plain_file_name_is_a_file_of_the_working_directory(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    optuna.create_study(storage=open_storage("new/study.db", tmp_path), study_name="found")
    assert optuna.get_all_study_names("sqlite:///new/study.db") == ["found"]
    assert optuna.get_all_study_names(open_storage("sqlite:///new/study.db", tmp_path)) == ["found"]


@pytest.mark.parametrize(
    ("address", "message"),
    [
        ("study", r"'study' is no address of a storage: give one such as study.db \(SQLite\)"),
        ("nosuch://host", "'nosuch://host' is no address of a storage .*give one such as"),
        ("postgresql://host:port/db", "'postgresql://host:port/db' is no address of a storage .*give one such as"),
        ("sqlite://", "cannot share SQLite in memory: give a file"),
        ("sqlite:///{name}.db", "holds braces"),
    ],
)
def test_an_address_that_is_none(tmp_path, address, message):
    with pytest.raises(ValueError, match=message):
        open_storage(address, tmp_path)


def test_the_short_name_of_postgresql(tmp_path, monkeypatch):
    opened = []
    monkeypatch.setattr("sb3_asym.tune.storage.RDBStorage", lambda url, **kwargs: opened.append(url))
    open_storage("postgres://user@host/name", tmp_path)
    open_storage("postgres+psycopg2://user@host/name", tmp_path)
    assert opened == ["postgresql://user@host/name", "postgresql+psycopg2://user@host/name"]


def test_a_missing_driver_is_named_and_a_password_is_not(tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "MySQLdb", None)
    with pytest.raises(ImportError, match=r"mysql://me:\*\*\*@host/name needs another package: pip install mysqlclient"):
        open_storage("mysql://me:secret@host/name", tmp_path)
    assert without_password("redis://:secret@host:1/0") == "redis://:***@host:1/0"


def test_redis_needs_its_package(tmp_path, monkeypatch):
    monkeypatch.setattr("sb3_asym.tune.storage.find_spec", lambda name: None)
    with pytest.raises(ImportError, match="redis://localhost needs another package: pip install redis"):
        open_storage("redis://localhost", tmp_path)


def test_redis_is_a_journal(tmp_path, monkeypatch):
    class Backend(optuna.storages.journal.JournalFileBackend):
        def __init__(self, url):
            super().__init__(str(tmp_path / url.partition("://")[2]))

    monkeypatch.setattr("sb3_asym.tune.storage.find_spec", lambda name: True)
    monkeypatch.setattr("sb3_asym.tune.storage.JournalRedisBackend", Backend)
    optuna.create_study(storage=open_storage("rediss://host", tmp_path))
    assert (tmp_path / "host").stat().st_size > 0


@pytest.mark.parametrize(
    ("name", "error", "message"),
    [
        ("study.db", OSError, "study.db cannot be used .*file is not a database.*give another"),
        ("study.log", ValueError, "study.log is no journal of Optuna: give another"),
        ("study.db/study.db", OSError, "study.db cannot be used .*give another"),
        ("study.log/study.log", OSError, "study.log cannot be used .*give another"),
    ],
)
def test_a_file_of_another_kind(tmp_path, name, error, message):
    for existing in ("study.db", "study.log"):
        (tmp_path / existing).write_text("something else\n" * 100)
    with pytest.raises(error, match=message):
        open_storage(str(tmp_path / name), tmp_path)


@pytest.mark.parametrize("name", ["study.db", "study.log"])
def test_a_folder_is_no_file(tmp_path, name):
    (tmp_path / name).mkdir()
    with pytest.raises(OSError, match=r"cannot be used .*give another"):
        open_storage(str(tmp_path / name), tmp_path)


def test_an_output_folder_that_cannot_be_made(tmp_path, make_settings):
    (tmp_path / "file").touch()
    with pytest.raises(OSError, match=r"file/out cannot be made .*give another for the output"):
        open_study(make_settings(tmp_path / "file" / "out"))


@pytest.mark.parametrize("storage", ["study", "nosuch://host", "/dev/null/study.db"])
def test_the_command_line_says_so_in_one_line(console_script, storage):
    done = console_script("--env", "Pendulum-v1", "-o", "out", "--storage", storage)
    assert done.returncode == 2
    assert "Traceback" not in done.stderr
    assert done.stderr.splitlines()[-1].startswith("sb3-asym: ")
    assert storage in done.stderr


def test_two_commands_may_make_the_tables_at_the_same_moment(tmp_path, monkeypatch):
    calls = []

    def connect(url, **kwargs):
        calls.append(url)
        if len(calls) == 1:
            raise sqlalchemy.exc.OperationalError("CREATE TABLE", {}, Exception("table studies already exists"))

    monkeypatch.setattr("sb3_asym.tune.storage.RDBStorage", connect)
    monkeypatch.setattr("sb3_asym.tune.storage.time.sleep", lambda seconds: None)
    open_storage(str(tmp_path / "study.db"), tmp_path)
    assert len(calls) == 2
