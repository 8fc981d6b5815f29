"""Behavioural cloning: the teacher's own episodes only."""

import json

import numpy as np
from baseline_cases import Steer, steering_teacher

from sb3_asym.baselines import behavioural_cloning
from sb3_asym.deployment import DeployableAgent
from sb3_asym.deployment.rollouts import EnvPool
from sb3_asym.distillation import DistillationSettings
from sb3_asym.distillation.rollouts import collect
from sb3_asym.distillation.students import Schedule, Students
from sb3_asym.distillation.teacher import Teacher

SETTINGS = DistillationSettings(n_rounds=3, n_envs=4, n_steps=50, schedule=Schedule(n_updates=900))


def test_students_learn_from_the_teachers_own_episodes(tmp_path, monkeypatch):
    """All states are those that the teacher gets into when it acts alone; and the students keep its return."""
    teacher = steering_teacher()
    learned = []
    observe = Students.observe

    def noting(self, observations, targets):
        learned.append((observations, targets))
        observe(self, observations, targets)

    monkeypatch.setattr(Students, "observe", noting)
    report = behavioural_cloning(
        teacher, Steer, [[8]], keep=0.8, output=tmp_path / "bc", seed=3, n_eval_episodes=10, settings=SETTINGS
    )
    pool = EnvPool(Steer, 4, Teacher(teacher).agent)
    for env in range(4):
        pool.reset(env, 3 * 4 + env)
    states, targets = collect(pool, Teacher(teacher), [], 0.0, 150, np.random.default_rng(0))
    np.testing.assert_array_equal(np.concatenate([states for states, _ in learned]), states)
    np.testing.assert_array_equal(np.concatenate([targets for _, targets in learned]), targets)
    assert report.method == json.loads((tmp_path / "bc" / "report.json").read_text())["method"] == "bc"
    assert report.n_env_steps == 600
    assert {candidate.kind for candidate in report.candidates} == {"student", "teacher"}
    assert report.best.kept > 0.8
    assert (tmp_path / "bc" / report.best.file).is_file()


def test_no_student_acts_while_states_are_collected(monkeypatch):
    acting = []
    actions = DeployableAgent.actions

    def noting(self, observations, options):
        acting.append(len(self.sub_policies[0].layers[0].bias))
        return actions(self, observations, options)

    report_of_learning = []

    def progress(stage, share):
        if stage == "learning":
            report_of_learning.append(set(acting))

    monkeypatch.setattr(DeployableAgent, "actions", noting)
    behavioural_cloning(steering_teacher(), Steer, [[8]], n_eval_episodes=2, settings=SETTINGS, on_progress=progress)
    assert report_of_learning[-1] == {32}  # only the teacher has 32 units
