"""Instructions of a step of exported C on this machine's processor, counted by valgrind or perf."""

import shutil
import subprocess
import tempfile
from collections.abc import Sequence
from pathlib import Path

import numpy as np

from sb3_asym.export.c_runner import CFormat, c_compiler

PORTABLE_FLAGS = ("-std=c99", "-O2")
"""Flags without the newest instructions, which valgrind does not know, so that figures of two machines compare."""


def instructions_per_step(
    target: CFormat, folder: Path, observations: np.ndarray, flags: tuple[str, ...] = PORTABLE_FLAGS
) -> float:
    """
    Count the instructions of a step on this machine.

    :param target: C format with the prefix of the code
    :param folder: folder with the code
    :param observations: ``(n_steps, obs_dim)`` observations of an episode
    :param flags: flags of the compiler
    :return: mean instructions of a step, those of libm included
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
    Compare the instructions of an agent with the prediction from its FLOPs.

    :param instructions: mean instructions of a step of the agent
    :param flops: mean FLOPs per inference of the agent
    :param alone: FLOPs and instructions of each sub-policy alone
    :return: instructions ÷ value at ``flops`` of a straight line through the instructions of the sub-policies alone
    """
    alone_flops, counts = np.transpose(alone)
    line = np.polyfit(alone_flops, counts, deg=1)
    return instructions / float(np.polyval(line, flops))


def _callgrind(command: list[str], function: str, build: Path) -> int:
    """Instructions of a function and of the functions that it calls."""
    output = build / "callgrind"
    valgrind = ["valgrind", "--tool=callgrind", f"--callgrind-out-file={output}", f"--toggle-collect={function}"]
    done = subprocess.run([*valgrind, *command, "untimed"], capture_output=True, text=True)
    if done.returncode != 0:
        raise OSError(f"valgrind could not run the code ({_last_line(done.stderr)}).")
    return int(next(line.split()[1] for line in output.read_text().splitlines() if line.startswith("totals:")))


def _perf(command: list[str], build: Path) -> int:
    """Instructions of a whole program."""
    output = build / "perf"
    done = subprocess.run(["perf", "stat", "-x,", "-e", "instructions:u", "-o", output, *command, "untimed"], text=True)
    counts = [line.split(",")[0] for line in output.read_text().splitlines() if "instructions" in line]
    if done.returncode != 0 or not counts or not counts[0].isdigit():
        raise OSError("perf counts no instructions on this machine, and valgrind is not installed.")
    return int(counts[0])


def _last_line(text: str) -> str:
    return text.strip().rpartition("\n")[2]
