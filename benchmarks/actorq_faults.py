"""Kills ActorQ's actors and its learner: ``python benchmarks/actorq_faults.py --kills 20`` writes results/actorq_faults.json.

Actors: the env notes each of its steps in a file before it returns, so that what a killed actor did is known. Every transition
must be in the replay memory once, but for at most one that was in flight at each kill, and the episode of a killed actor must
end truncated. Learner: its actors must end within 5 s, nothing may stay in shared memory, and the next learner goes on from
the last checkpoint.
"""

import argparse
import json
import os
import signal
import subprocess
import sys
import tempfile
import time
import uuid
from collections import Counter, defaultdict
from functools import partial
from pathlib import Path
from typing import Any

import gymnasium as gym
import numpy as np
import torch as th
from gymnasium import spaces
from stable_baselines3 import DQN
from stable_baselines3.common.callbacks import BaseCallback, CheckpointCallback
from stable_baselines3.common.monitor import Monitor

from sb3_asym.actorq import ActorQ
from sb3_asym.versions import versions

RESULTS = Path(__file__).parent / "results" / "actorq_faults.json"
STEPS_BETWEEN_KILLS = 30
LIMIT = 5.0
"""Seconds that actors have to end after their learner was killed."""


class Trail(gym.Env):
    """An observation is the episode's number and the step in it, a reward that step; each step is noted in a file."""

    def __init__(self, log: Path | None = None):
        self.observation_space = spaces.Box(-np.inf, np.inf, (2,), np.float64)
        self.action_space = spaces.Discrete(3)
        self.log = None if log is None else os.open(log, os.O_WRONLY | os.O_APPEND | os.O_CREAT)

    def reset(self, *, seed: int | None = None, options: Any = None) -> tuple[np.ndarray, dict]:
        self.episode, self.t = uuid.uuid4().int % 2**40, 0
        return self._observation(), {}

    def step(self, action: int) -> tuple[np.ndarray, float, bool, bool, dict]:
        self.t += 1
        if self.log is not None:
            os.write(self.log, f"{os.getpid()} {self.episode} {self.t}\n".encode())
        return self._observation(), float(self.t), False, self.t == 200, {}

    def _observation(self) -> np.ndarray:
        return np.array([self.episode, self.t], dtype=np.float64)


class Killer(BaseCallback):
    """Kills the actors in turn, each after some steps of its present life, and stops when the last one is back."""

    def __init__(self, n_kills: int):
        super().__init__()
        self.n_kills = n_kills
        self.actors: Any = None
        self.killed: list[int] = []
        self.sequences: dict[int, list[int]] = defaultdict(list)
        self.steps_of_life: Counter = Counter()
        self.lives: Counter = Counter()

    def _on_step(self) -> bool:
        info = self.locals["infos"][0]["actorq"]
        actor = info["actor"]
        self.sequences[actor].append(info["sequence"])
        if info["life"] == self.lives[actor]:
            self.steps_of_life[actor, info["life"]] += 1
        n_actors = len(self.actors.env_fns)
        has_acted = [self.steps_of_life[i, self.lives[i]] >= STEPS_BETWEEN_KILLS for i in range(n_actors)]
        if len(self.killed) == self.n_kills:
            return not all(has_acted)
        victim = len(self.killed) % n_actors
        if not has_acted[victim]:
            return True
        pid = self.actors.pids[victim]
        os.kill(pid, signal.SIGKILL)
        self.killed.append(pid)
        self.lives[victim] += 1
        return True


def kill_actors(n_kills: int) -> dict[str, Any]:
    """Kill actors while a model learns, and compare what the envs noted with what the learner has."""
    with tempfile.TemporaryDirectory() as folder:
        log = Path(folder) / "steps"
        env = Monitor(Trail())
        model = DQN(
            "MlpPolicy", env, buffer_size=2_000_000, learning_starts=100, policy_kwargs={"net_arch": [8]}, device="cpu"
        )
        killer = Killer(n_kills)
        killer.actors = actors = ActorQ(model, partial(Trail, log), n_actors=2, pull_every=50)
        actors.learn(1_900_000, callback=killer, log_interval=10**9)
        noted = [tuple(map(int, line.split())) for line in log.read_text().splitlines()]
    buffer: Any = model.replay_buffer
    size = buffer.size()
    episodes, steps = buffer.observations[:size, 0, 0].astype(np.int64), buffer.next_observations[:size, 0, 1].astype(np.int64)
    stored = Counter(zip(episodes.tolist(), steps.tolist(), strict=True))
    lost = {pid: [step for p, *step in noted if p == pid and tuple(step) not in stored] for pid in killer.killed}
    last_noted = {pid: [step for p, *step in noted if p == pid][-1] for pid in killer.killed}
    cut = 0
    for pid in killer.killed:
        episode, last = last_noted[pid]
        found = np.flatnonzero((episodes == episode) & (steps >= last - 1))
        cut += bool(len(found) and buffer.timeouts[found[-1], 0] and buffer.dones[found[-1], 0])
    gapless = all(sequence == list(range(len(sequence))) for sequence in killer.sequences.values())
    in_flight = all(len(steps) <= 1 and steps in ([], [last_noted[pid]]) for pid, steps in lost.items())
    return {
        "kills": len(killer.killed),
        "replaced": actors.report().n_replaced,
        "transitions": size,
        "doubled": sum(count - 1 for count in stored.values()),
        "lost": sum(map(len, lost.values())),
        "only_those_in_flight": in_flight,
        "sequences_without_a_gap": gapless,
        "episodes_truncated": cut,
    }


def victim(folder: Path) -> None:
    """A learner that goes on from the last checkpoint and notes its actors."""
    checkpoints = sorted(folder.glob("rl_model_*_steps.zip"), key=lambda path: int(path.stem.split("_")[2]))
    model = None
    while checkpoints and model is None:
        path = checkpoints.pop()
        try:
            model = DQN.load(path, env=Monitor(Trail()), device="cpu")
            model.load_replay_buffer(str(path).replace("rl_model", "rl_model_replay_buffer").replace(".zip", ".pkl"))
        except Exception:  # the kill came while it was written
            model = None
    model = model or DQN("MlpPolicy", Monitor(Trail()), buffer_size=10_000, policy_kwargs={"net_arch": [8]}, device="cpu")

    class Note(BaseCallback):
        def _on_step(self) -> bool:
            if not (folder / "pids").exists() and self.locals["infos"][0]["actorq"]["version"] > 1:
                (folder / "new").write_text(json.dumps({"pids": actors.pids, "from": started}))
                (folder / "new").rename(folder / "pids")
            return True

    started = model.num_timesteps
    actors = ActorQ(model, Trail, n_actors=2, pull_every=50)
    checkpoint = CheckpointCallback(200, str(folder), save_replay_buffer=True)
    actors.learn(10**7, callback=[Note(), checkpoint], reset_num_timesteps=False, log_interval=10**9)


def alive(pid: int) -> bool:
    """Whether a process runs."""
    try:
        return "Z" not in Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0]
    except OSError:
        return False


def shared_memory_of(pid: int) -> set[Path]:
    """Blocks of shared memory that a process has."""
    lines = Path(f"/proc/{pid}/maps").read_text().splitlines()
    blocks = {Path(line.split()[5]) for line in lines if "/dev/shm/" in line}
    assert blocks
    return blocks


def kill_learner(n_kills: int) -> dict[str, Any]:
    """Kill a learner again and again, each time when it has written a checkpoint since its start."""
    seconds, started, left = [], [], 0
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        for _ in range(n_kills):
            before = set(folder.glob("*.zip"))
            learner = subprocess.Popen([sys.executable, __file__, "--victim", name])
            while learner.poll() is None and not ((folder / "pids").exists() and set(folder.glob("*.zip")) - before):
                time.sleep(0.05)
            note = json.loads((folder / "pids").read_text())
            (folder / "pids").unlink()
            started.append(note["from"])
            used = shared_memory_of(learner.pid)
            learner.kill()
            learner.wait()
            killed = time.monotonic()
            while any(map(alive, note["pids"])) and time.monotonic() < killed + 60:
                time.sleep(0.01)
            seconds.append(time.monotonic() - killed)
            while any(block.exists() for block in used) and time.monotonic() < killed + LIMIT:
                time.sleep(0.01)
            left += sum(block.exists() for block in used)
    return {
        "kills": n_kills,
        "seconds_until_actors_ended": {"median": float(np.median(seconds)), "greatest": max(seconds)},
        "shared_memory_left": left,
        "went_on_from_env_steps": started,
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--kills", type=int, default=20)
    parser.add_argument("--output", type=Path, default=RESULTS)
    parser.add_argument("--victim", type=Path, help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    th.set_num_threads(1)
    if arguments.victim is not None:
        victim(arguments.victim)
        return
    result = {"actors": kill_actors(arguments.kills), "learner": kill_learner(arguments.kills), "versions": versions()}
    arguments.output.parent.mkdir(parents=True, exist_ok=True)
    arguments.output.write_text(json.dumps(result, indent=2) + "\n")
    print(json.dumps(result, indent=2))


if __name__ == "__main__":
    main()
