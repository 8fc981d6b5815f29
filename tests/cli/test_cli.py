"""The command line, run as a user runs it."""

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import gymnasium as gym
import pytest
from command_line import run
from stable_baselines3 import SAC, HerReplayBuffer
from stable_baselines3.common.env_util import make_vec_env
from stable_baselines3.common.vec_env import VecNormalize

from sb3_asym import AsymSAC, __version__, evaluate


@pytest.fixture(scope="module")
def model(tmp_path_factory):
    path = tmp_path_factory.mktemp("model") / "agent.zip"
    archs = dict(sub_net_archs=dict(small=[4], large=[16]))
    AsymSAC("MlpPolicy", "Pendulum-v1", policy_kwargs=archs, seed=0, device="cpu").save(path)
    return path


def test_evaluate_a_dial(tmp_path):
    nets = dict(sub_net_archs=dict(small=[4], large=[16]))
    AsymSAC("MlpPolicy", "Pendulum-v1", cost_coef="dial", policy_kwargs=nets, device="cpu").save(tmp_path / "agent")
    files = {"--plot": "curve.png", "--save": "measured.zip", "-o": "report.json"}
    written = [argument for option, name in files.items() for argument in (option, tmp_path / name)]
    done = run("evaluate", tmp_path / "agent.zip", "--env", "Pendulum-v1", "-n", 1, "--dial", "--no-compare", *written)
    assert "λ = 0.001" in done.stdout
    report = json.loads((tmp_path / "report.json").read_text())
    assert len(report["comparisons"]) == 9
    assert (tmp_path / "curve.png").stat().st_size > 10_000
    assert len(AsymSAC.load(tmp_path / "measured.zip").cost_curve) == 9


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


# --- statistics of normalized observations ---


@pytest.fixture(scope="module")
def normalized(tmp_path_factory):
    """An agent that learned on normalized observations, which without them acts otherwise, and its statistics."""
    env = VecNormalize(make_vec_env("Pendulum-v1"))
    archs = dict(sub_net_archs=dict(small=[4], large=[16]))
    agent = AsymSAC("MlpPolicy", env, policy_kwargs=archs, learning_starts=300, seed=0, device="cpu").learn(200)
    folder = tmp_path_factory.mktemp("normalized")
    agent.save(folder / "agent.zip")
    env.save(folder / "statistics.pkl")
    return folder


def expected_reward(folder):
    """Mean return of one episode with the statistics."""
    agent = AsymSAC.load(folder / "agent", device="cpu")
    env = VecNormalize.load(folder / "statistics.pkl", make_vec_env("Pendulum-v1"))
    return evaluate(agent, env, n_eval_episodes=1, compare=False).mean_reward


@pytest.mark.parametrize(
    ("agent", "statistics"),
    [
        ("agent.zip", "vecnormalize.pkl"),
        ("agent.zip", "agent.vecnormalize.pkl"),
        ("Pendulum-v1.zip", "Pendulum-v1/vecnormalize.pkl"),
        ("best_model.zip", "Pendulum-v1/vecnormalize.pkl"),
        ("rl_model_500_steps.zip", "rl_model_vecnormalize_500_steps.pkl"),
    ],
)
def test_statistics_that_lie_beside_the_agent_are_used(normalized, tmp_path, agent, statistics):
    (tmp_path / statistics).parent.mkdir(exist_ok=True)
    shutil.copy(normalized / "agent.zip", tmp_path / agent)
    shutil.copy(normalized / "statistics.pkl", tmp_path / statistics)
    report = tmp_path / "report.json"
    done = run("evaluate", tmp_path / agent, "--env", "Pendulum-v1", "-n", 1, "--no-compare", "-o", report)
    assert done.returncode == 0, done.stderr
    assert f"Observations are normalized with {tmp_path / statistics}." in done.stderr
    assert json.loads(report.read_text())["mean_reward"] == pytest.approx(expected_reward(normalized))


def test_timeline_and_export_use_them_too(normalized, tmp_path):
    for name, target in (("agent.zip", "agent.zip"), ("statistics.pkl", "vecnormalize.pkl")):
        shutil.copy(normalized / name, tmp_path / target)
    timeline = run("timeline", tmp_path / "agent.zip", "--env", "Pendulum-v1", "-o", tmp_path / "timeline.png")
    export = run("export", tmp_path / "agent.zip", "-o", tmp_path / "robot", "--env", "Pendulum-v1", "-n", 1)
    for done in (timeline, export):
        assert done.returncode == 0, done.stderr
        assert "Observations are normalized with" in done.stderr
    assert "obs_mean" in (tmp_path / "robot" / "asym_policy.c").read_text()
    assert "before" in export.stdout


# --- envs that are not registered yet ---


@pytest.fixture(scope="module")
def fetch(tmp_path_factory):
    """An agent that learned with hindsight goals, on a robot arm."""
    pytest.importorskip("gymnasium_robotics")
    path = tmp_path_factory.mktemp("fetch") / "agent.zip"
    env = gym.make("gymnasium_robotics:FetchReach-v4")
    archs = dict(sub_net_archs=dict(small=[4], large=[16]))
    AsymSAC(
        "MultiInputPolicy", env, replay_buffer_class=HerReplayBuffer, buffer_size=100, policy_kwargs=archs, device="cpu"
    ).save(path)
    return path


@pytest.mark.parametrize("command", ["evaluate", "timeline", "export"])
def test_agents_with_goals_on_a_robot_arm(fetch, tmp_path, command):
    output = ["-o", tmp_path / {"evaluate": "report.json", "timeline": "timeline.png", "export": "robot"}[command]]
    episodes = [] if command == "timeline" else ["-n", 1]
    done = run(command, fetch, "--env", "FetchReach-v4", *episodes, *output)
    assert done.returncode == 0, done.stderr
    assert output[1].exists()


@pytest.mark.parametrize("env_id", ["Mine-v0", "my_envs:Mine-v0"])
def test_envs_of_the_working_directory(model, tmp_path, env_id):
    """With the console script, whose path does not hold that directory."""
    code = "import gymnasium as gym; gym.register('Mine-v0', 'gymnasium.envs.classic_control.pendulum:PendulumEnv', 200)"
    for name in ("custom_envs.py", "my_envs.py"):
        (tmp_path / name).write_text(code.replace(", 200", ", max_episode_steps=200"))
    script = Path(sys.executable).with_name("sb3-asym")
    command = [script, "evaluate", model, "--env", env_id, "-n", "1", "--no-compare"]
    done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, timeout=120)
    assert done.returncode == 0, done.stderr
    assert "agent" in done.stdout


def test_a_module_that_is_not_there_is_named(model):
    done = run("evaluate", model, "--env", "nowhere:Mine-v0")
    assert (done.returncode, done.stderr) == (
        2,
        "sb3-asym: There is no module 'nowhere' that registers the env nowhere:Mine-v0.\n",
    )


# --- terminals ---


@pytest.mark.parametrize("encoding", ["cp1252", "ascii", "utf-8"])
def test_a_terminal_of_another_code_page_shows_the_result(model, encoding):
    arguments = ["evaluate", model, "--env", "Pendulum-v1", "-n", "1"]
    command = [sys.executable, "-m", "sb3_asym.cli", *map(str, arguments)]
    done = subprocess.run(command, capture_output=True, timeout=120, env={**os.environ, "PYTHONIOENCODING": encoding})
    assert done.returncode == 0, done.stderr
    assert b"random switching" in done.stdout
    assert b"episodes each" in done.stdout
    tune = [sys.executable, "-m", "sb3_asym.cli", "tune", "--env", "Pendulum-v1", "--cost-coef", "0", "1"]
    done = subprocess.run(tune, capture_output=True, timeout=120, env={**os.environ, "PYTHONIOENCODING": encoding})
    assert done.returncode == 2
    assert b"needs a range of positive numbers" in done.stderr
