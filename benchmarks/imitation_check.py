"""Behavioural cloning and GAIL of sb3_asym beside those of the package `imitation`, on the same data of a teacher.

    python -m venv imitation-env && imitation-env/bin/pip install imitation==1.0.1
    python benchmarks/imitation_check.py sac_Pendulum-v1.zip --imitation-python imitation-env/bin/python

The teacher is any model of SB3 for the env; its data go as arrays to `imitation`, which needs older versions of SB3 and
gymnasium and so an environment of its own. Both have the same size of student, numbers of env steps and gradient steps, batch
size and held-out episodes, and for GAIL the same algorithm (SAC) with the same arguments, replay that is relabelled, and the
best of all rounds by the selection episodes. All else is as either package has it. Writes
``benchmarks/results/imitation_check.json``.
"""

import argparse
import json
import platform
import subprocess
import tempfile
import time
from importlib.metadata import version
from pathlib import Path
from typing import Any

import gymnasium as gym
import numpy as np
import torch as th
from stable_baselines3 import SAC

OUTPUT = Path(__file__).parent / "results" / "imitation_check.json"
SETTINGS: dict[str, Any] = {
    "env": "Pendulum-v1",
    "seeds": [0, 1, 2],
    "student": [32, 32],
    "n_rounds": 10,
    "n_envs": 5,
    "n_steps": 200,
    "n_episodes": 20,
    "bc": {"n_updates": 20_000, "batch_size": 256},
    "sac": {"learning_rate": 1e-3},
    "discriminator": {"batch_size": 256, "update_every": 100, "n_updates": 50},
}


def ours(teacher_path: str, seed: int, folder: Path) -> list[dict[str, Any]]:
    """Both methods of this package; the teacher's data are left in the folder."""
    from sb3_asym.baselines import DiscriminatorSettings, behavioural_cloning, gail
    from sb3_asym.deployment import load_model
    from sb3_asym.deployment.rollouts import EnvPool
    from sb3_asym.distillation import DistillationSettings
    from sb3_asym.distillation.rollouts import collect
    from sb3_asym.distillation.students import Schedule
    from sb3_asym.distillation.teacher import Teacher

    n_rounds, n_envs, n_steps = SETTINGS["n_rounds"], SETTINGS["n_envs"], SETTINGS["n_steps"]
    model = load_model(Path(teacher_path))
    teacher = Teacher(model)
    pool = EnvPool(lambda: gym.make(SETTINGS["env"]), n_envs, teacher.agent)
    for env in range(n_envs):  # the same states as in a distillation of this seed
        pool.reset(env, seed * n_envs + env)
    states, actions = collect(pool, teacher, [], 0.0, n_rounds * n_steps, np.random.default_rng(seed))
    np.savez(folder / f"teacher_{seed}.npz", states=states, actions=actions)
    schedule = Schedule(n_updates=SETTINGS["bc"]["n_updates"], batch_size=SETTINGS["bc"]["batch_size"])
    settings = DistillationSettings(n_rounds=n_rounds, n_envs=n_envs, n_steps=n_steps, schedule=schedule)
    common = dict(
        sizes=[SETTINGS["student"]], seed=seed, n_eval_episodes=SETTINGS["n_episodes"], settings=settings, budget=float("inf")
    )
    reports = [
        behavioural_cloning(model, SETTINGS["env"], **common),
        gail(
            model,
            SETTINGS["env"],
            **common,
            discriminator=DiscriminatorSettings(**SETTINGS["discriminator"]),
            algorithm_kwargs=SETTINGS["sac"],
        ),
    ]
    rows = []
    for report in reports:
        student = report.best
        assert student is not None
        rows.append(row("sb3_asym", report.method, seed, student.mean_reward, student.std_reward, report.seconds))
    return [*rows, row("teacher", "", seed, report.teacher.mean_reward, report.teacher.std_reward, 0.0)]


def theirs(seed: int, folder: Path, held_out_seed: int, selection_seed: int) -> list[dict[str, Any]]:
    """Both methods of `imitation`, from the data in the folder."""
    start = time.monotonic()
    with np.load(folder / f"teacher_{seed}.npz") as arrays:
        policy = their_bc(arrays["states"], arrays["actions"], seed)
        n_demonstrations = SETTINGS["n_envs"] * SETTINGS["n_steps"]
        demonstrations = arrays["states"][:n_demonstrations], arrays["actions"][:n_demonstrations]
    bc = row("imitation", "bc", seed, *returns(policy, held_out_seed), time.monotonic() - start)
    start = time.monotonic()
    policy = their_gail(*demonstrations, seed, selection_seed)
    return [bc, row("imitation", "gail", seed, *returns(policy, held_out_seed), time.monotonic() - start)]


def their_bc(states: np.ndarray, actions: np.ndarray, seed: int) -> Any:
    """Behavioural cloning by `imitation`, whose default policy has 32, 32 units."""
    from imitation.algorithms.bc import BC

    th.manual_seed(seed)
    env = make_env()
    trainer = BC(
        observation_space=env.observation_space,
        action_space=env.action_space,
        demonstrations=transitions(states, actions),
        batch_size=SETTINGS["bc"]["batch_size"],
        rng=np.random.default_rng(seed),
        device="cpu",
    )
    trainer.train(n_batches=SETTINGS["bc"]["n_updates"], progress_bar=False, log_interval=10**9)
    return trainer.policy


def their_gail(states: np.ndarray, actions: np.ndarray, seed: int, selection_seed: int) -> Any:
    """GAIL by `imitation`, as its documentation has it but with SAC, whose replay is relabelled; the best of all rounds."""
    from copy import deepcopy

    from imitation.algorithms.adversarial.gail import GAIL
    from imitation.policies.replay_buffer_wrapper import ReplayBufferRewardWrapper
    from imitation.rewards.reward_nets import BasicRewardNet
    from imitation.util.networks import RunningNorm
    from stable_baselines3.common.buffers import ReplayBuffer
    from stable_baselines3.common.vec_env import DummyVecEnv

    th.manual_seed(seed)
    n_envs, discriminator = SETTINGS["n_envs"], SETTINGS["discriminator"]
    venv = DummyVecEnv([make_env] * n_envs)
    net = BasicRewardNet(venv.observation_space, venv.action_space, normalize_input_layer=RunningNorm)
    trainers: list[GAIL] = []

    def reward(*arguments: Any, **keywords: Any) -> np.ndarray:
        return trainers[0].reward_train.predict_processed(*arguments, **keywords, update_stats=False)

    model = SAC(
        "MlpPolicy",
        venv,
        gradient_steps=-1,
        buffer_size=n_envs * SETTINGS["n_steps"] * SETTINGS["n_rounds"],
        replay_buffer_class=ReplayBufferRewardWrapper,
        replay_buffer_kwargs={"replay_buffer_class": ReplayBuffer, "reward_fn": reward},
        policy_kwargs={"net_arch": {"pi": SETTINGS["student"], "qf": [64, 64]}},
        seed=seed,
        device="cpu",
        **SETTINGS["sac"],
    )
    trainer = GAIL(
        demonstrations=transitions(states, actions),
        demo_batch_size=discriminator["batch_size"],
        venv=venv,
        gen_algo=model,
        reward_net=net,
        gen_train_timesteps=discriminator["update_every"],
        gen_replay_buffer_capacity=n_envs * SETTINGS["n_steps"] * SETTINGS["n_rounds"],
        n_disc_updates_per_round=discriminator["n_updates"],
    )
    trainers.append(trainer)
    best, best_return = None, -np.inf
    for _ in range(SETTINGS["n_rounds"] - 1):
        trainer.train(n_envs * SETTINGS["n_steps"])
        reached, _ = returns(model.policy, selection_seed)
        if reached > best_return:
            best, best_return = deepcopy(model.policy), reached
    return best


def transitions(states: np.ndarray, actions: np.ndarray) -> Any:
    """The teacher's data as `imitation` takes them; next states and ends are asked for, but neither method looks at them."""
    from imitation.data.types import Transitions

    return Transitions(states, actions, np.array([{}] * len(states)), states, np.zeros(len(states), dtype=bool))


def make_env() -> gym.Env:
    """The env with actions in [-1, 1], as the discriminator and SAC's replay buffer shall see the same ones."""
    return gym.wrappers.RescaleAction(gym.make(SETTINGS["env"]), -1.0, 1.0)


def returns(policy: Any, first_seed: int) -> tuple[float, float]:
    """Mean and standard deviation of a policy's return over episodes of given seeds."""
    env, found = make_env(), []
    for episode in range(SETTINGS["n_episodes"]):
        observation, _ = env.reset(seed=first_seed + episode)
        done, total = False, 0.0
        while not done:
            observation, reward, terminated, truncated, _ = env.step(policy.predict(observation, deterministic=True)[0])
            total, done = total + float(reward), terminated or truncated
        found.append(total)
    return float(np.mean(found)), float(np.std(found))


def row(package: str, method: str, seed: int, mean: float, std: float, seconds: float) -> dict[str, Any]:
    """One result; seconds are of learning and of all evaluations."""
    return dict(package=package, method=method, seed=seed, mean_reward=mean, std_reward=std, seconds=round(seconds, 1))


def versions(*packages: str) -> dict[str, str]:
    """Versions of packages in this environment."""
    return {"python": platform.python_version(), **{package: version(package) for package in packages}}


def main() -> None:
    """Run both packages, one after the other."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("teacher", help=f"model of SB3 for {SETTINGS['env']}")
    parser.add_argument("--imitation-python", required=True, help="Python of the environment that has imitation")
    parser.add_argument("--theirs", nargs=4, help=argparse.SUPPRESS)  # folder, seed, held-out and selection seed
    arguments = parser.parse_args()
    th.set_num_threads(1)
    if arguments.theirs:
        folder, (seed, *seeds) = Path(arguments.theirs[0]), map(int, arguments.theirs[1:])
        found = {"rows": theirs(seed, folder, *seeds)}
        found["versions"] = versions("imitation", "stable-baselines3", "gymnasium", "torch", "numpy")
        (folder / "theirs.json").write_text(json.dumps(found))
        return

    from sb3_asym.distillation.distill import HELD_OUT_SEED, SELECTION_SEED

    rows = []
    with tempfile.TemporaryDirectory() as scratch:
        for seed in SETTINGS["seeds"]:
            rows += ours(arguments.teacher, seed, Path(scratch))
            job = [scratch, str(seed), str(HELD_OUT_SEED), str(SELECTION_SEED)]
            python, file = arguments.imitation_python, str(Path(__file__).resolve())
            subprocess.run(
                [python, file, "", "--imitation-python", python, "--theirs", *job],
                check=True,
                cwd=scratch,
                stdout=subprocess.DEVNULL,
            )
            found = json.loads((Path(scratch) / "theirs.json").read_text())
            rows += found["rows"]
            print(*rows[-5:], sep="\n", flush=True)
    results = {
        "settings": SETTINGS,
        "versions": {
            "ours": versions("sb3-asym", "stable-baselines3", "gymnasium", "torch", "numpy"),
            "theirs": found["versions"],
        },
        "rows": rows,
    }
    OUTPUT.write_text(json.dumps(results, indent=1) + "\n")
    print(f"Results: {OUTPUT}")


if __name__ == "__main__":
    main()
