"""How many instructions a step of exported C takes on this machine's processor: counted by valgrind, or by perf."""

import shutil
import subprocess
import tempfile
from collections.abc import Sequence
from pathlib import Path

import numpy as np

from sb3_asym.export.c_runner import CFormat, c_compiler

PORTABLE_FLAGS = ("-std=c99", "-O2")
"""For all processors of a kind: valgrind does not know the newest instructions, and objects are to be compared."""


def instructions_per_step(
    target: CFormat, folder: Path, observations: np.ndarray, flags: tuple[str, ...] = PORTABLE_FLAGS
) -> float:
    """
    :param target: the format, with its prefix
    :param folder: folder with the code
    :param observations: ``(n_steps, obs_dim)`` of an episode
    :param flags: flags of the compiler
    :return: mean instructions of a step, what it calls in libm included
    :raises OSError: if neither valgrind nor perf can count them
    """
    with tempfile.TemporaryDirectory() as name:
        build = Path(name)
        command = target.replay_command(folder, build, observations, 1, (c_compiler(), *flags))
        if shutil.which("valgrind"):
            return _callgrind(command, f"{target.prefix}_step", build) / len(observations)
        if shutil.which("perf"):
            longer = [*command[:-1], "11"]
            return (_perf(longer, build) - _perf(command, build)) / (10 * len(observations))
    raise FileNotFoundError("neither valgrind nor perf is installed.")


def over_predicted(instructions: float, flops: float, alone: Sequence[tuple[float, float]]) -> float:
    """
    :param instructions: of an agent
    :param flops: that it spends per inference
    :param alone: FLOPs and instructions of each of its sub-policies alone
    :return: its instructions ÷ what a straight line through those of the sub-policies says at its FLOPs
    """
    alone_flops, counts = np.transpose(alone)
    line = np.polyfit(alone_flops, counts, deg=1)
    return instructions / float(np.polyval(line, flops))


def _callgrind(command: list[str], function: str, build: Path) -> int:
    """Instructions within a function and what it calls."""
    output = build / "callgrind"
    valgrind = ["valgrind", "--tool=callgrind", f"--callgrind-out-file={output}", f"--toggle-collect={function}"]
    done = subprocess.run([*valgrind, *command, "untimed"], capture_output=True, text=True)
    if done.returncode != 0:
        raise OSError(f"valgrind could not run the code ({_last_line(done.stderr)}).")
    return int(next(line.split()[1] for line in output.read_text().splitlines() if line.startswith("totals:")))


def _perf(command: list[str], build: Path) -> int:
    """Instructions of a program as a whole."""
    output = build / "perf"
    done = subprocess.run(["perf", "stat", "-x,", "-e", "instructions:u", "-o", output, *command, "untimed"], text=True)
    counts = [line.split(",")[0] for line in output.read_text().splitlines() if "instructions" in line]
    if done.returncode != 0 or not counts or not counts[0].isdigit():
        raise OSError("perf counts no instructions on this machine, and valgrind is not installed.")
    return int(counts[0])


def _last_line(text: str) -> str:
    return text.strip().rpartition("\n")[2]
