"""Export in any format, and measurement of the exported agent in the loop."""

import statistics
import subprocess
import tempfile
from collections.abc import Callable
from dataclasses import replace
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import gymnasium as gym
import numpy as np
from stable_baselines3.common.base_class import BaseAlgorithm
from stable_baselines3.common.vec_env import VecEnv, VecNormalize

from sb3_asym.deployment.agent import DeployableAgent
from sb3_asym.deployment.from_sb3 import deployable
from sb3_asym.deployment.recording import Recording, SampledObservations, errors, record
from sb3_asym.deployment.runners import ModelRunner, ReferenceRunner, Runner
from sb3_asym.envs import check_spaces, make_env
from sb3_asym.export.c_runner import CFormat
from sb3_asym.export.folder import write_manifest
from sb3_asym.export.format import Format
from sb3_asym.export.report import ExportReport, count_failures
from sb3_asym.files import atomic_folder
from sb3_asym.quantization.ptq import calibration_observations, quantize
from sb3_asym.quantization.schemes import parse_precision
from sb3_asym.versions import versions

N_SELFTEST_STEPS = 200
N_RECORDED_STEPS = 1000
N_CHECKED_STEPS = 20


def export_c(
    model: BaseAlgorithm,
    folder: str | Path,
    env: gym.Env | str | None = None,
    precision: str = "fp32",
    prefix: str = "asym",
    vec_normalize: VecNormalize | None = None,
    n_eval_episodes: int = 20,
    on_episode: Callable[[], Any] | None = None,
) -> ExportReport:
    """
    Write an agent as C99: ``<prefix>_policy.h``, ``<prefix>_policy.c`` and ``<prefix>_policy_selftest.c``.

    The code allocates nothing and depends on ``math.h`` alone. In a step, only the sub-policy in force runs.

    :param model: an AsymSAC, SAC, TD3, DDPG, TQC, DQN, QRDQN, PPO or A2C model
    :param folder: new or empty folder to write to
    :param env: env (not vectorized, not normalized) or its id: for the steps of the self-test, the calibration of int8, and
        the measurement of the exported agent in the loop. Without an env, observations are drawn from their space.
    :param precision: "fp32", "fp16" or "int8", or by network, such as ``"large=int8,small=fp32,master=int8"``
    :param prefix: prefix of all C names that are visible outside, so that a program can hold several agents
    :param vec_normalize: normalization of the observations to fold in; that of the model's own env by default
    :param n_eval_episodes: number of episodes over which the exported agent is measured
    :param on_episode: function to call after each episode
    :return: report that compares the exported agent with the model
    :raises ValueError: if the model cannot be exported or an argument is out of range
    :raises TypeError: if the env is vectorized
    :raises FileExistsError: if the folder is not empty
    """
    return _export(CFormat(prefix), model, folder, env, precision, vec_normalize, n_eval_episodes, on_episode)


def export_onnx(
    model: BaseAlgorithm,
    folder: str | Path,
    env: gym.Env | str | None = None,
    precision: str = "fp32",
    vec_normalize: VecNormalize | None = None,
    n_eval_episodes: int = 20,
    on_episode: Callable[[], Any] | None = None,
) -> ExportReport:
    """
    Write an agent as ONNX: ``policy.onnx``, ``master.onnx`` and ``sub_policy_<name>.onnx``.

    ``policy.onnx`` is the whole agent, as one graph that takes and returns the option state. Needs the extra ``export``.

    :param model: an AsymSAC, SAC, TD3, DDPG, TQC, DQN, QRDQN, PPO or A2C model
    :param folder: new or empty folder to write to
    :param env: env or its id, for the same uses as in :func:`export_c`
    :param precision: "fp32", "fp16" (storage) or "int8", or by network
    :param vec_normalize: normalization of the observations to fold in; that of the model's own env by default
    :param n_eval_episodes: number of episodes over which the exported agent is measured
    :param on_episode: function to call after each episode
    :return: report that compares the exported agent with the model
    :raises ValueError: if the model cannot be exported or an argument is out of range
    :raises TypeError: if the env is vectorized
    :raises FileExistsError: if the folder is not empty
    :raises ImportError: if onnx or onnxruntime is missing
    """
    missing = [name for name in ("onnx", "onnxruntime") if find_spec(name) is None]
    if missing:
        raise ImportError(f"ONNX export needs {' and '.join(missing)}: pip install 'sb3-asym[export]'")
    from sb3_asym.export.onnx_runner import OnnxFormat

    return _export(OnnxFormat(), model, folder, env, precision, vec_normalize, n_eval_episodes, on_episode)


def _export(
    target: Format,
    model: BaseAlgorithm,
    folder: str | Path,
    env: gym.Env | str | None,
    precision: str,
    vec_normalize: VecNormalize | None,
    n_eval_episodes: int,
    on_episode: Callable[[], Any] | None,
) -> ExportReport:
    if n_eval_episodes < 0:
        raise ValueError(f"n_eval_episodes must be at least 0, got {n_eval_episodes}.")
    vec_normalize = vec_normalize or model.get_vec_normalize_env()
    agent = deployable(model, vec_normalize)
    precisions = parse_precision(precision, tuple(network.name for network in agent.networks))
    if env is None and "int8" in precisions.values():
        raise ValueError("int8 is calibrated on observations of rollouts: name the env.")
    rollout_env = make_env(env) if isinstance(env, str) else env or SampledObservations(model)
    if isinstance(rollout_env, VecEnv):
        raise TypeError("env must be a Gymnasium env or its id, not a VecEnv, and observations as they are: not normalized.")
    check_spaces(rollout_env, model.observation_space, model.action_space)
    model_runner = ModelRunner(model, vec_normalize)
    n_episodes = 0 if env is None else n_eval_episodes

    def rollout(runner: Runner, **limits: int) -> Recording:
        return record(runner, agent, rollout_env, on_episode=on_episode, **limits)

    with atomic_folder(Path(folder)) as written:
        _check_that_predict_agrees(agent, rollout(model_runner, n_steps=N_CHECKED_STEPS))
        exported = agent
        if set(precisions.values()) != {"fp32"}:
            observations = None
            if "int8" in precisions.values():
                observations = calibration_observations(model_runner, agent, rollout_env, on_episode)
            exported = quantize(agent, precisions, observations)
        recording = rollout(model_runner if exported is agent else ReferenceRunner(exported), n_steps=N_RECORDED_STEPS)
        target.write(exported, recording.head(N_SELFTEST_STEPS), written)
        report = ExportReport(target.name, precisions, target.n_bytes(exported), target.n_bytes(agent))
        try:
            runner = target.runner(exported, written)
        except (OSError, subprocess.CalledProcessError) as error:  # no C compiler, or one for another processor
            report = replace(report, not_measured=f"The exported agent was not run: {error}")
        else:
            measured = rollout(runner, n_episodes=n_episodes) if n_episodes else rollout(runner, n_steps=N_RECORDED_STEPS)
            failures = count_failures(exported, runner, recording.head(N_SELFTEST_STEPS))
            report = replace(report, selftest_failures=failures, **errors(agent, measured))
            if n_episodes:
                report = report.with_returns(measured.returns, rollout(model_runner, n_episodes=n_episodes).returns)
            if exported is not agent:
                ratio = _time_ratio(target, exported, agent, written, recording)
                report = replace(report, time_over_fp32=ratio)
        form = {
            "n_options": len(agent.sub_policies),
            "option_length": agent.option_length,
            "observation": {part.name: part.shape for part in agent.observations},
        }
        write_manifest(written, {**report.to_dict(), **vars(target), **form, "versions": versions()}, recording)
    return report


def _check_that_predict_agrees(agent: DeployableAgent, recording: Recording) -> None:
    """Refuse a policy whose ``predict`` does more than its layers, as that of a subclass may."""
    actions = agent.actions(recording.observations, recording.options)
    asked = recording.choices(agent.option_length)
    same = np.abs(actions - recording.actions).max(1) <= 1e-3 * np.maximum(1, np.abs(recording.actions).max(1))
    same_choices = agent.choices(recording.observations[asked]) == recording.options[asked]
    if min(same.mean(), same_choices.mean()) < 0.9:  # rounding may turn an argmax where two outputs are nearly equal
        raise ValueError("The model's predict does not do what its layers do: such a policy cannot be exported.")


def _time_ratio(
    target: Format, exported: DeployableAgent, agent: DeployableAgent, folder: Path, recording: Recording, n_rounds: int = 3
) -> float:
    """Time of a step of the exported agent ÷ that of its export in fp32: the median of interleaved rounds."""
    with tempfile.TemporaryDirectory() as other:
        target.write(agent, recording.head(N_SELFTEST_STEPS), Path(other))
        pairs = ((exported, folder), (agent, Path(other)))
        rounds = [[target.latencies(*pair, recording.observations).mean() for pair in pairs] for _ in range(n_rounds)]
    return statistics.median(ours / fp32 for ours, fp32 in rounds)
