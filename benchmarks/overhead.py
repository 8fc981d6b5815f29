"""Time of ``predict`` and ``learn`` as multiples of stock SAC's, measured side by side: medians of interleaved rounds.

    python benchmarks/overhead.py

writes ``benchmarks/results/overhead.json``. Nets: (8, 64) units for AsymSAC, 64 for SAC, on Pendulum-v1 and one core.
"""

import argparse
import json
import statistics
import time
from collections.abc import Callable
from pathlib import Path

import stable_baselines3
import torch as th
from stable_baselines3 import SAC
from tqdm import trange

from sb3_asym import AsymSAC, __version__
from sb3_asym.sub_policies import CRITICS

N_ROUNDS = 7
N_PREDICTS = 2_000
N_STEPS = 500
OUTPUT = Path(__file__).parent / "results" / "overhead.json"
ASYM = {"policy_kwargs": {"sub_net_archs": {"small": [8, 8], "large": [64, 64]}}}


def make_models() -> dict[str, SAC]:
    """Stock SAC of the large size, and AsymSAC with each kind of critic and update, warmed up."""
    common = {"env": "Pendulum-v1", "learning_starts": 100, "seed": 0, "device": "cpu"}
    models: dict[str, SAC] = {"SAC": SAC("MlpPolicy", policy_kwargs={"net_arch": [64, 64]}, **common)}
    for critic in CRITICS:
        for update, fast_update in {"plain": False, "compiled": True}.items():
            models[f"{critic}, {update}"] = AsymSAC("MlpPolicy", critic=critic, fast_update=fast_update, **ASYM, **common)
    for model in models.values():
        model.learn(300)
    return models


def time_predict(model: SAC) -> float:
    """Seconds for steps of a control loop, the state passed back in."""
    observation, state = model.get_env().reset(), None
    start = time.perf_counter()
    for _ in range(N_PREDICTS):
        _, state = model.predict(observation, state, deterministic=True)
    return time.perf_counter() - start


def time_learn(model: SAC) -> float:
    """Seconds for training steps, one update each."""
    start = time.perf_counter()
    model.learn(N_STEPS, reset_num_timesteps=False)
    return time.perf_counter() - start


def ratios(models: dict[str, SAC], measure: Callable[[SAC], float]) -> dict[str, float]:
    """Median over rounds of each model's time ÷ SAC's in the same round."""
    rounds = [{name: measure(model) for name, model in models.items()} for _ in trange(N_ROUNDS, desc=measure.__name__)]
    return {name: statistics.median(times[name] / times["SAC"] for times in rounds) for name in models if name != "SAC"}


def main() -> None:
    """Measure and write the results."""
    argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter).parse_args()
    th.set_num_threads(1)
    models = make_models()
    result = {
        "predict_time_over_sac": ratios(models, time_predict),
        "learn_time_over_sac": ratios(models, time_learn),
        "rounds": N_ROUNDS,
        "versions": {"sb3_asym": __version__, "stable_baselines3": stable_baselines3.__version__, "torch": th.__version__},
    }
    OUTPUT.write_text(json.dumps(result, indent=1) + "\n")
    print(json.dumps(result, indent=1))


if __name__ == "__main__":
    main()
