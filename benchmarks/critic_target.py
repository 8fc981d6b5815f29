"""Whose action should the shared critic's target take at s'? The master's choice there, or the option in force?

    python benchmarks/critic_target.py --jobs 2

With "choice", the target assumes that the master chooses anew at every step; with "in force", that an option goes on until
its end, as it does in deployment. Writes ``benchmarks/results/critic_target.json``.
"""

import argparse
import json
from concurrent.futures import ProcessPoolExecutor
from pathlib import Path

import numpy as np
import torch as th
from stable_baselines3.common.buffers import ReplayBuffer
from tqdm import tqdm

from sb3_asym import AsymSAC, __version__, evaluate
from sb3_asym.buffers import Batch
from sb3_asym.update.plain import PlainUpdate

SEEDS = (0, 1, 2)
TIMESTEPS = 12_000
SETTINGS = {"sub_net_archs": {"small": [4], "large": [64, 64]}}
OUTPUT = Path(__file__).parent / "results" / "critic_target.json"


class IndexedReplayBuffer(ReplayBuffer):
    """Remembers which rows it sampled last (one env)."""

    def _get_samples(self, batch_inds, env=None):
        self.sampled = batch_inds
        return super()._get_samples(batch_inds, env)


class InForceUpdate(PlainUpdate):
    """The option goes on at s' where it had steps left, else the master chooses."""

    def next_options(self, batch: Batch) -> th.Tensor:
        memory, buffer = self.model.option_memory, self.model.replay_buffer
        rows = buffer.sampled
        following = (rows + 1) % buffer.buffer_size
        goes_on = (memory.options[rows] >= 0) & (memory.lengths[following] == 0) & (following != buffer.pos)[:, None]
        in_force = th.as_tensor(np.where(goes_on, memory.options[rows], 0)[:, 0].astype(np.int64))
        return th.where(th.as_tensor(goes_on[:, 0]), in_force, super().next_options(batch))


class InForceAsymSAC(AsymSAC):
    """AsymSAC with that target."""

    def _make_update(self, batch: Batch) -> PlainUpdate:
        return InForceUpdate(self)


def run(job: tuple[str, int]) -> dict:
    """Train and evaluate one agent."""
    target, seed = job
    th.set_num_threads(1)
    model = {"choice": AsymSAC, "in force": InForceAsymSAC}[target](
        "MlpPolicy",
        "Pendulum-v1",
        cost_coef=0.3,
        learning_rate=1e-3,
        policy_kwargs=SETTINGS,
        replay_buffer_class=IndexedReplayBuffer,
        fast_update=False,
        seed=seed,
        device="cpu",
    )
    model.learn(TIMESTEPS)
    return {"target": target, "seed": seed, **evaluate(model, n_eval_episodes=20).to_dict()}


def main() -> None:
    """Compare both on the same seeds."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--jobs", type=int, default=1, help="trainings at a time")
    jobs = [(target, seed) for seed in SEEDS for target in ("choice", "in force")]
    with ProcessPoolExecutor(parser.parse_args().jobs) as pool:
        rows = list(tqdm(pool.map(run, jobs), total=len(jobs), desc="trainings"))
    versions = {"sb3_asym": __version__, "torch": th.__version__}
    OUTPUT.write_text(
        json.dumps({"timesteps": TIMESTEPS, "settings": SETTINGS, "versions": versions, "rows": rows}, indent=1) + "\n"
    )
    for target in ("choice", "in force"):
        means = [row["mean_reward"] for row in rows if row["target"] == target]
        uses = [row["option_use"]["large"] for row in rows if row["target"] == target]
        print(f"{target}: return {np.mean(means):.1f} ± {np.std(means):.1f}, large in force {np.mean(uses):.0%}")


if __name__ == "__main__":
    main()
