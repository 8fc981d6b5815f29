"""What a user sees first: names, signatures, and how little has to be installed."""

import inspect
import subprocess
import sys

from stable_baselines3 import SAC

import sb3_asym
from sb3_asym import AsymSAC


def test_help_shows_the_arguments_of_sac_and_ours():
    shown = inspect.signature(AsymSAC).parameters
    sac = [name for name in inspect.signature(SAC).parameters if name != "_init_setup_model"]
    assert list(shown)[: len(sac)] == sac
    assert {"option_length", "cost_coef", "critic", "master_kwargs", "fast_update"} < set(shown)
    assert shown["learning_starts"].default == 100


def test_importing_needs_no_extra():
    """None of the optional libraries is loaded."""
    extras = ("typer", "optuna", "rl_zoo3", "onnx", "mujoco")
    code = f"import sys, sb3_asym; print([name for name in {extras} if name in sys.modules])"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=60, check=True)
    assert done.stdout.strip() == "[]"


def test_all_public_names_are_there():
    assert all(hasattr(sb3_asym, name) for name in sb3_asym.__all__)
