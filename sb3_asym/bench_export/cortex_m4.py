"""Exported C on a Cortex-M4F: compiled by arm-none-eabi-gcc, run by QEMU, which counts instructions."""

import shutil
import subprocess
import tempfile
from pathlib import Path

import numpy as np

from sb3_asym.export.c_runner import CFormat

COMPILER = ("arm-none-eabi-gcc", "-std=c99", "-O2", "-mcpu=cortex-m4", "-mthumb", "-mfpu=fpv4-sp-d16", "-mfloat-abi=hard")
SIZE = "arm-none-eabi-size"
QEMU = "qemu-system-arm"
BOARD = ("-M", "mps2-an386", "-nographic", "-icount", "shift=6")
BOARD_FILES = Path(__file__).parent / "templates" / "cortex_m4"
TIME_LIMIT = 300


def check_that_programs_run() -> None:
    """
    Check that the compiler and the emulator are installed.

    :raises FileNotFoundError: if the compiler or the emulator is missing
    """
    for program in (COMPILER[0], QEMU):
        if shutil.which(program) is None:
            raise FileNotFoundError(f"{program} is not installed.")


def passes_selftest(target: CFormat, folder: Path) -> bool:
    """
    Run the exported self-test on the emulated processor.

    :param target: C format with the prefix of the code
    :param folder: folder with the code
    :return: True if options and actions are those that were recorded
    :raises OSError: if the compiler or the emulator is missing or fails
    """
    check_that_programs_run()
    with tempfile.TemporaryDirectory() as build:
        sources = [folder / f"{target.prefix}_policy_selftest.c", target.source(folder)]
        program = Path(build) / "selftest"
        subprocess.run([*_firmware_compiler(), "-I", folder, *sources, "-o", program, "-lm"], check=True)
        return _run([str(program)], Path(build)).startswith("ok")


def instructions(target: CFormat, folder: Path, observations: np.ndarray) -> np.ndarray:
    """
    Count the instructions of each step on the emulated processor.

    :param target: C format with the prefix of the code
    :param folder: folder with the code
    :param observations: ``(n_steps, obs_dim)`` observations of an episode
    :return: ``(n_steps,)`` instructions of each step, exact to about one
    :raises OSError: if the compiler or the emulator is missing or fails
    """
    check_that_programs_run()
    with tempfile.TemporaryDirectory() as build:
        command = target.replay_command(folder, Path(build), observations, 1, _firmware_compiler())
        return np.array(_run(command, Path(build)).split(), dtype=np.float64)


def _firmware_compiler() -> tuple[str, ...]:
    """Compiler and flags for programs that start on the emulated board; newlib's system calls go to this machine."""
    posix = ("-D_POSIX_TIMERS", "-D_POSIX_MONOTONIC_CLOCK")  # without them, newlib does not declare clock_gettime
    return (*COMPILER, *posix, "--specs=rdimon.specs", "-T", f"{BOARD_FILES}.ld", f"{BOARD_FILES}.c")


def _run(command: list[str], build: Path) -> str:
    """Run a program with its arguments on the emulated board, and return its output."""
    arguments = ",".join(f"arg={Path(argument).name}" for argument in command)
    semihosting = ("-semihosting-config", f"enable=on,target=native,{arguments}")
    qemu = [QEMU, *BOARD, *semihosting, "-kernel", command[0]]
    try:
        done = subprocess.run(qemu, cwd=build, stdin=subprocess.DEVNULL, capture_output=True, text=True, timeout=TIME_LIMIT)
    except subprocess.TimeoutExpired as error:
        raise OSError(f"{QEMU} did not end within {TIME_LIMIT} s.") from error
    if not done.stdout:
        raise OSError(f"{QEMU} ended without a result: {done.stderr.strip()}")
    return done.stdout
