"""Generative adversarial imitation learning (Ho & Ermon 2016, arXiv 1606.03476) of students by SB3's algorithms."""

from collections.abc import Callable, Sequence
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import gymnasium as gym
import numpy as np
import torch as th
from stable_baselines3 import PPO, SAC
from stable_baselines3.common.base_class import BaseAlgorithm
from stable_baselines3.common.callbacks import BaseCallback
from stable_baselines3.common.monitor import Monitor
from stable_baselines3.common.vec_env import DummyVecEnv, VecNormalize
from torch import nn

from sb3_asym.baselines.discriminator import Discriminator, DiscriminatorSettings
from sb3_asym.baselines.rewards import DiscriminatorCallback, DiscriminatorReward, RelabellingReplayBuffer
from sb3_asym.deployment import DeployableAgent, deployable
from sb3_asym.distillation import DistillationReport, DistillationSettings
from sb3_asym.distillation.distill import Distillation, Progress
from sb3_asym.distillation.rollouts import collect
from sb3_asym.distillation.switching import fold_normalization
from sb3_asym.distillation.teacher import Teacher

MAX_ROLLOUT = 1_000
"""Env steps, over all envs, after which PPO learns at the latest."""


def gail(
    model: BaseAlgorithm,
    env: str | Callable[[], gym.Env],
    sizes: Sequence[Sequence[int]] | None = None,
    output: str | Path | None = None,
    settings: DistillationSettings | None = None,
    discriminator: DiscriminatorSettings | None = None,
    algorithm_kwargs: dict[str, Any] | None = None,
    **kwargs: Any,
) -> DistillationReport:
    """
    Let students of a ladder of sizes imitate a trained agent by GAIL.

    Each student is the actor of an SB3 algorithm, SAC where actions are continuous and PPO where they are discrete, with a
    critic as large as the teacher's. Its reward is never the env's, but that of a discriminator (see
    :mod:`sb3_asym.baselines.discriminator`).

    Each student has as many env steps as all students together have in :func:`sb3_asym.distillation.distill`: in the first
    round the teacher acts, in the others the student. Of its forms at the ends of the rounds the best is taken, as the best
    copy there. Learning takes one gradient step per env step and student, so minutes per
    student. Ctrl-C ends it early; what was learned until then is measured.

    :param model: the teacher: SAC, TD3, DDPG, TQC, PPO, A2C, DQN or QRDQN
    :param env: Gymnasium id, or function that makes an env, with observations as they are: not normalized
    :param sizes: hidden layers of each size of student; a ladder by default
    :param output: folder for the report and the agents: a new or an empty one
    :param settings: numbers of rounds, envs and steps
    :param discriminator: size, reward and speed of learning of the discriminator
    :param algorithm_kwargs: arguments of SAC or PPO beside SB3's defaults
    :param kwargs: further arguments of :func:`sb3_asym.distillation.distill`; there is no ``loss`` to choose
    :return: the report
    :raises ValueError: as :func:`sb3_asym.distillation.distill`
    :raises FileExistsError: if the output folder is not empty
    """
    settings = replace(settings or DistillationSettings(), n_switching_steps=0)
    if settings.n_rounds < 2:
        raise ValueError(f"GAIL needs at least 2 rounds, as in the first one the teacher acts, got {settings.n_rounds}.")
    run = _Gail(model, env, sizes, settings=settings, **kwargs)
    run.discriminator_settings, run.algorithm_kwargs = discriminator or DiscriminatorSettings(), algorithm_kwargs or {}
    return run.report(output)


class _Gail(Distillation):
    """One run of :func:`gail`."""

    method = "gail"
    discriminator_settings: DiscriminatorSettings
    algorithm_kwargs: dict[str, Any]
    n_student_steps = 0
    """Env steps of one student, of that with the most."""

    def _prepare(self) -> None:
        self.snapshots: list[list[DeployableAgent]] = []

    def _loss_name(self) -> str:
        algorithm = "PPO" if self.teacher.is_discrete else "SAC"
        return f"{algorithm}, {self.discriminator_settings.reward} reward of a discriminator"

    def _n_env_steps(self) -> int:
        return super()._n_env_steps() + self.n_student_steps

    def _learn(self) -> None:
        """One student after the other, against a discriminator of its own."""
        settings = self.settings
        if self.discriminator_settings.reward is None:
            # An episode that ends is a failure where the teacher's are longer than those of random actions.
            reward = "positive" if self.teacher_steps > self.chance_steps else "logit"
            self.discriminator_settings = replace(self.discriminator_settings, reward=reward)
        for number in range(settings.n_envs):
            self.pool.reset(number, self.seed * settings.n_envs + number)
        states, targets = collect(self.pool, self.teacher, [], 0.0, settings.n_steps, np.random.default_rng(self.seed))
        self.observations.append(states)
        for index, size in enumerate(self.sizes):
            th.manual_seed(self.seed)
            discriminator = Discriminator(states, targets, self.discriminator_settings)
            env, model = self._make(size, discriminator)
            callbacks = [
                DiscriminatorCallback(env),
                _ProgressCallback(self.on_progress, index, len(self.sizes), settings),
            ]
            self.snapshots.append([])
            try:
                for _ in range(settings.n_rounds - 1):
                    n_steps = settings.n_envs * settings.n_steps
                    model.learn(n_steps, callback=callbacks, reset_num_timesteps=False)
                    self.snapshots[-1].append(self._snapshot(model))
            except KeyboardInterrupt:
                self.snapshots[-1].append(self._snapshot(model))
                raise
            finally:
                self.n_student_steps = max(self.n_student_steps, model.num_timesteps)

    def _make(self, size: list[int], discriminator: Discriminator) -> tuple[DiscriminatorReward, BaseAlgorithm]:
        """The envs of a student, and the algorithm that it learns by."""
        settings, teacher = self.settings, self.teacher
        envs = [Monitor(_FlatObservation(env, teacher.agent)) for env in self.pool.envs]
        env = DiscriminatorReward(DummyVecEnv([partial(_same, env) for env in envs]), discriminator)
        # Students of a distillation standardize their inputs by the teacher's states, too.
        standardized = VecNormalize(env, training=False, norm_reward=False, clip_obs=np.inf)
        statistics: Any = standardized.obs_rms
        statistics.mean, statistics.var = discriminator.mean, discriminator.spread**2
        critic = critic_units(teacher)
        model: Any = self.model
        common: dict[str, Any] = dict(gamma=model.gamma, seed=self.seed, device="cpu")
        if teacher.is_discrete:
            n_steps = _rollout_length(settings)
            algorithm: type[BaseAlgorithm] = PPO
            common |= dict(n_steps=n_steps, batch_size=max(n_steps, 2))
            architecture = dict(pi=size, vf=critic)
        else:
            algorithm = SAC
            common |= dict(
                gradient_steps=-1,  # one per env step
                buffer_size=settings.n_rounds * settings.n_envs * settings.n_steps,
                replay_buffer_class=RelabellingReplayBuffer,
                replay_buffer_kwargs=dict(discriminator=discriminator),
            )
            architecture = dict(pi=size, qf=critic)
        policy_kwargs = dict(net_arch=architecture, activation_fn=teacher.activation)
        return env, algorithm("MlpPolicy", standardized, **{**common, "policy_kwargs": policy_kwargs, **self.algorithm_kwargs})

    def _snapshot(self, model: BaseAlgorithm) -> DeployableAgent:
        """The student as it is now, of observations as the env gives them."""
        agent = deployable(model)
        normalization, (network,) = agent.normalization, agent.sub_policies
        assert normalization is not None
        sub_policies = (fold_normalization(network, normalization),)
        return replace(
            self.teacher.agent,
            algorithm=agent.algorithm,
            sub_policies=sub_policies,
            normalization=None,
            output=agent.output,
        )

    def _forms(self) -> list[tuple[list[int], list[DeployableAgent]]]:
        """What was learned of each size: its snapshots."""
        if not self.snapshots:
            raise KeyboardInterrupt  # there is nothing yet that could be measured
        return list(zip(self.sizes, self.snapshots, strict=False))  # fewer, where learning was interrupted


def _same(env: gym.Env) -> gym.Env:
    """An env that has been made, where SB3 wants a function that makes it."""
    return env


class _FlatObservation(gym.ObservationWrapper):
    """An env with observations as one vector, in the order of an agent's parts."""

    def __init__(self, env: gym.Env, agent: DeployableAgent):
        super().__init__(env)
        self.flatten = agent.flatten
        self.observation_space = gym.spaces.Box(-np.inf, np.inf, (agent.obs_dim,), np.float32)

    def observation(self, observation: Any) -> np.ndarray:
        return self.flatten(observation)


class _ProgressCallback(BaseCallback):
    """Progress over the env steps of all students."""

    def __init__(self, on_progress: Progress, index: int, n_students: int, settings: DistillationSettings):
        super().__init__()
        self.on_progress, self.index, self.n_students = on_progress, index, n_students
        self.n_steps = (settings.n_rounds - 1) * settings.n_envs * settings.n_steps

    def _on_step(self) -> bool:
        self.on_progress("learning", (self.index + min(self.num_timesteps / self.n_steps, 1.0)) / self.n_students)
        return True


def critic_units(teacher: Teacher) -> list[int]:
    """
    Units of the hidden layers of a teacher's critic.

    :param teacher: the teacher
    :return: the units; those of its actor, or of its q-network, where it has no critic of its own
    """
    policy: Any = teacher.model.policy
    critic = getattr(policy, "critic", None)
    networks = getattr(critic, "q_networks", None) or getattr(critic, "quantile_critics", None)
    if networks is not None:
        return [layer.out_features for layer in networks[0] if isinstance(layer, nn.Linear)][:-1]
    value_net = getattr(getattr(policy, "mlp_extractor", None), "value_net", None)
    if value_net is not None:
        return [layer.out_features for layer in value_net if isinstance(layer, nn.Linear)]
    return teacher.hidden


def _rollout_length(settings: DistillationSettings) -> int:
    """Steps of each env in a rollout of PPO: the most of which a round has a whole number."""
    most = max(MAX_ROLLOUT // settings.n_envs, 1)
    return max(n for n in range(1, settings.n_steps + 1) if settings.n_steps % n == 0 and n <= most)
