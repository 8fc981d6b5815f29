"""Agents that switch between distilled students and the teacher: which pairs, what their masters learn, co-training."""

import numpy as np
import pytest
import torch as th
from baseline_cases import Steer, steering_teacher
from command_line import run
from export_cases import DICT, RandomEnv, normalized, plain
from stable_baselines3 import A2C, PPO, SAC, TD3

from sb3_asym import AsymSAC
from sb3_asym.deployment import deployable, load_model
from sb3_asym.deployment.rollouts import EnvPool, Episodes, run_episodes
from sb3_asym.distillation import DistillationSettings, distill, switching
from sb3_asym.distillation.cotraining import cotrain
from sb3_asym.distillation.entries import Entry
from sb3_asym.distillation.students import Schedule, Students
from sb3_asym.distillation.switching import (
    RandomChoice,
    add_random_switching,
    add_switching_agents,
    as_sub_policy,
    can_switch,
    fit_master,
    switching_agent,
    switching_pairs,
)
from sb3_asym.distillation.teacher import Teacher


def students_of(teacher, sizes, idle=True):
    """Untrained students; of the Steer env, idle ones do nothing."""
    th.manual_seed(0)
    students = Students(teacher, sizes, [1] * len(sizes), "mse", Schedule())
    space = teacher.model.observation_space
    space.seed(0)
    states = np.array([teacher.agent.flatten(space.sample()) for _ in range(50)])
    students.observe(states, teacher.targets(states))
    if idle:
        students.networks.flat.zero_()
    return [students.agent(i) for i in range(len(sizes))]


def entry(name, kind, agent, reward):
    return Entry(name, kind, agent, selection=Episodes(np.full(4, reward), np.array([400]), 400))


def ladder(model, rewards, teacher_reward):
    """Students of growing size with the given returns, and the teacher."""
    teacher = Teacher(model)
    agents = students_of(teacher, [[width] for width in range(1, len(rewards) + 1)])
    students = [
        entry(f"student {i}", "student", agent, reward) for i, (agent, reward) in enumerate(zip(agents, rewards, strict=True))
    ]
    return [*students, entry("teacher", "teacher", teacher.agent, teacher_reward)]


def names(pairs):
    return [(small.name, large.name) for small, large in pairs]


@pytest.fixture(scope="module")
def untrained():
    """An agent that switches between one that does nothing and the teacher, with transitions of random options."""
    teacher = Teacher(steering_teacher())
    agent = switching_agent([*students_of(teacher, [[2]]), teacher.agent], ["small", "teacher"], teacher, Steer, 0)
    return agent.learn(1500), teacher


# --- which pairs ---


@pytest.mark.parametrize(
    ("rewards", "pairs"),
    [
        ([50.0, 99.0, 99.5], [("student 0", "student 1"), ("student 0", "teacher")]),
        ([50.0, 60.0, 99.5], [("student 1", "student 2"), ("student 1", "teacher")]),
        ([50.0, 60.0, 70.0], [("student 2", "teacher")]),
        ([99.0, 60.0, 70.0], []),
    ],
)
def test_neighbours_around_the_student_that_keeps_the_return(rewards, pairs):
    assert names(switching_pairs(ladder(steering_teacher(), rewards, 100.0), 0.98)) == pairs


@pytest.mark.parametrize("kind", [PPO, A2C])
@pytest.mark.parametrize(
    ("rewards", "pairs"),
    [
        ([50.0, 99.0, 99.5], [("student 0", "student 1"), ("student 0", "student 2")]),
        ([50.0, 60.0, 99.5], [("student 1", "student 2")]),
        ([50.0, 60.0, 70.0], [("student 1", "student 2")]),
        ([99.0, 60.0, 70.0], []),
        ([50.0], []),
    ],
)
def test_the_most_expensive_student_stands_in_for_a_teacher_that_is_not_squashed(kind, rewards, pairs):
    model = plain(kind, Steer(), n_steps=8, **(dict(batch_size=8) if kind is PPO else {}))
    entries = ladder(model, rewards, 100.0)
    found = switching_pairs(entries, 0.98)
    assert names(found) == pairs
    assert all(can_switch([small.agent, large.agent]) for small, large in found)


@pytest.mark.parametrize("kind", [SAC, TD3])
def test_statistics_of_a_squashed_teacher_go_into_its_first_layer(kind):
    """Exact but where normalized observations are clipped, and named as what it is."""
    env = normalized()
    env.clip_obs = 10.0
    teacher = Teacher(plain(kind, env, policy_kwargs=dict(net_arch=[9])))
    assert not can_switch([teacher.agent])
    found = as_sub_policy(entry("teacher", "teacher", teacher.agent, 1.0))
    assert found.name == "unclipped teacher"
    assert can_switch([found.agent])
    observations = np.random.default_rng(0).uniform(-5, 5, (50, 5)).astype(np.float32)
    zeros = np.zeros(50, dtype=np.int64)
    expected = teacher.agent.actions(observations, zeros)
    assert np.ptp(expected) > 0.1
    np.testing.assert_allclose(found.agent.actions(observations, zeros), expected, atol=1e-5)


# --- what the master learns ---


def use_of_large(agent, teacher):
    steps = run_episodes(EnvPool(Steer, 4, teacher.agent), [deployable(agent)], 8, 0)[0].option_steps
    return steps[1] / steps.sum()


def test_the_master_learns_where_the_small_actor_fails(untrained, tmp_path):
    """With a low λ the teacher acts, with a high one the small actor; in between the teacher acts far from 0."""
    agent, teacher = untrained
    use = {}
    for cost_coef in (0.0, 1.0, 100.0):
        fit_master(agent, cost_coef, 0, n_updates=800)
        use[cost_coef] = use_of_large(agent, teacher)
        if cost_coef == 1.0:
            choices = deployable(agent).choices(np.array([[-2.5], [0.0], [2.5]], dtype=np.float32))
            assert choices.tolist() == [1, 0, 1]
    assert use[0.0] > use[1.0] > use[100.0]
    assert use[0.0] > 0.7
    assert use[100.0] < 0.1
    agent.save(tmp_path / "switching")
    assert load_model(tmp_path / "switching").option_names == ("small", "teacher")


def test_q_values_are_returns_whatever_the_units_of_the_env():
    """The same env with rewards a thousand times larger: the same choices, and q-values a thousand times larger."""

    class Larger(Steer):
        def step(self, action):
            observation, reward, *rest = super().step(action)
            return observation, 1000 * reward, *rest

    places = np.linspace(-3, 3, 13, dtype=np.float32).reshape(-1, 1)
    q_values = []
    for env, scale in ((Steer, 1.0), (Larger, 1000.0)):
        teacher = Teacher(steering_teacher())
        agent = switching_agent([*students_of(teacher, [[2]]), teacher.agent], ["small", "teacher"], teacher, env, 0)
        agent.learn(500)
        fit_master(agent, scale, 0, n_updates=300)
        q_values.append(agent.master.q_net(th.as_tensor(places)).detach().numpy() / scale)
    np.testing.assert_allclose(q_values[0], q_values[1], rtol=1e-2, atol=1e-2)
    assert q_values[0].min() < -5


def test_dict_observations():
    model = plain(SAC, RandomEnv(DICT), "MultiInputPolicy", policy_kwargs=dict(net_arch=[9]))
    teacher = Teacher(model)
    small = students_of(teacher, [[2]], idle=False)
    agent = switching_agent([*small, teacher.agent], ["small", "teacher"], teacher, lambda: RandomEnv(DICT), 0)
    agent.learn(300)
    fit_master(agent, 0.1, 0, n_updates=100)
    states = [model.observation_space.sample() for _ in range(20)]
    flat = np.array([teacher.agent.flatten(state) for state in states])
    both = deployable(agent)
    np.testing.assert_allclose(
        both.alone(0).actions(flat, np.zeros(20, int)), small[0].actions(flat, np.zeros(20, int)), atol=1e-5
    )
    expected = teacher.agent.actions(flat, np.zeros(20, int))
    np.testing.assert_allclose(both.alone(1).actions(flat, np.zeros(20, int)), expected, atol=1e-5)
    assert np.isfinite(both.master.forward(th.as_tensor(flat)).numpy()).all()


def test_random_switching_has_the_same_actors_and_use(untrained):
    agent, _ = untrained
    entries = [Entry("switching s", "switching", deployable(agent), selection=Episodes(np.zeros(2), np.array([30, 10]), 10))]
    add_random_switching(entries, 0)
    assert [(e.name, e.kind) for e in entries[1:]] == [("random switching s", "random switching")]
    options = entries[1].chooser(np.zeros((4000, 1)))
    assert isinstance(entries[1].chooser, RandomChoice)
    assert options.mean() == pytest.approx(0.25, abs=0.03)


# --- co-training ---


@pytest.mark.parametrize("side", [-1.0, 1.0])
def test_the_small_student_learns_on_where_the_master_lets_it_act(side):
    """A student of which only the last bias can learn follows the teacher on the side on which the master lets it act."""
    teacher = Teacher(steering_teacher())
    agent = switching_agent([*students_of(teacher, [[2]]), teacher.agent], ["small", "teacher"], teacher, Steer, 0)
    first, second, last = (layer for layer in agent.master.q_net.q_net if isinstance(layer, th.nn.Linear))
    with th.no_grad():
        for parameter in agent.master.q_net.parameters():
            parameter.zero_()
        first.weight[0, 0], second.weight[0, 0], last.weight[0, 0], last.bias[1] = side, 1.0, 1.0, 0.05
    before = [parameter.clone() for parameter in agent.policy.parameters()]
    student, again = (cotrain(agent, teacher, Steer, 200, 300, 0) for _ in range(2))
    assert all(th.equal(new, old) for new, old in zip(agent.policy.parameters(), before, strict=True))
    places, options = np.zeros((1, 1), dtype=np.float32), np.zeros(1, dtype=np.int64)
    assert side * student.actions(places, options).item() < -0.05
    assert student.actions(places, options) == again.actions(places, options)


def test_a_student_goes_on_from_its_weights():
    teacher = Teacher(steering_teacher())
    states = np.random.default_rng(0).uniform(-3, 3, (100, 1)).astype(np.float32)
    (student,) = students_of(teacher, [[3, 2]], idle=False)
    students = Students(teacher, [[1], [3, 2]], [1, 2], "mse", Schedule())
    students.observe(states, teacher.targets(states))
    students.start_from(2, student)
    zeros = np.zeros(100, dtype=np.int64)
    np.testing.assert_allclose(students.agent(2).actions(states, zeros), student.actions(states, zeros), atol=1e-5)
    assert not np.allclose(students.agent(1).actions(states, zeros), student.actions(states, zeros), atol=1e-2)


# --- in a distillation ---


def test_agents_that_switch_are_saved_as_they_were_measured(untrained, monkeypatch):
    """Each with its own λ, in a copy that holds neither env nor transitions."""
    monkeypatch.setattr(switching, "N_MASTER_UPDATES", 50)
    _, teacher = untrained
    small, *_ = students_of(teacher, [[2]])
    entries = [entry("student [2]", "student", small, -100.0), entry("teacher", "teacher", teacher.agent, -20.0)]
    shares = []
    add_switching_agents(entries, teacher, Steer, 0.9, 200, 50, 0, lambda stage, share: shares.append(share))
    found = [e for e in entries if e.kind == "switching"]
    assert shares == pytest.approx(np.arange(1, 7) / 6)
    assert len({e.name for e in found}) == 6
    # The teacher returns 80 more in the 100 steps of an episode.
    assert [e.name for e in entries[2:5]] == [
        "switching student [2] / teacher, λ = 0.08",
        "co-trained student [2] of teacher, λ = 0.08",
        "switching co-trained student [2] / teacher, λ = 0.08",
    ]
    places = np.linspace(-3, 3, 20, dtype=np.float32).reshape(-1, 1)
    for e in found:
        assert e.model.env is None
        saved = deployable(e.model)
        np.testing.assert_allclose(saved.master.forward(th.as_tensor(places)), e.agent.master.forward(th.as_tensor(places)))
        assert saved.option_length == 4


def test_a_teacher_that_is_not_squashed_has_agents_that_switch(tmp_path, monkeypatch):
    """PPO learned to steer, by a regression; its largest student stands in for it beside one that pushes to one side only."""
    monkeypatch.setattr(switching, "N_MASTER_UPDATES", 50)
    policy_kwargs = dict(net_arch=[16], activation_fn=th.nn.ReLU)
    model = PPO("MlpPolicy", Steer(), n_steps=8, batch_size=8, policy_kwargs=policy_kwargs, seed=0, device="cpu")
    optimizer = th.optim.Adam(model.policy.parameters(), lr=1e-2)
    for _ in range(300):
        place = th.rand(128, 1) * 6 - 3
        loss = (model.policy.get_distribution(place).mode() - th.tanh(-2 * place)).square().mean()
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    schedule = Schedule(n_updates=300)
    settings = DistillationSettings(2, 4, 60, schedule=schedule, n_switching_steps=100, n_cotraining_updates=20)
    report = distill(model, Steer, [[1], [4]], keep=1.0, n_eval_episodes=4, settings=settings, output=tmp_path / "out")
    found = [candidate for candidate in report.candidates if candidate.kind == "switching"]
    assert len(found) == 6
    assert report.verdict
    assert all("student [1] / student [4], λ" in candidate.name for candidate in found)
    for candidate in found:
        if candidate.file:
            assert AsymSAC.load(tmp_path / "out" / candidate.file).option_length == 4


def test_co_training_needs_agents_that_switch(tmp_path):
    done = run("distill", tmp_path / "agent", "--env", "Pendulum-v1", "--method", "bc", "--cotrain", "-o", tmp_path / "out")
    message = "sb3-asym: --cotrain goes with --method dagger, got bc: no agents switch there.\n"
    assert (done.returncode, done.stderr) == (2, message)
    assert not list(tmp_path.iterdir())
