"""What exported agents do and cost: fidelity, time, instructions, memory and precision.

    python benchmarks/deployment.py [--pendulum MODEL.zip] [--cheetah MODEL.zip] [--large-cheetah MODEL.zip]

writes ``benchmarks/results/deployment.json``. An agent for which no model is named is trained for a moment, which is enough
for time and instructions, not for the returns; it is kept in ``outputs/deployment``. Ratios of times are medians over
interleaved rounds. Needs a C compiler; valgrind, arm-none-eabi-gcc and qemu-system-arm for all figures.
"""

import argparse
import json
import platform
import shutil
import statistics
import subprocess
import tempfile
from pathlib import Path
from typing import Any, NamedTuple

import gymnasium as gym
import gymnasium_robotics
import numpy as np
import torch as th
from stable_baselines3 import SAC
from stable_baselines3.common.env_util import make_vec_env
from stable_baselines3.common.vec_env import VecNormalize
from tqdm import tqdm

from sb3_asym import AsymSAC
from sb3_asym.bench_export.bench import bench
from sb3_asym.bench_export.cortex_m4 import COMPILER, QEMU
from sb3_asym.bench_export.instructions import PORTABLE_FLAGS, instructions_per_step, over_predicted
from sb3_asym.deployment import DeployableAgent, deployable
from sb3_asym.deployment.loading import load_model
from sb3_asym.deployment.recording import Recording, record, replay
from sb3_asym.deployment.runners import ModelRunner, step_latencies
from sb3_asym.export import export_c, export_onnx
from sb3_asym.export.c_runner import C_FLAGS, CFormat, c_compiler
from sb3_asym.export.onnx_runner import OnnxFormat
from sb3_asym.versions import versions

OUTPUT = Path(__file__).parent / "results" / "deployment.json"
MODELS = Path("outputs") / "deployment"
SEED = 0
N_ROUNDS = 7
N_STEPS = 10_000
N_EVAL_EPISODES = 20
BRIEF_TIMESTEPS = 1_500
LEAST_USE = 0.05
VECTOR_FLAGS = ("-std=c99", "-O3")


class Task(NamedTuple):
    """An agent to measure; ``env`` is its id, ``small`` and ``large`` the units of its sub-policies."""

    env: str
    small: int
    large: int
    normalize: bool = False


TASKS = {
    "pendulum": Task("Pendulum-v1", 4, 64),
    "cheetah": Task("HalfCheetah-v5", 4, 128),
    "large-cheetah": Task("HalfCheetah-v5", 32, 256),
}
FIDELITY = {
    "plain": Task("HalfCheetah-v5", 4, 64),
    "Dict observations": Task("FetchReach-v4", 4, 64),
    "VecNormalize": Task("Walker2d-v5", 4, 64, normalize=True),
}


def brief_agent(task: Task) -> AsymSAC:
    """
    An agent that has learned for a moment. What its master prefers is shifted until both sub-policies act in the first
    episode, as they do after a longer training.
    """
    env = make_vec_env(task.env, seed=SEED)
    model = AsymSAC(
        "MultiInputPolicy" if isinstance(env.observation_space, gym.spaces.Dict) else "MlpPolicy",
        VecNormalize(env) if task.normalize else env,
        policy_kwargs={"sub_net_archs": {"small": [task.small] * 2, "large": [task.large] * 2}},
        learning_starts=200,
        fast_update=False,
        seed=SEED,
        device="cpu",
    ).learn(BRIEF_TIMESTEPS)
    vec_normalize = model.get_vec_normalize_env()
    bias = model.policy.master.q_net.q_net[-1].bias
    for _ in range(10):
        agent = deployable(model, vec_normalize)
        episode = record(ModelRunner(model, vec_normalize), agent, gym.make(task.env), n_episodes=1, seed=SEED)
        if LEAST_USE <= episode.options.mean() <= 1 - LEAST_USE:
            return model
        assert agent.master is not None
        values = agent.master.forward(agent.normalize(episode.observations))
        with th.no_grad():
            bias[0] += (values[:, 1] - values[:, 0]).median()
    raise RuntimeError(f"The agent does not use both sub-policies: name a trained model of {task.env}.")


def load_or_train(name: str, path: Path | None) -> AsymSAC:
    """The model at ``path``, or one that is trained and kept."""
    if path is None:
        path = MODELS / f"{name}.zip"
        if not path.exists():
            brief_agent(TASKS[name]).save(path)
    return load_model(path)


def fidelity(kind: str, task: Task) -> dict[str, Any]:
    """C and ONNX in fp32 beside ``predict(deterministic=True)``, over the same observations."""
    model = brief_agent(task)
    vec_normalize = model.get_vec_normalize_env()
    agent = deployable(model, vec_normalize)
    recorded = record(ModelRunner(model, vec_normalize), agent, gym.make(task.env), n_steps=N_STEPS, seed=SEED)
    row: dict[str, Any] = {"kind": kind, "env": task.env, "steps": len(recorded.options), "large_use": recorded.options.mean()}
    with tempfile.TemporaryDirectory() as name:
        for target in (CFormat(), OnnxFormat()):
            target.write(agent, recorded.head(1), Path(name))
            options, actions = replay(target.runner(agent, Path(name)), agent, recorded)
            row[target.name] = {
                "other_options": int((options != recorded.options).sum()),
                "max_action_error": float(np.abs(actions - recorded.actions).max()),
            }
    return row


def time_ratios(model: AsymSAC, task: Task, agent: DeployableAgent, folder: Path, episode: Recording) -> dict[str, float]:
    """Time of ``predict`` ÷ that of each export: the model's own ``predict``, and that of SB3's SAC of the large size."""
    sac = SAC("MlpPolicy", task.env, policy_kwargs={"net_arch": [task.large] * 2}, device="cpu")
    rounds = []
    for _ in range(N_ROUNDS):
        latencies = {
            "predict": step_latencies(ModelRunner(model), agent, episode.observations),
            "SAC's predict": step_latencies(ModelRunner(sac), agent, episode.observations),
            "c": CFormat().latencies(agent, folder, episode.observations),
            "onnx": OnnxFormat().latencies(agent, folder, episode.observations),
        }
        rounds.append({name: float(np.median(times)) for name, times in latencies.items()})
    return {
        f"{python} over {export}": statistics.median(row[python] / row[export] for row in rounds)
        for python in ("predict", "SAC's predict")
        for export in ("c", "onnx")
    }


def vectorized_over_predicted(model: AsymSAC, agent: DeployableAgent, episode: Recording, flops: float) -> float:
    """As ``instructions_over_predicted`` of the report, but with the compiler's vectors."""
    counts = []
    for subject in (agent, *(agent.alone(option) for option in range(len(agent.sub_policies)))):
        with tempfile.TemporaryDirectory() as name:
            CFormat().write(subject, episode.head(1), Path(name))
            counts.append(instructions_per_step(CFormat(), Path(name), episode.observations, VECTOR_FLAGS))
    alone = zip((cost.flops for cost in model.policy.option_costs), counts[1:], strict=True)
    return over_predicted(counts[0], flops, list(alone))


def measure(model: AsymSAC, task: Task, progress: tqdm) -> dict[str, Any]:
    """All figures of one agent."""
    result: dict[str, Any] = {
        **task._asdict(),
        "option_length": model.option_length,
        "timesteps": model.num_timesteps,
        "flops_alone": [cost.flops for cost in model.policy.option_costs],
    }
    agent = deployable(model)
    episode = record(ModelRunner(model), agent, gym.make(task.env), n_episodes=1, seed=SEED)
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name) / "c"
        export_c(model, folder, task.env, n_eval_episodes=0)
        report = bench(folder, model)
        result["bench"] = report.to_dict()
        progress.update()
        OnnxFormat().write(agent, episode, folder)
        result["time_ratios"] = time_ratios(model, task, agent, folder, episode)
        progress.update()
    assert report.flops_per_inference is not None
    result["vectorized_over_predicted"] = vectorized_over_predicted(model, agent, episode, report.flops_per_inference)
    progress.update()
    result["precision"] = []
    for export in (export_c, export_onnx):
        for precision in ("fp32", "fp16", "int8"):
            with tempfile.TemporaryDirectory() as name:
                written = export(model, Path(name), task.env, precision, n_eval_episodes=N_EVAL_EPISODES)
            result["precision"].append(written.to_dict())
            progress.update()
    return result


def tools() -> dict[str, str]:
    """First lines of what the programs say of their versions."""
    programs = [program for program in (c_compiler(), "valgrind", COMPILER[0], QEMU) if shutil.which(program)]
    said = [subprocess.run([program, "--version"], capture_output=True, text=True).stdout for program in programs]
    lines = (text.partition("\n")[0] for text in said)
    return {program: line.removeprefix(program).strip(" -") for program, line in zip(programs, lines, strict=True)}


def main() -> None:
    """Measure everything and write the results."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    for name, task in TASKS.items():
        parser.add_argument(f"--{name}", type=Path, metavar="MODEL", help=f"{task.env}, units {task.small} and {task.large}")
    parser.add_argument("--output", type=Path, default=OUTPUT)
    arguments = parser.parse_args()
    gym.register_envs(gymnasium_robotics)
    th.set_num_threads(1)
    result: dict[str, Any] = {
        "seed": SEED,
        "rounds": N_ROUNDS,
        "flags": {"time": C_FLAGS, "instructions and memory": PORTABLE_FLAGS, "vectors": VECTOR_FLAGS, "Cortex-M4": COMPILER},
        "versions": {**versions(), "python": platform.python_version(), **tools()},
        "fidelity": [],
        "agents": {},
    }
    with tqdm(total=len(FIDELITY) + 9 * len(TASKS)) as progress:
        for kind, task in FIDELITY.items():
            progress.set_description(kind)
            result["fidelity"].append(fidelity(kind, task))
            progress.update()
        for name, task in TASKS.items():
            progress.set_description(name)
            model = load_or_train(name, getattr(arguments, name.replace("-", "_")))
            result["agents"][name] = measure(model, task, progress)
    arguments.output.parent.mkdir(parents=True, exist_ok=True)
    arguments.output.write_text(json.dumps(result, indent=1) + "\n")
    print(f"Results: {arguments.output}")


if __name__ == "__main__":
    main()
