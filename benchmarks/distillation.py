"""Agents that others trained, distilled with the default settings: what is kept at which cost.

    python benchmarks/distillation.py FOLDER [AGENT …] [--seeds 3] [--jobs 2] [--method dagger]

``FOLDER`` has agents as ``<algo>_<env>.zip``, with ``<algo>_<env>.vecnormalize.pkl`` beside those that learned on normalized
observations, such as those of the RL Zoo (``rl_zoo3.load_from_hub``). Without names, all agents are distilled. The baselines
``bc`` and ``gail`` come after ``dagger``: they learn the size that it chose with the same seed. Results go to
``benchmarks/results/distillation.json`` as they come; a run that is there already is not repeated.
"""

import argparse
from pathlib import Path

import torch as th
from distillation_tables import chosen_student
from going_on import go_on, read
from trained_agents import load_agent

from sb3_asym.baselines import behavioural_cloning, gail
from sb3_asym.distillation import distill

OUTPUT = Path(__file__).parent / "results" / "distillation.json"


def run(path: Path, seed: int, method: str, sizes: list[list[int]] | None) -> dict:
    """One distillation, on one core."""
    th.set_num_threads(1)
    model, vec_normalize, env = load_agent(path)
    learn = {"dagger": distill, "bc": behavioural_cloning, "gail": gail}[method]
    report = learn(
        model,
        env,
        sizes=sizes,
        vec_normalize=vec_normalize,
        int8=sizes is None and seed == 0,
        seed=seed,
    )
    return {"agent": path.stem, **report.to_dict()}


def sizes_to_compare(name: str, seed: int) -> list[list[int]]:
    """The student that DAgger chose with the same seed."""
    (found,) = (r for r in read(OUTPUT) if (r["method"], r["agent"], r["seed"]) == ("dagger", name, seed))
    return [chosen_student(found)["hidden"][0]]


def main() -> None:
    """Run what is missing."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folder", type=Path)
    parser.add_argument("agents", nargs="*", help="names without .zip; all by default")
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--jobs", type=int, default=2)
    parser.add_argument("--method", default="dagger", choices=["dagger", "bc", "gail"])
    arguments = parser.parse_args()
    method, jobs = arguments.method, {}
    for seed in range(arguments.seeds):
        for name in arguments.agents or sorted(path.stem for path in arguments.folder.glob("*.zip")):
            sizes = None if method == "dagger" else sizes_to_compare(name, seed)
            jobs[method, name, seed] = (arguments.folder / f"{name}.zip", seed, method, sizes)
    go_on(OUTPUT, ("method", "agent", "seed"), jobs, run, arguments.jobs)


if __name__ == "__main__":
    main()
