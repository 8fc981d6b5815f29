"""Runs the session that docs/zoo.md shows and pastes what it printed into it: ``python docs/transcript.py``.

The tuned study goes to benchmarks/results too, as data and picture.
"""

import re
import shlex
import shutil
import subprocess
import sys
from pathlib import Path
from tempfile import TemporaryDirectory

DOCS = Path(__file__).parent
RESULTS = DOCS.parent / "benchmarks" / "results"
AGENT = "logs/asym_sac/Pendulum-v1_1/Pendulum-v1.zip"
COMMANDS = {
    "sb3-asym train --algo asym_sac --env Pendulum-v1 --seed 1 --eval-freq 5000 --device cpu --num-threads 1": 14,
    "sb3-asym enjoy --algo asym_sac --env Pendulum-v1 -f logs --no-render -n 2000 --device cpu": 4,
    f"sb3-asym evaluate {AGENT} --env Pendulum-v1": 8,
    "sb3-asym tune --env Pendulum-v1 --n-trials 24 --n-jobs 2 -n 12000 --cost-coef 0.01 3 --episodes 20 -o tune": 30,
}
"""What is run, and how many of the last lines are shown."""


def run(command: str, n_lines: int, folder: Path) -> str:
    """The command and the end of what it printed."""
    print(f"$ {command}", flush=True)
    program = [str(Path(sys.executable).parent / "sb3-asym"), *shlex.split(command)[1:]]
    result = subprocess.run(program, cwd=folder, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True, check=True)
    lines = result.stdout.rstrip().splitlines()
    cut = ["…"] if len(lines) > n_lines else []
    return "\n".join([f"$ {command}", *cut, *lines[-n_lines:]])


def main() -> None:
    """Run everything and write the page."""
    with TemporaryDirectory() as name:
        folder = Path(name)
        text = "\n\n".join(run(command, n_lines, folder) for command, n_lines in COMMANDS.items())
        for kind in ("csv", "png"):
            source = folder / "tune" / {"csv": "trials.csv", "png": "pareto.png"}[kind]
            shutil.copy(source, RESULTS / f"pareto_Pendulum-v1.{kind}")
    page = DOCS / "zoo.md"
    heading = "## A session\n\n`python docs/transcript.py` ran this (cut where it says …):"
    block = f"<!-- transcript -->\n{heading}\n\n```console\n{text}\n```\n<!-- end transcript -->"
    page.write_text(re.sub("<!-- transcript -->.*<!-- end transcript -->", lambda _: block, page.read_text(), flags=re.DOTALL))


if __name__ == "__main__":
    main()
