"""Runs the sessions that docs/modules show and pastes what they printed into them: ``python docs/transcript.py``, or those of
some pages alone: ``python docs/transcript.py rl_zoo``.

The tuned study goes to benchmarks/results too, as data and picture.
"""

import re
import shlex
import shutil
import subprocess
import sys
from pathlib import Path
from tempfile import TemporaryDirectory

PAGES = Path(__file__).parent / "modules"
RESULTS = PAGES.parents[1] / "benchmarks" / "results"
AGENT = "logs/asym_sac/Pendulum-v1_1/Pendulum-v1.zip"
COMMANDS = {
    "rl_zoo": {
        "sb3-asym train --algo asym_sac --env Pendulum-v1 --seed 1 --eval-freq 5000 --device cpu --num-threads 1": 14,
        "sb3-asym enjoy --algo asym_sac --env Pendulum-v1 -f logs --no-render -n 2000 --device cpu": 4,
        f"sb3-asym evaluate {AGENT} --env Pendulum-v1": 8,
    },
    "tune": {
        "sb3-asym tune --env Pendulum-v1 --n-trials 24 --n-jobs 2 -n 12000 --cost-coef 0.01 3 --episodes 20 -o tune": 30,
    },
}
"""What is run for each page, and how many of the last lines are shown."""


def run(command: str, n_lines: int, folder: Path) -> str:
    """The command and the end of what it printed."""
    print(f"$ {command}", flush=True)
    program = [str(Path(sys.executable).parent / "sb3-asym"), *shlex.split(command)[1:]]
    result = subprocess.run(program, cwd=folder, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True, check=True)
    lines = result.stdout.rstrip().splitlines()
    cut = ["…"] if len(lines) > n_lines else []
    return "\n".join([f"$ {command}", *cut, *lines[-n_lines:]])


def main() -> None:
    """Run what the pages show, or those that are named, and write them."""
    for page in sys.argv[1:] or COMMANDS:
        with TemporaryDirectory() as name:
            text = "\n\n".join(run(command, n_lines, Path(name)) for command, n_lines in COMMANDS[page].items())
            if page == "tune":
                for source, kind in (("trials.csv", "csv"), ("pareto.png", "png")):
                    shutil.copy(Path(name) / "tune" / source, RESULTS / f"pareto_Pendulum-v1.{kind}")
        path = PAGES / f"{page}.md"
        start, end = f"<!-- transcript {page} -->", f"<!-- end transcript {page} -->"
        block = f"{start}\n```console\n{text}\n```\n{end}"
        path.write_text(re.sub(f"{start}.*?{end}", lambda _, block=block: block, path.read_text(), flags=re.DOTALL))


if __name__ == "__main__":
    main()
