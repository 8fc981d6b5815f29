"""Agents that others trained, distilled with the default settings: what is kept at which cost.

    python benchmarks/distillation.py FOLDER [AGENT …] [--seeds 3] [--jobs 2] [--method dagger]

``FOLDER`` has agents as ``<algo>_<env>.zip``, with ``<algo>_<env>.vecnormalize.pkl`` beside those that learned on normalized
observations, such as those of the RL Zoo (``rl_zoo3.load_from_hub``). Without names, all agents are distilled. The baselines
``bc`` and ``gail`` come after ``dagger``: they learn the size that it chose with the same seed. Results go to
``benchmarks/results/distillation.json`` as they come; a run that is there already is not repeated.
"""

import argparse
import json
from concurrent.futures import ProcessPoolExecutor, as_completed
from multiprocessing import get_context
from pathlib import Path

import torch as th
from distillation_tables import chosen_student
from tqdm import tqdm

from sb3_asym.baselines import behavioural_cloning, gail
from sb3_asym.deployment import load_model, load_statistics
from sb3_asym.distillation import distill
from sb3_asym.envs import find_vec_normalize

OUTPUT = Path(__file__).parent / "results" / "distillation.json"


def run(path: Path, seed: int, method: str, sizes: list[list[int]] | None) -> dict:
    """One distillation, on one core."""
    th.set_num_threads(1)
    model = load_model(path)
    statistics = find_vec_normalize(path)
    vec_normalize = None if statistics is None else load_statistics(model, statistics)
    learn = {"dagger": distill, "bc": behavioural_cloning, "gail": gail}[method]
    report = learn(
        model,
        path.stem.partition("_")[2],
        sizes=sizes,
        vec_normalize=vec_normalize,
        int8=sizes is None and seed == 0,
        seed=seed,
    )
    return {"agent": path.stem, **report.to_dict()}


def sizes_to_compare(results: list[dict], name: str, seed: int) -> list[list[int]]:
    """The student that DAgger chose with the same seed."""
    (found,) = (r for r in results if (r["agent"], r["seed"], r["method"]) == (name, seed, "dagger"))
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
    names = arguments.agents or sorted(path.stem for path in arguments.folder.glob("*.zip"))
    results = json.loads(OUTPUT.read_text()) if OUTPUT.exists() else []
    done = {(result["agent"], result["seed"], result["method"]) for result in results}
    wanted = [(name, seed) for seed in range(arguments.seeds) for name in names]
    missing = [(name, seed) for name, seed in wanted if (name, seed, arguments.method) not in done]
    with ProcessPoolExecutor(arguments.jobs, mp_context=get_context("spawn")) as pool:
        futures = []
        for name, seed in missing:
            sizes = None if arguments.method == "dagger" else sizes_to_compare(results, name, seed)
            futures.append(pool.submit(run, arguments.folder / f"{name}.zip", seed, arguments.method, sizes))
        for future in tqdm(as_completed(futures), total=len(futures), unit="run"):
            results.append(future.result())
            results.sort(key=lambda result: (result["method"], result["agent"], result["seed"]))
            OUTPUT.write_text(json.dumps(results, indent=1) + "\n")


if __name__ == "__main__":
    main()
