"""An agent in many quantization schemes, side by side: return, actions, choices and bytes."""

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import gymnasium as gym
import numpy as np
from stable_baselines3.common.base_class import BaseAlgorithm
from stable_baselines3.common.preprocessing import is_image_space
from stable_baselines3.common.vec_env import VecNormalize

from sb3_asym.deployment import DeployableAgent, deployable
from sb3_asym.deployment.recording import Recording, errors, record
from sb3_asym.deployment.rollouts import EnvPool, Episodes, run_episodes
from sb3_asym.deployment.runners import ReferenceRunner
from sb3_asym.envs import check_spaces, make_env
from sb3_asym.files import atomic_folder
from sb3_asym.quantization.images import image_agent
from sb3_asym.quantization.picture import draw_sweep
from sb3_asym.quantization.ptq import CALIBRATION_EPISODES, calibration_observations, quantize, weights
from sb3_asym.quantization.report import Form, LayerWeights, SweepReport, relative_errors, smallest_within
from sb3_asym.quantization.schemes import EXPORTED, Scheme
from sb3_asym.versions import versions

BITS = (8, 6, 4, 3, 2)
SCHEMES = (
    "fp16",
    *(f"w{bits}-tensor-affine" for bits in BITS),
    *(f"w{bits}" for bits in BITS),
    *(f"w{bits}-gptq" for bits in BITS),
    *(f"int{bits}" for bits in BITS),
    *(f"int{bits}-gptq" for bits in BITS),
)
"""Schemes of a sweep: the paper's; weights with a grid for each output, alone and with activations, each rounded both ways."""
MAX_ENVS = 20
MAX_RECORDED_NUMBERS = 20_000_000

Progress = Callable[[str, float], Any]
"""Function of a stage and the share of it that is done."""


def sweep(
    model: BaseAlgorithm,
    env: str | Callable[[], gym.Env],
    schemes: Sequence[str | Scheme] | None = None,
    output: str | Path | None = None,
    tolerance: float = 0.025,
    vec_normalize: VecNormalize | None = None,
    seed: int = 0,
    n_eval_episodes: int = 20,
    on_progress: Progress = lambda stage, share: None,
) -> SweepReport:
    """
    Quantize a trained agent in many schemes, and measure each over episodes with the same seeds.

    :param model: an AsymSAC, SAC, TD3, DDPG, TQC, DQN, QRDQN, PPO or A2C model; of one that takes images, the weights
    :param env: Gymnasium id, or function that makes an env, with observations as they are: not normalized
    :param schemes: schemes, also as text; by default :data:`SCHEMES`, of which agents on images take those of weights alone
    :param output: folder for the report and its picture: a new or an empty one
    :param tolerance: relative error of the return that is allowed to the smallest form
    :param vec_normalize: statistics of the observations; those of the model's own env by default
    :param seed: seed of the first episode; the others follow
    :param n_eval_episodes: episodes of each form
    :param on_progress: called with the stage and the share of it that is done
    :return: the report
    :raises ValueError: if an argument is out of range, there is no such scheme, the model cannot be quantized, or the env's
        spaces differ from the model's
    :raises FileExistsError: if the output folder is not empty
    """
    if n_eval_episodes < 1:
        raise ValueError(f"n_eval_episodes must be at least 1, got {n_eval_episodes}.")
    if not 0 <= tolerance < 1:
        raise ValueError(f"tolerance must be in [0, 1), got {tolerance}.")
    parsed = list(dict.fromkeys(map(Scheme.parse, SCHEMES if schemes is None else schemes)))
    if schemes is None and is_image_space(model.observation_space):
        parsed = [scheme for scheme in parsed if not scheme.needs_observations]
    parsed = [Scheme.parse("fp32"), *(scheme for scheme in parsed if scheme.name != "fp32")]
    run = _Sweep(model, env, parsed, tolerance, vec_normalize, seed, n_eval_episodes, on_progress)
    if output is None:
        return run.report()
    with atomic_folder(Path(output)) as folder:
        report = run.report()
        report.write(folder)
        if find_spec("matplotlib") is not None:
            draw_sweep(report, folder / "sweep.png")
    return report


@dataclass
class _Sweep:
    """Arguments of a sweep, see :func:`sweep`."""

    model: BaseAlgorithm
    env: str | Callable[[], gym.Env]
    schemes: list[Scheme]
    tolerance: float
    vec_normalize: VecNormalize | None
    seed: int
    n_episodes: int
    on_progress: Progress

    def report(self) -> SweepReport:
        """Run everything."""
        start = time.perf_counter()
        make = partial(make_env, self.env) if isinstance(self.env, str) else self.env
        first = make()
        try:
            check_spaces(self.model._wrap_env(first, verbose=0), self.model.observation_space, self.model.action_space)
            agent = self._agent(first)
            recording = self._recording(agent, first)
            forms = self._forms(agent, first)
        finally:
            first.close()
        episodes = self._episodes(agent, forms, make)
        before = episodes[0].returns
        found = []
        for scheme, form, done in zip(self.schemes, forms, episodes, strict=True):
            found.append(_measured(scheme, agent, form, done, before, recording))
        ordered = tuple(sorted(found, key=lambda form: -form.n_bytes))
        exported = (form for form in ordered if form.scheme in EXPORTED.values())
        return SweepReport(
            env=self.env if isinstance(self.env, str) else "",
            algorithm=agent.algorithm,
            forms=ordered,
            tolerance=self.tolerance,
            smallest=smallest_within(ordered, self.tolerance),
            smallest_exported="" if self._is_of_images else smallest_within(exported, self.tolerance),
            n_episodes=self.n_episodes,
            seconds=time.perf_counter() - start,
            seed=self.seed,
            versions=versions(),
        )

    @property
    def _is_of_images(self) -> bool:
        return is_image_space(self.model.observation_space)

    def _agent(self, env: gym.Env) -> DeployableAgent:
        if self._is_of_images:
            statistics = self.vec_normalize or self.model.get_vec_normalize_env()
            if statistics is not None and statistics.norm_obs:
                raise ValueError(
                    "Images that VecNormalize normalizes cannot be quantized: use norm_obs=False, as SB3 scales them."
                )
            return image_agent(self.model, env)
        return deployable(self.model, self.vec_normalize)

    def _recording(self, agent: DeployableAgent, env: gym.Env) -> Recording:
        """Steps in fp32 at which actions and choices are compared."""
        n_steps = max(1, min(5000, MAX_RECORDED_NUMBERS // agent.obs_dim))
        return record(ReferenceRunner(agent), agent, env, n_episodes=self.n_episodes, n_steps=n_steps, seed=self.seed)

    def _forms(self, agent: DeployableAgent, env: gym.Env) -> list[DeployableAgent]:
        observations = None
        if any(scheme.needs_observations for scheme in self.schemes):
            on_episode = _counted(partial(self.on_progress, "calibrating"), CALIBRATION_EPISODES)
            observations = calibration_observations(ReferenceRunner(agent), agent, env, on_episode)
        return [quantize(agent, scheme, observations) for scheme in self.schemes]

    def _episodes(self, agent: DeployableAgent, forms: list[DeployableAgent], make: Callable[[], gym.Env]) -> list[Episodes]:
        pool = EnvPool(make, min(self.n_episodes, MAX_ENVS), agent)
        try:
            on_episode = _counted(partial(self.on_progress, "measuring"), len(forms) * self.n_episodes)
            return run_episodes(pool, forms, self.n_episodes, self.seed, on_episode=on_episode)
        finally:
            pool.close()


def _measured(
    scheme: Scheme, agent: DeployableAgent, form: DeployableAgent, episodes: Episodes, before: np.ndarray, recording: Recording
) -> Form:
    """
    What was found of a form.

    :param scheme: its scheme
    :param agent: the agent in fp32
    :param form: the agent in the scheme
    :param episodes: episodes of the form
    :param before: returns in fp32
    :param recording: steps in fp32
    """
    error, interval = relative_errors(episodes.returns, before)
    differences = errors(form, recording)
    discrete = agent.output == "argmax"
    choices = differences["choice_agreement"]
    if discrete and agent.master is None:
        choices = float((form.actions(recording.observations, recording.options) == recording.actions).mean())
    layers = [
        LayerWeights(float(np.ptp(weight)), float(np.abs(quantized - weight).mean()))
        for weight, quantized in zip(weights(agent), weights(form), strict=True)
    ]
    return Form(
        scheme=scheme.name,
        n_bytes=sum(form.n_bytes.values()),
        mean_reward=float(episodes.returns.mean()),
        std_reward=float(episodes.returns.std()),
        relative_error=error,
        error_interval=interval,
        action_error=None if discrete else differences["mean_action_error"],
        choices_as_before=choices,
        layers=tuple(layers),
    )


def _counted(report: Callable[[float], Any], total: int) -> Callable[[], None]:
    """A function that reports the share of the calls that were made so far."""
    n_calls = 0

    def call() -> None:
        nonlocal n_calls
        n_calls += 1
        report(n_calls / total)

    return call
