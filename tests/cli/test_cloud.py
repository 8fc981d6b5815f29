"""``sb3-asym cloud`` and ``sb3-asym edge``, run as a user runs them."""

import subprocess
import sys

import pytest
from command_line import run

from sb3_asym.cli.main import main


def test_five_minute_walk_in_seconds(tmp_path):
    """Simulation, learner and robot on one machine, as the documentation has it."""
    short = ["ChangedPendulum-v0", "--history", "2"]
    done = run("cloud", "pretrain", *short, "--steps", 120, "--randomize", "mass=0.9:1.1", "-o", "sim.zip", cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    command = ["cloud", "learn", "sim.zip", "--url", "link", "--steps", "300", "--prefill", "150", "-o", "real.zip"]
    learner = subprocess.Popen([sys.executable, "-m", "sb3_asym.cli", *command], cwd=tmp_path)
    try:
        robot = ["--env-kwargs", '{"mass": 1.5}', "--hz", "0", "--steps", "300", "-o", "report.json"]
        done = run("edge", "run", *short, *robot, "--url", "link", cwd=tmp_path)
        assert done.returncode == 0, done.stderr
        assert "300 in 2 episodes" in done.stdout
        assert (tmp_path / "report.json").is_file()
        assert learner.wait(120) == 0
    finally:
        learner.kill()
    assert (tmp_path / "real.zip").is_file()
    done = run("cloud", "status", "--url", "link", cwd=tmp_path)
    assert "300 env steps" in done.stdout
    assert "robot" in done.stdout
    done = run("edge", "drain", "--url", "link", "--seconds", 5, cwd=tmp_path)
    assert "The outbox is empty" in done.stdout


@pytest.mark.parametrize(
    ("command", "message"),
    [
        (["cloud", "learn", "none.zip", "--url", "link"], "no file none.zip"),
        (["cloud", "status", "--url", "http://somewhere"], "is no link"),
        (["cloud", "pretrain", "ChangedPendulum-v0", "-o", "x.zip", "--randomize", "mass"], "such as mass=0.7:1.3"),
        (["edge", "run", "NoSuchEnv-v0", "--url", "link"], "NoSuchEnv"),
        (["edge", "run", "Pendulum-v1", "--url", "link", "--robot", "a/b"], "cannot be a robot's name"),
        (["edge", "run", "Pendulum-v1", "--url", "link", "--hz", "0", "--robot-process"], "needs --hz above 0"),
        (["edge", "drain", "--url", "link"], "There is no outbox"),
    ],
)
def test_bad_input_ends_with_one_line(tmp_path, monkeypatch, capsys, command, message):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "argv", ["sb3-asym", *command])
    with pytest.raises(SystemExit) as ended:
        main()
    assert ended.value.code == 2
    told = capsys.readouterr().err
    assert message in told
    assert "Traceback" not in told
    assert not (tmp_path / "link" / "robots").exists()
