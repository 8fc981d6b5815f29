"""The command line, run as a user runs it."""

import json
import subprocess
import sys

import pytest
from command_line import run
from stable_baselines3 import SAC

from sb3_asym import AsymSAC, __version__


@pytest.fixture(scope="module")
def model(tmp_path_factory):
    path = tmp_path_factory.mktemp("model") / "agent.zip"
    archs = dict(sub_net_archs=dict(small=[4], large=[16]))
    AsymSAC("MlpPolicy", "Pendulum-v1", policy_kwargs=archs, seed=0, device="cpu").save(path)
    return path


def test_evaluate(model, tmp_path):
    done = run("evaluate", model, "--env", "Pendulum-v1", "-n", 1, "-o", tmp_path / "new" / "report.json")
    assert done.returncode == 0, done.stderr
    assert "random switching" in done.stdout
    report = json.loads((tmp_path / "new" / "report.json").read_text())
    assert -2000 < report["mean_reward"] < 0
    assert len(report["comparisons"]) == 3


def test_timeline(model, tmp_path):
    done = run("timeline", model, "--env", "Pendulum-v1", "-d", 0, "-d", 1, "-o", tmp_path / "timeline.png")
    assert done.returncode == 0, done.stderr
    assert (tmp_path / "timeline.png").read_bytes().startswith(b"\x89PNG")


def test_timeline_where_the_env_cannot_render(model, tmp_path):
    """As on a machine without pygame."""
    code = "import sys; sys.modules['pygame'] = None; from sb3_asym.cli import main; main()"
    command = [sys.executable, "-c", code, "timeline", model, "--env", "Pendulum-v1", "-o", tmp_path / "timeline.png"]
    done = subprocess.run(command, capture_output=True, text=True, timeout=120)
    assert done.returncode == 0, done.stderr
    assert "No pictures of the env, as it cannot render here" in done.stderr
    assert (tmp_path / "timeline.png").read_bytes().startswith(b"\x89PNG")


def test_version():
    assert run("--version").stdout.strip() == __version__


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["evaluate", "MODEL", "--env", "NoSuchEnv-v0"], "Environment `NoSuchEnv` doesn't exist"),
        (["evaluate", "MODEL", "--env", "CartPole-v1"], "Observation spaces do not match"),
        (["evaluate", "MODEL", "--env", "Pendulum-v1", "-n", "0"], "n_eval_episodes must be at least 1"),
        (["evaluate", "MODEL", "--env", "Pendulum-v1", "--env-kwargs", "g=9"], "--env-kwargs must be JSON"),
        (["evaluate", "missing.zip", "--env", "Pendulum-v1"], "There is no file missing.zip."),
        (["evaluate", "TEXT", "--env", "Pendulum-v1"], "wasn't a zip-file"),
        (["evaluate", "SAC", "--env", "Pendulum-v1"], "is not a model that AsymSAC saved"),
        (["timeline", "MODEL", "--env", "Pendulum-v1", "-d", "3"], "dimensions go from 0 to 2"),
    ],
)
def test_bad_input_ends_with_one_line_and_code_2(model, tmp_path, arguments, message):
    (tmp_path / "text.zip").write_text("not a model")
    SAC("MlpPolicy", "Pendulum-v1", device="cpu").save(tmp_path / "sac.zip")
    paths = {"MODEL": model, "TEXT": tmp_path / "text.zip", "SAC": tmp_path / "sac.zip"}
    done = run(*(paths.get(argument, argument) for argument in arguments))
    assert done.returncode == 2
    assert message in done.stderr
    assert "Traceback" not in done.stderr
    # SDL, which renders, may have a line of its own.
    assert len([line for line in done.stderr.splitlines() if not line.startswith("error: XDG_RUNTIME_DIR")]) == 1
