"""Env steps per second of training, one gradient step each: AsymSAC against SB3's SAC, and SBX and RLtools where installed.

    python benchmarks/training_speed.py

measures on Swimmer-v5, batch 256, on one core, with learning under way. All agents of a round are timed one after the other,
and ratios are medians over the rounds, so that a noisy machine does little harm. Beside it: the arithmetic limit (FLOPs of the
update ÷ measured sgemm rate), the time by part, and the peak memory. Writes ``benchmarks/results/training_speed.json``.

``pip install sbx-rl`` adds SBX's SAC (JAX); ``pip install rltools mkl mkl-include`` adds RLtools' (C++).
"""

import argparse
import json
import os
import resource
import statistics
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Callable
from contextlib import contextmanager
from functools import wraps
from importlib.metadata import PackageNotFoundError, version
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import torch as th
from stable_baselines3 import SAC
from stable_baselines3.common.env_util import make_vec_env
from torch.utils._pytree import tree_map
from torch.utils.flop_counter import FlopCounterMode
from tqdm import tqdm

import sb3_asym.asym_sac
from sb3_asym import AsymSAC
from sb3_asym.update.graph import compile_function
from sb3_asym.update.option_batch import OptionBatch

TASK = "Swimmer-v5"
BATCH = 256
N_WARM_UP = 400
N_ROUNDS = 5
SIZES = {64: {2: (8, 64), 3: (8, 32, 64), 4: (8, 16, 32, 64)}, 256: {2: (32, 256), 3: (32, 128, 256), 4: (32, 64, 128, 256)}}
"""Units per layer by the largest network and K, two hidden layers each."""
N_STEPS = {64: 400, 256: 120}
CRITICS = ("option", "shared", "separate")
OUTPUT = Path(__file__).parent / "results" / "training_speed.json"
Learn = Callable[[int], Any]


def settings(n_envs: int, device: str) -> dict[str, Any]:
    """What all agents have in common: one update per env step."""
    return {
        "env": make_vec_env(TASK, n_envs, seed=0),
        "gradient_steps": -1,
        "batch_size": BATCH,
        "learning_starts": 300,
        "buffer_size": 100_000,
        "seed": 0,
        "device": device,
    }


def make_asym(units: tuple[int, ...], critic: str, n_envs: int, device: str, fast_update: bool = True) -> AsymSAC:
    """AsymSAC with sub-policies of these sizes."""
    archs = {"sub_net_archs": {f"units_{width}": [width, width] for width in units}}
    return AsymSAC(
        "MlpPolicy", critic=critic, policy_kwargs=archs, fast_update=fast_update, verbose=1, **settings(n_envs, device)
    )


def make_learners(largest: int, n_envs: int, device: str) -> dict[str, Learn]:
    """What trains each agent for a number of steps, warmed up."""
    models: dict[str, Any] = {}
    for units in SIZES[largest][4]:
        arch = {"net_arch": [units, units]}
        models[f"SB3 SAC {units}"] = SAC("MlpPolicy", policy_kwargs=arch, **settings(n_envs, device))
        if find_spec("sbx") and units == largest:
            from sbx import SAC as SBXSAC

            arguments = {key: value for key, value in settings(n_envs, device).items() if key != "device"}
            models[f"SBX SAC {units}"] = SBXSAC("MlpPolicy", policy_kwargs=arch, **arguments)
    for n_options, units in SIZES[largest].items():
        for critic in CRITICS:
            models[f"AsymSAC {n_options} {critic}"] = make_asym(units, critic, n_envs, device)
    for model in tqdm(models.values(), desc=f"warming up, up to {largest} units, {n_envs} envs"):
        model.learn(N_WARM_UP)
    learners: dict[str, Learn] = {
        name: lambda n_steps, model=model: model.learn(n_steps, reset_num_timesteps=False) for name, model in models.items()
    }
    if find_spec("rltools") and n_envs == 1 and device == "cpu":
        from rltools_sac import make_learner

        for units in (SIZES[largest][2][0], largest):
            learners[f"RLtools SAC {units}"] = make_learner(TASK, units, BATCH, N_WARM_UP)
    return learners


def measure(largest: int, n_envs: int, device: str) -> dict[str, Any]:
    """Steps per second of each agent, and ratios that the README claims, as medians over the rounds."""
    learners = make_learners(largest, n_envs, device)
    n_steps = N_STEPS[largest]
    rounds: list[dict[str, float]] = []
    for _ in tqdm(range(N_ROUNDS), desc="rounds"):
        times = {}
        for name, learn in learners.items():
            start = time.perf_counter()
            learn(n_steps)
            times[name] = (time.perf_counter() - start) / n_steps
        rounds.append(times)

    def ratio(numerator: list[str], denominator: list[str]) -> float:
        return statistics.median(sum(t[n] for n in numerator) / sum(t[d] for d in denominator) for t in rounds)

    rows = []
    for n_options, units in SIZES[largest].items():
        for critic in CRITICS:
            name = f"AsymSAC {n_options} {critic}"
            row: dict[str, Any] = {"units": units, "critic": critic}
            row["over_sac"] = ratio([f"SB3 SAC {largest}"], [name])
            row["over_all_sac"] = ratio([f"SB3 SAC {width}" for width in units], [name])
            row["time_over_two"] = ratio([name], [f"AsymSAC 2 {critic}"])
            row["time_over_shared"] = ratio([name], [f"AsymSAC {n_options} shared"])
            for other in ("SBX", "RLtools"):
                names = [f"{other} SAC {width}" for width in units]
                if names[-1] in learners:
                    row[f"over_{other}"] = ratio(names[-1:], [name])
                if all(n in learners for n in names):
                    row[f"over_all_{other}"] = ratio(names, [name])
            rows.append(row)
    steps_per_second = {name: 1 / statistics.median(times[name] for times in rounds) for name in learners}
    return {"largest": largest, "n_envs": n_envs, "rows": rows, "steps_per_second": steps_per_second}


def sgemm_rates(device: str, size: int = 1024) -> dict[str, float]:
    """GFLOPs per second of a matrix product in float32, compiled as the update is and by torch: the best of 20."""
    a, b = th.rand(size, size, device=device), th.rand(size, size, device=device)
    rates = {}
    for name, product in {"compiled": compile_function(th.mm, [a, b]), "torch": th.mm}.items():
        times = []
        for _ in range(20):
            start = time.perf_counter()
            product(a, b)[0, 0].item()
            times.append(time.perf_counter() - start)
        rates[name] = 2e-9 * size**3 / min(times)
    return rates


def update_flops(model: AsymSAC) -> int:
    """FLOPs of the matrix products of one update of all sub-policies, critics and master."""
    update: Any = model._update.present
    batch = model._sample(BATCH)
    noise = th.zeros((1, *update._noise_shape(batch)), device=model.device)
    calls = [(update._update, update._inputs([batch], [True], noise), update._state(batch))]
    if not isinstance(batch, OptionBatch):  # else the master's is part of it
        master = update.master_update
        inputs = master._inputs([model.master.replay_buffer.sample(BATCH)], model.master.max_grad_norm)
        calls.append((master._update, inputs, master._state))
    with FlopCounterMode(display=False) as counter, th.no_grad():
        for function, (inputs,), state in calls:
            function(*tree_map(th.clone, (*inputs, *state)))
    return counter.get_total_flops()


@contextmanager
def timed(totals: Counter[str], part: str, owner: Any, name: str):
    """Adds the time spent in a function to ``totals``, less what other parts take within it."""
    function = getattr(owner, name)

    @wraps(function)
    def wrapper(*args: Any, **kwargs: Any) -> Any:
        outer, start = totals.total(), time.perf_counter()
        try:
            return function(*args, **kwargs)
        finally:
            totals[part] += time.perf_counter() - start - (totals.total() - outer)

    setattr(owner, name, wrapper)
    yield
    setattr(owner, name, function)


def profile(model: AsymSAC, n_steps: int = 1000) -> dict[str, float]:
    """Share of the training time by part."""
    totals: Counter[str] = Counter()
    start = time.perf_counter()
    with (
        timed(totals, "env", model.env, "step"),
        timed(totals, "choose", model.policy, "advance"),
        timed(totals, "act", model.policy, "actions"),
        timed(totals, "store", model, "_store_transition"),
        timed(totals, "sample", sb3_asym.asym_sac, "sample_transitions"),
        timed(totals, "sample", model.option_memory, "sample"),
        timed(totals, "sample", model.master, "batch_of"),
        timed(totals, "update", model._update.present, "steps"),
        timed(totals, "update", model.master, "train"),
    ):
        model.learn(n_steps, reset_num_timesteps=False)
    whole = time.perf_counter() - start
    totals["rest"] = whole - totals.total()
    return {part: seconds / whole for part, seconds in totals.items()}


def peak_memory(fast_update: bool) -> float:
    """Peak resident memory in MB of a process of its own, without that of compiling."""
    command = [sys.executable, __file__, "--memory", "fast" if fast_update else "plain"]
    return float(subprocess.run(command, check=True, capture_output=True, text=True).stdout.split()[-1])


def train_and_print_memory(fast_update: bool) -> None:
    """Print the process's peak memory in MB after a training."""
    make_asym(SIZES[256][2], CRITICS[0], 1, "cpu", fast_update).learn(N_WARM_UP)
    print(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024)


def versions() -> dict[str, str]:
    """Of the packages that were compared."""
    found = {}
    for package in ("sb3-asym", "stable-baselines3", "torch", "sbx-rl", "rltools"):
        try:
            found[package] = version(package)
        except PackageNotFoundError:
            continue
    return found


def main() -> None:
    """Measure and write the results."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--memory", choices=["fast", "plain"], help="only train and print the peak memory")
    arguments = parser.parse_args()
    th.set_num_threads(1)
    if hasattr(os, "sched_setaffinity"):
        os.sched_setaffinity(0, [min(os.sched_getaffinity(0))])  # one core for all, whatever threads they start
    if arguments.memory:
        train_and_print_memory(arguments.memory == "fast")
        return
    # First, as a process starts with the peak of the one that started it.
    peaks = {name: peak_memory(name == "fast") for name in ("plain", "fast")}
    rates = sgemm_rates(arguments.device)
    details = []
    for sizes in SIZES.values():
        for n_options, units in sizes.items():
            for critic in CRITICS:
                model = make_asym(units, critic, 1, arguments.device)
                model.learn(N_WARM_UP)
                flops = update_flops(model)
                details.append(
                    {
                        "units": units,
                        "critic": critic,
                        "update_flops": flops,
                        "limit_steps_per_second": 1e9 * rates["compiled"] / flops,
                        "time_by_part": profile(model) if n_options == 2 else None,
                    }
                )
                print(details[-1])
    result = {
        "device": arguments.device,
        "task": TASK,
        "rounds": N_ROUNDS,
        "sgemm_gflops_per_second": rates,
        "speed": [measure(largest, n_envs, arguments.device) for largest in SIZES for n_envs in (1, 8)],
        "details": details,
        "peak_memory_mb": peaks,
        "versions": versions(),
    }
    output = OUTPUT if arguments.device == "cpu" else OUTPUT.with_stem(f"{OUTPUT.stem}_{arguments.device}")
    output.write_text(json.dumps(result, indent=1) + "\n")
    print(f"Results: {output}")


if __name__ == "__main__":
    main()
