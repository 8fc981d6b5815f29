"""The memory that exported C takes."""

import subprocess
import tempfile
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path


@dataclass(frozen=True)
class Footprint:
    """
    Bytes of the object code; functions of libm are not in it.

    :param flash: code and constants
    :param code: flash without the numbers of the networks
    :param ram: variables, the state of one agent and the stack
    :param stack: of the deepest chain of calls, at most
    """

    flash: int
    code: int
    ram: int
    stack: int


def footprint(source: Path, n_weight_bytes: int, action_dim: int, compiler: Sequence[str], size: str = "size") -> Footprint:
    """
    :param source: of the agent
    :param n_weight_bytes: bytes of the numbers of the networks
    :param action_dim: length of the action
    :param compiler: with its flags
    :param size: the binutils program
    :return: what the compiled agent takes
    :raises FileNotFoundError: if the compiler or ``size`` is missing
    """
    source = source.resolve()
    with tempfile.TemporaryDirectory() as name:
        build = Path(name)
        command: list[str | Path] = [*compiler, "-c", "-fstack-usage", "-I", source.parent, source, "-o", "policy.o"]
        subprocess.run(command, check=True, cwd=build)
        printed = subprocess.run([size, "-A", "policy.o"], check=True, cwd=build, capture_output=True, text=True).stdout
        stack = _stack(next(build.glob("*.su")).read_text())
    sections = {row[0]: int(row[1]) for row in map(str.split, printed.splitlines()) if row and row[0].startswith(".")}
    if not any(section.startswith(".text") for section in sections):
        raise OSError(f"{size} does not list the sections of an ELF file here.")
    flash = sum(n for section, n in sections.items() if section.startswith((".text", ".rodata", ".data")))
    state = 2 * 4 + 4 * action_dim
    variables = sections.get(".data", 0) + sections.get(".bss", 0)
    return Footprint(flash, flash - n_weight_bytes, variables + state + stack, stack)


def _stack(usage: str) -> int:
    """
    At most: the step, the hungriest network and the hungriest function that a network calls.

    :param usage: what ``-fstack-usage`` writes: ``file:line:column:function``, bytes and their kind
    """
    rows = [line.split("\t") for line in usage.splitlines()]
    deepest = {"step": 0, "network": 0, "leaf": 0}
    for place, n_bytes, _ in rows:
        function = place.rpartition(":")[2].partition(".")[0]
        kind = "step" if function.endswith("_step") else "network" if function.startswith("network_") else "leaf"
        deepest[kind] = max(deepest[kind], int(n_bytes))
    return sum(deepest.values())
