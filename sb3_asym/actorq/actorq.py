"""ActorQ: several actors run a quantized copy of the policy, while the model learns in full precision."""

import time
from collections.abc import Callable, Sequence
from importlib.util import find_spec
from typing import Any

import gymnasium as gym
import numpy as np
from stable_baselines3.common.evaluation import evaluate_policy
from stable_baselines3.common.off_policy_algorithm import OffPolicyAlgorithm
from stable_baselines3.common.type_aliases import MaybeCallback
from stable_baselines3.common.vec_env import VecEnv

from sb3_asym.acting.kernels import choose_kernel
from sb3_asym.acting.networks import LOOK_EVERY, Packer
from sb3_asym.actorq.actor import PARTS, make_form
from sb3_asym.actorq.engine import Crew, Engine
from sb3_asym.actorq.learner import Learner, check_model, learning_from_actors, needs_whole_episodes
from sb3_asym.actorq.processes import Processes
from sb3_asym.actorq.published import PublishedPolicy
from sb3_asym.actorq.report import ActorQReport
from sb3_asym.actorq.stream import ActorsEnv
from sb3_asym.fitted_master import check_no_budget

ENGINES = ("processes", "ray")
MIN_RANDOM = 50
"""Least number of random steps before int8 actors act, as the ranges come from their observations."""

EnvFn = Callable[[], gym.Env]


class ActorQ:
    """
    Learn with several actors that run a quantized copy of the policy (Krishnan et al. 2019, "Quantized Reinforcement
    Learning", arXiv 1910.01055, section 3.3): the model learns in full precision, in this process, and hands new weights to
    the actors, which explore as the algorithm does.

    The model stays what it is: its replay memory, its ratio of gradient steps to env steps, its logs, callbacks and files.
    ``EvalCallback`` and the like see the quantized policy while it learns.

    :param model: a SAC, TD3, DDPG, DQN or AsymSAC model, or one of sb3-contrib's TQC and QRDQN, with a single env, which
        may be in a ``VecNormalize``; the env itself is not stepped
    :param env_fns: functions that make the actors' envs, one for each actor, or one for all; as for ``SubprocVecEnv``,
        a script needs ``if __name__ == "__main__":``
    :param n_actors: number of actors; by default as many as there are functions
    :param precision: precision of the actors, "int8", or the baselines "fp16" (storage alone) and "fp32"
    :param pull_every: env steps after which an actor takes new weights; as many over all actors between two versions
    :param engine: "processes" on this machine, or "ray", on the machines of a Ray cluster
    :param kernel: what runs the networks: "c", "onnx" or "torch"; by default the best that there is here
    :param ring_size: number of transitions after which an actor waits for the learner; by default ``pull_every``, at least 16
    :raises ValueError: if an argument is out of range, or the model or its policy cannot act so
    :raises ImportError: from ``learn``, if the engine is "ray" and Ray is missing
    """

    def __init__(
        self,
        model: OffPolicyAlgorithm,
        env_fns: EnvFn | Sequence[EnvFn],
        n_actors: int | None = None,
        precision: str = "int8",
        pull_every: int = 100,
        engine: str = "processes",
        kernel: str | None = None,
        ring_size: int | None = None,
    ):
        check_model(model)
        self.model, self.pull_every = model, pull_every
        self.env_fns = _one_for_each(env_fns, n_actors)
        if pull_every < 1:
            raise ValueError(f"pull_every must be at least 1 env step, got {pull_every}.")
        self.ring_size = max(pull_every, 16) if ring_size is None else ring_size
        if self.ring_size < 2:
            raise ValueError(f"ring_size must be at least 2 transitions, got {ring_size}.")
        if engine not in ENGINES:
            raise ValueError(f"The engine must be one of {', '.join(ENGINES)}, got {engine!r}.")
        self.engine = engine
        self.kernel, self.precision = choose_kernel(precision, kernel)
        self._packer = Packer(self.precision, LOOK_EVERY)
        self._form = make_form(model, self.kernel, self.precision, pull_every)
        self._learner: Learner | None = None
        self._engine: Engine | None = None
        self._seconds: float | None = None
        self.policy = PublishedPolicy(model, self._form)

    def learn(
        self,
        total_timesteps: int,
        callback: MaybeCallback = None,
        log_interval: int = 4,
        tb_log_name: str | None = None,
        reset_num_timesteps: bool = True,
        progress_bar: bool = False,
    ) -> "ActorQ":
        """
        Learn, as the model's own ``learn`` does; the actors live as long as this call. Each starts with an episode of its own.

        :param total_timesteps: env steps, over all actors
        :param callback: callbacks, as for the model
        :param log_interval: episodes between two logs
        :param tb_log_name: name of the run in TensorBoard; by default the algorithm's
        :param reset_num_timesteps: whether the count of env steps starts anew; False to go on
        :param progress_bar: whether to show a progress bar
        :return: this
        :raises ValueError: if the model has a budget by now
        :raises RuntimeError: if an actor fails by an error of its own, or dies again and again
        """
        model = self.model
        check_no_budget(model)
        done = 0 if reset_num_timesteps else model.num_timesteps
        n_random = max(model.learning_starts - done, 0)
        if self.precision == "int8":
            n_random = max(n_random, MIN_RANDOM - model.replay_buffer.size())  # type: ignore[union-attr]
        crew = Crew(
            form=self._form,
            env_fns=self.env_fns,
            seed=int(np.random.randint(2**31)) if model.seed is None else model.seed,
            n_random=_share(n_random, 1 if needs_whole_episodes(model) else len(self.env_fns)),
            ring_size=self.ring_size,
        )
        learner = self._learner = Learner(model, self._packer, self._form.layout, self.policy, self.pull_every)
        engine = self._engine = _make_engine(self.engine, crew)
        names = {} if tb_log_name is None else {"tb_log_name": tb_log_name}

        def check() -> None:
            engine.check(_share(max(done + n_random - model.num_timesteps, 0), 1))

        normalization = model.get_vec_normalize_env()
        template: Any = model.env if normalization is None else normalization.venv
        learner.attach(engine, ActorsEnv(engine.lanes, template, learner.ends_unit, check), done + n_random)
        self._started, self._first_step, self._seconds = time.monotonic(), done, None
        try:
            engine.start()
            with learning_from_actors(learner, self.report):
                if n_random == 0:
                    learner.publish(done)
                model.learn(
                    total_timesteps,
                    callback,
                    log_interval,
                    reset_num_timesteps=reset_num_timesteps,
                    progress_bar=progress_bar,
                    **names,
                )
        finally:
            engine.stop()
            self._seconds = time.monotonic() - self._started
        return self

    def evaluate(
        self, env: gym.Env | VecEnv, n_eval_episodes: int = 10, deterministic: bool = True, **kwargs: Any
    ) -> tuple[float, float]:
        """
        Evaluate the quantized policy that was published last, with SB3's ``evaluate_policy``.

        :param env: env, normalized where the model's is
        :param n_eval_episodes: number of episodes
        :param deterministic: whether to act without exploration
        :param kwargs: further arguments of ``evaluate_policy``
        :return: mean and standard deviation of the return
        :raises RuntimeError: if nothing was published yet
        """
        policy: Any = self.policy
        return evaluate_policy(policy, env, n_eval_episodes, deterministic, **kwargs)  # type: ignore[return-value]

    @property
    def pids(self) -> list[int]:
        """Process ids of the actors that are at work, on the machines where they are."""
        return [] if self._engine is None else self._engine.pids

    def report(self) -> ActorQReport:
        """
        What the last call of ``learn`` spent its time on, or the present one until now.

        :return: the report
        :raises RuntimeError: if nothing was learned yet
        """
        learner, engine = self._learner, self._engine
        if learner is None or engine is None:
            raise RuntimeError("There is nothing to report: call learn first.")
        seconds = time.monotonic() - self._started if self._seconds is None else self._seconds
        parts = {**learner.seconds, "rest": max(seconds - sum(learner.seconds.values()), 0.0)}
        age_in_versions, age_in_steps = learner.ages.mean
        return ActorQReport(
            engine=self.engine,
            kernel=self.kernel,
            precision=self.precision,
            n_steps=self.model.num_timesteps - self._first_step,
            seconds=seconds,
            actors=[dict(zip(PARTS, row, strict=True)) for row in (engine.spent() / 1e9).tolist()],
            learner=parts,
            n_versions=len(learner.ages.at) - 1,
            age_in_versions=age_in_versions,
            age_in_steps=age_in_steps,
            n_replaced=engine.n_replaced,
        )


def _share(n_random: int, n_actors: int) -> int:
    """An actor's share of the random steps, and one more, as its newest transition waits for the next."""
    return -(-n_random // n_actors) + 1 if n_random > 0 else 0


def _one_for_each(env_fns: EnvFn | Sequence[EnvFn], n_actors: int | None) -> list[EnvFn]:
    """The function of each actor's env."""
    given = [env_fns] if callable(env_fns) else list(env_fns)
    if not all(callable(env_fn) for env_fn in given):
        raise TypeError("env_fns must be functions that make an env, such as lambda: gym.make('Pendulum-v1').")
    n_actors = len(given) if n_actors is None else n_actors
    if n_actors < 1 or not given:
        raise ValueError(
            f"ActorQ needs at least one actor and a function that makes its env, got {n_actors} and {len(given)}."
        )
    if len(given) not in (1, n_actors):
        raise ValueError(f"Give one function that makes an env, or one for each of the {n_actors} actors; got {len(given)}.")
    return given if len(given) == n_actors else given * n_actors


def _make_engine(name: str, crew: Crew) -> Engine:
    if name == "processes":
        return Processes(crew)
    if find_spec("ray") is None:
        raise ImportError("The engine 'ray' needs Ray: pip install 'sb3-asym[ray]'")
    from sb3_asym.actorq.ray_engine import RayActors

    return RayActors(crew)
