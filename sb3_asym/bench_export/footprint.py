"""Memory of exported C code: flash, RAM and stack."""

import subprocess
import tempfile
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path


@dataclass(frozen=True)
class Footprint:
    """
    Memory of the object code, without the functions of libm.

    :param flash: bytes of code and constants
    :param code: bytes of flash without the numbers of the networks
    :param ram: bytes of the variables, the state of one agent and the stack
    :param stack: upper bound on the bytes of the stack
    """

    flash: int
    code: int
    ram: int
    stack: int


def footprint(source: Path, n_weight_bytes: int, compiler: Sequence[str], size: str = "size") -> Footprint:
    """
    Compile the C code of an agent, and measure its memory.

    :param source: path to the C source of the agent
    :param n_weight_bytes: bytes of the numbers of the networks
    :param compiler: compiler and its flags
    :param size: name of the binutils program that lists the sections
    :return: memory of the compiled agent
    :raises FileNotFoundError: if the compiler or ``size`` is missing
    :raises OSError: if ``size`` lists no sections of an ELF file
    """
    source = source.resolve()
    prefix = source.stem.removesuffix("_policy")
    with tempfile.TemporaryDirectory() as name:
        build = Path(name)
        command: list[str | Path] = [*compiler, "-c", "-fstack-usage", "-I", source.parent]
        subprocess.run([*command, source, "-o", "policy.o"], check=True, cwd=build)
        stack = _stack(next(build.glob("*.su")).read_text())
        sections = _sections(build / "policy.o", size)
        if not any(section.startswith(".text") for section in sections):
            raise OSError(f"{size} does not list the sections of an ELF file here.")
        (build / "state.c").write_text(f'#include "{prefix}_policy.h"\n{prefix}_state_t state = {{0}};\n')
        subprocess.run([*command, "state.c", "-o", "state.o"], check=True, cwd=build)
        state = _sections(build / "state.o", size)[".bss"]
    flash = sum(n for section, n in sections.items() if section.startswith((".text", ".rodata", ".data")))
    variables = sections.get(".data", 0) + sections.get(".bss", 0)
    return Footprint(flash, flash - n_weight_bytes, variables + state + stack, stack)


def _sections(object_file: Path, size: str) -> dict[str, int]:
    """Bytes of each section of an object file."""
    printed = subprocess.run([size, "-A", object_file], check=True, capture_output=True, text=True).stdout
    sections: dict[str, int] = {}
    for line in printed.splitlines():
        if line.strip().startswith("."):
            section, n_bytes = line.split()[:2]
            sections[section] = int(n_bytes)
    return sections


def _stack(usage: str) -> int:
    """
    Upper bound on the bytes of the stack: those of the step, of the largest network and of the largest function that it calls.

    :param usage: output of ``-fstack-usage``, in lines of ``file:line:column:function``, bytes and the kind of the bytes
    :return: the bound
    """
    deepest = {"step": 0, "network": 0, "leaf": 0}
    for line in usage.splitlines():
        place, n_bytes, _ = line.split("\t")
        function = place.rpartition(":")[2].partition(".")[0]
        kind = "step" if function.endswith("_step") else "network" if function.startswith("network_") else "leaf"
        deepest[kind] = max(deepest[kind], int(n_bytes))
    return sum(deepest.values())
