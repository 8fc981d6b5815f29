"""The command line, run as a user runs it."""

import subprocess
import sys


def run(*arguments, **kwargs):
    """Runs ``sb3-asym``; keyword arguments go to ``subprocess.run``."""
    command = [sys.executable, "-m", "sb3_asym.cli", *map(str, arguments)]
    return subprocess.run(command, capture_output=True, text=True, encoding="utf-8", timeout=300, **kwargs)
