"""Training with quantization in the loop against quantization after training, of the same agent.

    python benchmarks/quantization_aware.py [TASK …] [--seeds 3] [--jobs 1]

For each task and seed, SAC learns in full precision. From there it goes on, once in full precision and once for each scheme
with ``QuantizedTraining``: all have the same env steps, the same replay buffer to start from and the same settings. After
that, the agent that stayed in full precision is quantized without training, by observations of its own episodes, to the
nearest numbers and rounded in turn (GPTQ). All are measured over the same held-out episodes. Results go to
``benchmarks/results/quantization_aware.json`` as they come; a run that is there already is not repeated.
"""

import argparse
import tempfile
import time
from functools import partial
from pathlib import Path
from typing import Any

import gymnasium as gym
import torch as th
from going_on import go_on
from stable_baselines3 import SAC
from stable_baselines3.common.utils import LinearSchedule

from sb3_asym.deployment import DeployableAgent, deployable
from sb3_asym.deployment.rollouts import EnvPool, run_episodes
from sb3_asym.deployment.runners import ReferenceRunner
from sb3_asym.quantization import QuantizedTraining, as_trained, quantize
from sb3_asym.quantization.ptq import calibration_observations
from sb3_asym.versions import versions

OUTPUT = Path(__file__).parent / "results" / "quantization_aware.json"
TASKS: dict[str, dict[str, Any]] = {
    "Pendulum-v1": dict(full_precision=5_000, more=4_000, schemes=("int8", "int6", "int4", "int2")),
    "InvertedDoublePendulum-v5": dict(full_precision=10_000, more=7_000, schemes=("int8", "int6", "w4a8", "int4")),
}
UNITS = [64, 64]
LEARNING_RATE = 1e-3
N_EPISODES, EVALUATION_SEED = 50, 2_000_000


def measure(task: str, agents: list[DeployableAgent]) -> list[list[float]]:
    """Returns of the agents over the held-out episodes."""
    pool = EnvPool(partial(gym.make, task), 25, agents[0])
    episodes = run_episodes(pool, agents, N_EPISODES, EVALUATION_SEED)
    pool.close()
    return [done.returns.round(3).tolist() for done in episodes]


def learn_on(folder: Path, task: str, seed: int, n_steps: int, scheme: str | None) -> DeployableAgent:
    """Learn on from the saved agent, with a learning rate that falls to 0; the agent as training saw it."""
    schedule = LinearSchedule(LEARNING_RATE, 0.0, 1.0)
    model = SAC.load(folder / "agent", gym.make(task), device="cpu", learning_rate=schedule, learning_starts=0)
    model.load_replay_buffer(folder / "memory")
    model.set_random_seed(seed)
    model.learn(n_steps, callback=None if scheme is None else QuantizedTraining(scheme))
    return as_trained(deployable(model))


def run(task: str, seed: int) -> dict[str, Any]:
    """One seed of a task, on one core."""
    th.set_num_threads(1)
    settings, start = TASKS[task], time.process_time()
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        model = SAC("MlpPolicy", task, LEARNING_RATE, device="cpu", seed=seed, policy_kwargs=dict(net_arch=UNITS))
        model.learn(settings["full_precision"])
        model.save(folder / "agent")
        model.save_replay_buffer(folder / "memory")
        agents = {"fp32": learn_on(folder, task, seed, settings["more"], None)}
        for scheme in settings["schemes"]:
            agents[f"qat {scheme}"] = learn_on(folder, task, seed, settings["more"], scheme)
    full = agents["fp32"]
    observations = calibration_observations(ReferenceRunner(full), full, gym.make(task))
    for scheme in settings["schemes"]:
        for ptq in (scheme, f"{scheme}-gptq"):
            agents[f"ptq {ptq}"] = quantize(full, ptq, observations)
    returns = measure(task, list(agents.values()))
    common = {"task": task, "seed": seed, "settings": {**settings, "units": UNITS, "learning_rate": LEARNING_RATE}}
    return {
        **common,
        "returns": dict(zip(agents, returns, strict=True)),
        "cpu_seconds": round(time.process_time() - start),
        "versions": versions(),
    }


def main() -> None:
    """Run what is missing."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("tasks", nargs="*", choices=[[], *TASKS], help="all by default")
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--jobs", type=int, default=1)
    arguments = parser.parse_args()
    jobs = {(task, seed): (task, seed) for seed in range(arguments.seeds) for task in arguments.tasks or TASKS}
    go_on(OUTPUT, ("task", "seed"), jobs, run, arguments.jobs)


if __name__ == "__main__":
    main()
