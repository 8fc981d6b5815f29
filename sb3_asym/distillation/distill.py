"""From a trained agent to the cheapest one that keeps its return."""

import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from functools import partial
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import gymnasium as gym
import numpy as np
import torch as th
from stable_baselines3.common.base_class import BaseAlgorithm
from stable_baselines3.common.vec_env import VecNormalize

from sb3_asym.deployment import DeployableAgent
from sb3_asym.deployment.rollouts import EnvPool, run_episodes
from sb3_asym.distillation.choice import choose, verdict
from sb3_asym.distillation.entries import Entry, candidates
from sb3_asym.distillation.picture import draw_report
from sb3_asym.distillation.report import Candidate, DistillationReport
from sb3_asym.distillation.rollouts import collect
from sb3_asym.distillation.students import Schedule, Students
from sb3_asym.distillation.switching import add_random_switching, add_switching_agents
from sb3_asym.distillation.teacher import Teacher, network_flops
from sb3_asym.distillation.to_sb3 import to_sb3
from sb3_asym.envs import check_spaces, make_env
from sb3_asym.files import atomic_folder
from sb3_asym.quantization.ptq import quantize
from sb3_asym.quantization.schemes import EXPORTED
from sb3_asym.versions import versions

WIDTHS = (4, 8, 12, 16, 24, 32, 48, 72, 96, 128)
"""Units of each of the two hidden layers of the students, beside the linear one."""
SELECTION_SEED, HELD_OUT_SEED, CHANCE_SEED, FORMS_SEED = 1_000_000, 2_000_000, 3_000_000, 4_000_000
N_CHANCE_EPISODES = 5
EVAL_EPISODES, EVAL_STEPS = (20, 200), 20_000
"""Fewest and most episodes of an agent; in between, as many as have so many env steps."""

Progress = Callable[[str, float], Any]
"""Function of a stage and the share of it that is done."""


@dataclass(frozen=True)
class DistillationSettings:
    """
    Effort of a distillation.

    :param n_rounds: rounds of collecting states and learning from all of them
    :param n_envs: number of envs
    :param n_steps: steps of each env in a round
    :param student_share: shares of the stretches in which students act, in the second and in the last round
    :param schedule: length and speed of learning, over all rounds
    :param n_switching_steps: env steps from which masters learn; 0 for no agents that switch
    :param n_cotraining_updates: gradient steps in which the smaller student learns on where a master lets it act; 0 for none
    :raises ValueError: if rounds, envs or steps are less than 1, or updates less than rounds
    """

    n_rounds: int = 10
    n_envs: int = 20
    n_steps: int = 300
    student_share: tuple[float, float] = (0.5, 0.85)
    schedule: Schedule = field(default_factory=Schedule)
    n_switching_steps: int = 12_000
    n_cotraining_updates: int = 0

    def __post_init__(self) -> None:
        for name in ("n_rounds", "n_envs", "n_steps"):
            if getattr(self, name) < 1:
                raise ValueError(f"{name} must be at least 1, got {getattr(self, name)}.")
        if self.schedule.n_updates < self.n_rounds:
            raise ValueError(f"Each of {self.n_rounds} rounds needs an update, got n_updates={self.schedule.n_updates}.")


def distill(
    model: BaseAlgorithm,
    env: str | Callable[[], gym.Env],
    sizes: Sequence[Sequence[int]] | None = None,
    keep: float = 0.98,
    budget: float | None = None,
    output: str | Path | None = None,
    loss: str = "robust",
    vec_normalize: VecNormalize | None = None,
    int8: bool = False,
    seed: int = 0,
    n_eval_episodes: int | None = None,
    settings: DistillationSettings | None = None,
    on_progress: Progress = lambda stage, share: None,
) -> DistillationReport:
    """
    Distill a trained agent into students of a ladder of sizes, and into agents that switch between them.

    Students learn from the teacher's actions in the states that they get into themselves (DAgger, Ross et al. 2011, arXiv
    1011.0686). Ctrl-C ends learning, or learning to switch, early; what was learned until then is measured.

    :param model: the teacher: SAC, TD3, DDPG, TQC, PPO, A2C, DQN or QRDQN
    :param env: Gymnasium id, or function that makes an env, with observations as they are: not normalized
    :param sizes: hidden layers of each size of student; by default a linear student and two layers of ``WIDTHS`` units, up to
        half of the teacher's FLOPs
    :param keep: share of the teacher's return to keep
    :param budget: FLOPs per inference that may be spent, in place of ``keep``
    :param output: folder for the report, its picture and the agents: a new or an empty one
    :param loss: one of :data:`sb3_asym.distillation.students.LOSSES`
    :param vec_normalize: statistics of the teacher's observations; those of the model's own env by default
    :param int8: whether to measure int8 forms of the students too
    :param seed: seed of students, envs and masters
    :param n_eval_episodes: episodes of each agent, to select by and as many held-out ones; by default 20, and more where
        they are short: as many as the teacher makes in 20,000 env steps, up to 200
    :param settings: effort; the default takes a few minutes on two cores
    :param on_progress: called with the stage and the share of it that is done
    :return: the report
    :raises ValueError: if an argument is out of range, a student is larger than the teacher, the env's spaces differ from the
        teacher's, or the teacher does no better there than chance
    :raises FileExistsError: if the output folder is not empty
    """
    run = Distillation(
        model, env, sizes, keep, budget, loss, vec_normalize, int8, seed, n_eval_episodes, settings, on_progress
    )
    return run.report(output)


class Distillation:
    """One run of :func:`distill`, whose arguments it takes. Other methods than DAgger override how students learn."""

    method = "dagger"

    def __init__(
        self,
        model: BaseAlgorithm,
        env: str | Callable[[], gym.Env],
        sizes: Sequence[Sequence[int]] | None = None,
        keep: float = 0.98,
        budget: float | None = None,
        loss: str = "robust",
        vec_normalize: VecNormalize | None = None,
        int8: bool = False,
        seed: int = 0,
        n_eval_episodes: int | None = None,
        settings: DistillationSettings | None = None,
        on_progress: Progress = lambda stage, share: None,
    ):
        if not 0 < keep <= 1:
            raise ValueError(f"keep is a share of the teacher's return such as 0.98, got {keep}.")
        if budget is not None and budget <= 0:
            raise ValueError(f"budget is a number of FLOPs per inference above 0, got {budget}.")
        if n_eval_episodes is not None and n_eval_episodes < 2:
            raise ValueError(f"n_eval_episodes must be at least 2, from which an error can be told, got {n_eval_episodes}.")
        self.start = time.monotonic()
        self.model, self.keep, self.budget, self.loss, self.int8, self.seed = model, keep, budget, loss, int8, seed
        self.settings, self.on_progress = settings or DistillationSettings(), on_progress
        self.make: Callable[[], gym.Env] = partial(make_env, env) if isinstance(env, str) else env
        is_ours = isinstance(self.make, partial) and self.make.func is make_env and bool(self.make.args)
        self.env_id = self.make.args[0] if is_ours else ""  # type: ignore[attr-defined]
        self.teacher = Teacher(model, vec_normalize)
        self.sizes = _sizes(self.teacher, sizes)
        self._prepare()
        self.pool = EnvPool(self.make, self.settings.n_envs, self.teacher.agent)
        check_spaces(self.pool.envs[0], model.observation_space, model.action_space)
        self.n_episodes = n_eval_episodes or 0
        self.observations: list[np.ndarray] = []
        self.entries: list[Entry] = []

    def report(self, output: str | Path | None) -> DistillationReport:
        """
        Learn, compare, choose, and save what was found.

        :param output: folder for the report, its picture and the agents, or None
        :return: the report
        """
        if output is None:
            return self._report(None)
        with atomic_folder(Path(output)) as folder:
            return self._report(folder)

    def _report(self, folder: Path | None) -> DistillationReport:
        self._compare_the_teacher_with_chance()
        with self._keeping_what_is_done():
            self._learn()
        self._enter_students()
        self.entries.append(Entry("teacher", "teacher", self.teacher.agent))
        if self.int8:
            self._enter_int8()
        if self.settings.n_switching_steps > 0 and not self.teacher.is_discrete:
            self._run("selection")
            steps, updates, seed = self.settings.n_switching_steps, self.settings.n_cotraining_updates, self.seed
            with self._keeping_what_is_done():
                add_switching_agents(self.entries, self.teacher, self.make, self.keep, steps, updates, seed, self.on_progress)
            self._run("selection")
            add_random_switching(self.entries, seed)
        self._run("selection")
        self._run("held_out")
        self.pool.close()
        found = candidates(self.entries)
        best, reason = choose(found, self.keep, self.budget)
        if folder is not None:
            found = self._save(found, best, folder)
        report = DistillationReport(
            env=self.env_id,
            method=self.method,
            loss=self._loss_name(),
            candidates=tuple(found),
            chosen="" if best is None else best.name,
            reason=reason,
            verdict=verdict(found),
            n_env_steps=self._n_env_steps(),
            n_episodes=self.n_episodes,
            seconds=time.monotonic() - self.start,
            seed=self.seed,
            versions=versions(),
        )
        if folder is not None:
            report.write(folder)
            if find_spec("matplotlib") is not None:
                draw_report(report, None if self.budget is not None else self.keep, folder / "front.png")
        return report

    @contextmanager
    def _keeping_what_is_done(self) -> Iterator[None]:
        """Ctrl-C ends what runs within; what was done until then is measured."""
        try:
            yield
        except KeyboardInterrupt:
            self.on_progress("stopped early", 1.0)

    def _prepare(self) -> None:
        """What learning needs, and what can be wrong with it, before anything is run."""
        th.manual_seed(self.seed)
        n_copies = [_n_copies(size) for size in self.sizes]
        self.students = Students(self.teacher, self.sizes, n_copies, self.loss, self.settings.schedule)

    def _loss_name(self) -> str:
        return "cross-entropy" if self.teacher.is_discrete else self.loss

    def _n_env_steps(self) -> int:
        """Env steps from which the students learned."""
        return sum(map(len, self.observations))

    def _compare_the_teacher_with_chance(self) -> None:
        """
        A teacher whose statistics are missing, or from another env, acts no better than chance. How long its episodes are, and
        whether chance ends them earlier, is noted.
        """
        teacher = run_episodes(self.pool, [self.teacher.agent], N_CHANCE_EPISODES, CHANCE_SEED)[0]
        self.teacher_steps, self.chance_steps = int(teacher.option_steps.sum()), 0
        if not self.n_episodes:
            fewest, most = EVAL_EPISODES
            self.n_episodes = min(max(EVAL_STEPS * N_CHANCE_EPISODES // self.teacher_steps, fewest), most)
        space = self.model.action_space
        space.seed(self.seed)
        chance = np.zeros(N_CHANCE_EPISODES)
        for episode in range(N_CHANCE_EPISODES):
            self.pool.reset(0, CHANCE_SEED + episode)
            done = False
            while not done:
                reward, done = self.pool.step(0, np.ravel(space.sample()))
                chance[episode] += reward
                self.chance_steps += 1
        if teacher.returns.mean() <= chance.mean():
            raise ValueError(
                f"The teacher returns {teacher.returns.mean():.1f} here, no more than random actions ({chance.mean():.1f}): "
                "was it trained in another env, or on normalized observations whose statistics are missing?"
            )

    def _learn(self) -> None:
        """DAgger: from the teacher's states, then more and more from the students' own."""
        settings, rng = self.settings, np.random.default_rng(self.seed)
        per_round = settings.schedule.n_updates // settings.n_rounds
        for env in range(settings.n_envs):
            self.pool.reset(env, self.seed * settings.n_envs + env)
        for number in range(settings.n_rounds):
            first, last = settings.student_share
            share = 0.0 if number == 0 else first + (last - first) * (number - 1) / max(settings.n_rounds - 2, 1)
            agents = [] if number == 0 else self.students.draw(settings.n_envs, rng)
            states, targets = collect(self.pool, self.teacher, agents, share, settings.n_steps, rng)
            self.observations.append(states)
            self.students.observe(states, targets)
            self.students.learn(per_round, self._on_update)

    def _on_update(self) -> None:
        if self.students.n_updates % 100 == 0:
            self.on_progress("learning", self.students.n_updates / self.settings.schedule.n_updates)

    def _forms(self) -> list[tuple[list[int], list[DeployableAgent]]]:
        """What was learned of each size: its copies."""
        if not self.observations:
            raise KeyboardInterrupt  # there is nothing yet that could be measured
        forms: list[tuple[list[int], list[DeployableAgent]]] = [(size, []) for size in self.sizes]
        for member, (index, _) in enumerate(self.students.members):
            forms[index][1].append(self.students.agent(member))
        return forms

    def _enter_students(self) -> None:
        """
        The best form of each size, by half as many episodes of their own: in the selection episodes it is then no luckier than
        others.
        """
        forms, n_episodes = self._forms(), max(self.n_episodes // 2, 1)
        rivals = [agent for _, agents in forms if len(agents) > 1 for agent in agents]
        counter = self._counter(len(rivals), n_episodes)
        episodes = iter(run_episodes(self.pool, rivals, n_episodes, FORMS_SEED, on_episode=counter))
        for size, agents in forms:
            rewards = [next(episodes).returns.mean() for _ in agents] if len(agents) > 1 else [0.0]
            self.entries.append(Entry(f"student {size or 'linear'}", "student", agents[int(np.argmax(rewards))]))

    def _enter_int8(self) -> None:
        """The students in int8, calibrated on the states that they learned from."""
        states = np.concatenate(self.observations)[-10_000:]
        for entry in [entry for entry in self.entries if entry.kind == "student"]:
            self.entries.append(Entry(f"{entry.name}, int8", "int8", quantize(entry.agent, EXPORTED["int8"], states)))

    def _run(self, kind: str) -> None:
        """Run the selection or the held-out episodes of all agents that lack them."""
        missing = [entry for entry in self.entries if getattr(entry, kind) is None]
        if not missing:
            return
        first_seed = SELECTION_SEED if kind == "selection" else HELD_OUT_SEED
        agents, choosers = [entry.agent for entry in missing], [entry.chooser for entry in missing]
        counter = self._counter(len(missing), self.n_episodes)
        episodes = run_episodes(self.pool, agents, self.n_episodes, first_seed, choosers, counter)
        for entry, found in zip(missing, episodes, strict=True):
            setattr(entry, kind, found)

    def _counter(self, n_agents: int, n_episodes: int) -> Callable[[], None]:
        """Progress over the episodes of several agents."""
        n_done = 0

        def count() -> None:
            nonlocal n_done
            n_done += 1
            self.on_progress("evaluating", n_done / (n_agents * n_episodes))

        return count

    def _save(self, found: list[Candidate], best: Candidate | None, folder: Path) -> list[Candidate]:
        """Save the agents on the front and the chosen one, and note their files."""
        by_name = {entry.name: entry for entry in self.entries}
        saved = []
        for candidate in found:
            entry, is_best = by_name[candidate.name], best is not None and candidate.name == best.name
            file = ""
            if candidate.kind in ("student", "switching") and (candidate.on_front or is_best):
                file = "agent.zip" if is_best else f"agents/{_file_name(candidate.name)}.zip"
                model = entry.model or to_sb3(entry.agent, self.model)
                model.save(folder / file)
            saved.append(replace(candidate, file=file))
        return saved


def _sizes(teacher: Teacher, sizes: Sequence[Sequence[int]] | None) -> list[list[int]]:
    """The sizes that were asked for, or those of the ladder that cost at most half of the teacher."""

    def flops(size: Sequence[int]) -> int:
        return network_flops([teacher.agent.obs_dim, *size, teacher.n_outputs])

    if sizes is None:
        ladder: list[list[int]] = [[], *([width, width] for width in WIDTHS)]
        cheap = [size for size in ladder if flops(size) <= teacher.flops / 2]
        return sorted(cheap or [[]], key=flops)  # a linear one costs more than [4, 4] where there are many actions
    for size in sizes:
        if any(width < 1 for width in size):
            raise ValueError(f"A student needs layers of at least one unit, got {list(size)}.")
        if flops(size) > teacher.flops:
            raise ValueError(
                f"A student of {list(size)} units costs {flops(size):,} FLOPs, more than the teacher's {teacher.flops:,}."
            )
    if not sizes:
        raise ValueError("There is no student: name at least one size, such as 32,32.")
    if len({tuple(size) for size in sizes}) < len(sizes):
        raise ValueError(f"Name each size of a student once, got {[list(size) for size in sizes]}.")
    return sorted((list(size) for size in sizes), key=flops)


def _n_copies(size: Sequence[int]) -> int:
    """Small students differ more by their first weights, and cost less."""
    largest = max(size, default=0)
    return 4 if largest <= 16 else 2 if largest <= 32 else 1


def _file_name(name: str) -> str:
    return "_".join("".join(c if c.isalnum() or c in ".-" else " " for c in name).split())
