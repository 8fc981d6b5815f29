"""Agents that others trained, quantized after training with the default settings: what is lost with how many bits.

    python benchmarks/quantization.py FOLDER [AGENT …] [--seeds 3] [--jobs 2]

``FOLDER`` has agents as ``<algo>_<env>.zip``, with ``<algo>_<env>.vecnormalize.pkl`` beside those that learned on normalized
observations, such as those of the RL Zoo (``rl_zoo3.load_from_hub``). Without names, all agents are measured, over 20 episodes
of each form and seed. Results go to ``benchmarks/results/quantization.json`` as they come; a run that is there already is not
repeated.
"""

import argparse
from pathlib import Path

import numpy as np
import torch as th
from going_on import go_on
from stable_baselines3.common.base_class import BaseAlgorithm
from stable_baselines3.common.vec_env import VecNormalize
from trained_agents import load_agent

from sb3_asym.deployment import deployable
from sb3_asym.deployment.runners import ReferenceRunner
from sb3_asym.envs import make_env
from sb3_asym.quantization import sweep
from sb3_asym.quantization.ptq import calibration_observations

OUTPUT = Path(__file__).parent / "results" / "quantization.json"
BITS = (8, 6, 4, 2)
FAMILIES = ("w{}-tensor-affine", "w{}-gptq", "int{}", "int{}-gptq")
SCHEMES = ("fp16", *(family.format(bits) for bits in BITS for family in FAMILIES))
SEEDS_APART = 1000
"""Seeds of the first episodes of two runs are so far apart that no episode is run twice."""


def run(path: Path, seed: int) -> dict:
    """One agent in all schemes, on one core."""
    th.set_num_threads(1)
    model, vec_normalize, env = load_agent(path)
    report = sweep(model, env, SCHEMES, vec_normalize=vec_normalize, seed=SEEDS_APART * seed)
    return {"agent": path.stem, **report.to_dict(), "seed": seed, "gap": decision_gap(model, vec_normalize, env)}


def decision_gap(model: BaseAlgorithm, vec_normalize: VecNormalize | None, env: str) -> float | None:
    """Median distance of the two greatest outputs of a discrete agent ÷ mean size of its outputs, in its own episodes."""
    agent = deployable(model, vec_normalize)
    if agent.output != "argmax":
        return None
    observations = calibration_observations(ReferenceRunner(agent), agent, make_env(env))
    outputs = np.sort(agent.sub_policies[0].forward(agent.normalize(observations)).numpy(), axis=1)
    return float(np.median(outputs[:, -1] - outputs[:, -2]) / np.abs(outputs).mean())


def main() -> None:
    """Run what is missing."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folder", type=Path)
    parser.add_argument("agents", nargs="*", help="names without .zip; all by default")
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--jobs", type=int, default=2)
    arguments = parser.parse_args()
    names = arguments.agents or sorted(path.stem for path in arguments.folder.glob("*.zip"))
    jobs: dict = {}
    for seed in range(arguments.seeds):
        jobs |= {(name, seed): (arguments.folder / f"{name}.zip", seed) for name in names}
    go_on(OUTPUT, ("agent", "seed"), jobs, run, arguments.jobs)


if __name__ == "__main__":
    main()
