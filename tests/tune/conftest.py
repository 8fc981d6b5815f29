"""Tiny studies, and envs of a user's own that end their process."""

import subprocess
import sys
from pathlib import Path

import pytest

from sb3_asym.tune import TuneSettings

TINY = dict(learning_starts=30, batch_size=8, fast_update=False)

USER_ENV = """
import os
import signal
from pathlib import Path

import gymnasium as gym
from gymnasium.envs.classic_control import PendulumEnv


class UserEnv(PendulumEnv):
    def step(self, action):
        {before_step}
        return super().step(action)


gym.register("User-v0", entry_point=UserEnv, max_episode_steps=20)
"""


@pytest.fixture(scope="session")
def make_settings():
    """Builds settings of a tiny study with a folder for its results; keyword arguments replace them."""

    def make(folder, **kwargs):
        settings = dict(
            output=folder, env="Pendulum-v1", n_timesteps=40, n_trials=3, n_eval_episodes=1, hyperparams=dict(TINY)
        )
        return TuneSettings(**{**settings, **kwargs})

    return make


@pytest.fixture
def console_script(tmp_path):
    """
    Runs a tiny ``sb3-asym tune`` in ``tmp_path`` as a user does: with the script, for which Python does not search the
    working directory.
    """

    def run(*arguments):
        script = Path(sys.executable).with_name("sb3-asym")
        command = [script, "tune", "-n", "40", "--episodes", "1", *map(str, arguments)]
        for name, value in TINY.items():
            command += ["--param", f"{name}:{value}"]
        return subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, encoding="utf-8", timeout=120)

    return run


@pytest.fixture
def write_env(tmp_path):
    """Writes a module with the env ``User-v0`` into ``tmp_path``; a line of Python is run before each of its steps."""

    def write(module, before_step="pass"):
        (tmp_path / f"{module}.py").write_text(USER_ENV.format(before_step=before_step), encoding="utf-8")

    return write
