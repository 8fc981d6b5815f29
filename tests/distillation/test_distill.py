"""Distillation for real, on envs and teachers that are small enough for seconds."""

import csv
import json
from dataclasses import replace

import gymnasium as gym
import numpy as np
import pytest
import torch as th
from baseline_cases import Steer
from command_line import run
from export_cases import DICT, RandomEnv, normalized, plain
from stable_baselines3 import A2C, DDPG, DQN, PPO, SAC, TD3
from stable_baselines3.common.evaluation import evaluate_policy
from stable_baselines3.common.vec_env import DummyVecEnv, VecNormalize

from sb3_asym.deployment import deployable
from sb3_asym.deployment.rollouts import EnvPool, run_episodes
from sb3_asym.distillation import DistillationSettings, distill
from sb3_asym.distillation.choice import choose, verdict
from sb3_asym.distillation.distill import _sizes
from sb3_asym.distillation.report import Candidate, front, kept_share
from sb3_asym.distillation.rollouts import collect
from sb3_asym.distillation.students import Schedule, Students
from sb3_asym.distillation.teacher import Teacher, network_flops
from sb3_asym.distillation.to_sb3 import to_sb3

TINY = DistillationSettings(n_rounds=3, n_envs=4, n_steps=50, schedule=Schedule(n_updates=600), n_switching_steps=0)


def steering_teacher():
    """A SAC agent of 32 units whose mean action is tanh(−2 x), up to its own approximation of it."""
    model = SAC("MlpPolicy", Steer(), policy_kwargs=dict(net_arch=[32, 32]), seed=0, buffer_size=10, device="cpu")
    actor = model.policy.actor
    optimizer = th.optim.Adam(actor.parameters(), lr=3e-3)
    for _ in range(600):
        x = th.rand(128, 1) * 8 - 4
        loss = (actor(x, deterministic=True) - th.tanh(-2 * x)).square().mean()
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    return model


@pytest.fixture(scope="module")
def teacher():
    return steering_teacher()


@pytest.fixture(scope="module")
def outcome(teacher, tmp_path_factory):
    """A distillation with everything in it, and its folder."""
    folder = tmp_path_factory.mktemp("distilled") / "out"
    settings = DistillationSettings(n_rounds=3, n_envs=4, n_steps=60, schedule=Schedule(n_updates=1500), n_switching_steps=400)
    stages = []
    report = distill(
        teacher,
        Steer,
        sizes=[[8, 8], [], [2]],
        output=folder,
        int8=True,
        keep=0.9,
        n_eval_episodes=10,
        settings=settings,
        on_progress=lambda stage, share: stages.append((stage, share)),
    )
    return report, folder, stages


def test_students_keep_the_return_and_the_cheapest_is_chosen(outcome):
    report, *_ = outcome
    kinds = [candidate.kind for candidate in report.candidates]
    assert kinds.count("student") == 3
    assert kinds.count("int8") == 3
    assert report.best.kept > 0.9
    assert report.best.flops_per_inference < 0.05 * report.teacher.flops_per_inference
    cheaper = [c for c in report.candidates if c.flops_per_inference < report.best.flops_per_inference and c.kind == "student"]
    assert all(kept_share(c.selection_reward, report.teacher.selection_reward) < 0.9 for c in cheaper)
    assert report.teacher.kept == 1.0
    assert report.n_env_steps == 3 * 4 * 60


def test_all_that_was_found_is_written(outcome):
    report, folder, stages = outcome
    assert json.loads((folder / "report.json").read_text())["chosen"] == report.chosen
    with (folder / "report.csv").open() as file:
        assert len(list(csv.DictReader(file))) == len(report.candidates)
    assert (folder / "front.png").read_bytes().startswith(b"\x89PNG")
    assert {stage for stage, _ in stages} >= {"learning", "evaluating"}
    assert max(share for _, share in stages) == 1.0
    text = str(report)
    assert f"* {report.chosen}" in text
    assert report.reason in text


def test_the_saved_agent_is_the_student_that_was_measured(outcome):
    """An SB3 model of observations as they are, which returns what the report says."""
    report, folder, _ = outcome
    model = SAC.load(folder / report.best.file)
    env = DummyVecEnv([Steer])
    env.seed(2_000_000)
    reward, _ = evaluate_policy(model, env, n_eval_episodes=200, warn=False)
    assert kept_share(reward, report.teacher.mean_reward) > 0.7
    saved = [candidate for candidate in report.candidates if candidate.file]
    assert all((folder / candidate.file).exists() for candidate in saved)
    assert {candidate.name for candidate in report.candidates if candidate.on_front} - {"teacher"} <= {c.name for c in saved}


@pytest.mark.parametrize("kind", [SAC, TD3, DDPG, PPO, A2C, DQN, "Dict", "normalized"])
def test_every_kind_of_teacher(kind):
    """Students come nearer to what it does; the saved form acts as the deployable one."""
    if kind == "Dict":
        model = plain(SAC, RandomEnv(DICT), "MultiInputPolicy", policy_kwargs=dict(net_arch=[9]))
    elif kind == "normalized":
        model = plain(PPO, normalized(), n_steps=8, batch_size=8, policy_kwargs=dict(net_arch=[9]))
    else:
        kwargs = dict(n_steps=8, batch_size=8) if kind is PPO else {}
        model = plain(kind, RandomEnv(discrete=kind is DQN), policy_kwargs=dict(net_arch=[9, 5]), **kwargs)
    teacher = Teacher(model)
    space = model.observation_space
    space.seed(1)
    states = np.array([teacher.agent.flatten(space.sample()) for _ in range(600)])
    targets = teacher.targets(states)
    th.manual_seed(0)
    students = Students(teacher, [[], [6, 6]], [1, 2], "mse", Schedule(n_updates=900))
    students.observe(states, targets)
    students.learn(1)
    before = students.losses.clone()
    students.learn(800)
    assert (students.losses < 0.8 * before).all()
    for member in range(3):
        agent = students.agent(member)
        assert agent.normalization is None
        saved = to_sb3(agent, model)
        expected = agent.actions(states, np.zeros(len(states), dtype=np.int64))
        again = deployable(saved).actions(states, np.zeros(len(states), dtype=np.int64))
        np.testing.assert_allclose(again, expected, atol=1e-4)


@pytest.mark.parametrize("loss", ["robust", "mse", "critic", "both"])
def test_every_loss(teacher, loss):
    states = np.random.default_rng(0).uniform(-3, 3, (500, 1)).astype(np.float32)
    distilled = Teacher(teacher)
    th.manual_seed(0)
    students = Students(distilled, [[4], [8]], [2, 1], loss, Schedule(n_updates=300))
    students.observe(states, distilled.targets(states))
    students.learn(1)
    before = students.losses.clone()
    students.learn(299)
    assert students.losses.shape == (3,)
    assert (students.losses < before).all()


def test_each_copy_learns_as_it_would_alone(teacher):
    """One graph for all of them changes nothing for each: the same as torch's own Adam on one network."""
    states = np.random.default_rng(0).uniform(-3, 3, (64, 1)).astype(np.float32)
    distilled = Teacher(teacher)
    targets = distilled.targets(states)
    th.manual_seed(0)
    schedule = Schedule(n_updates=50, batch_size=64)
    students = Students(distilled, [[4], [8]], [2, 1], "mse", schedule)
    index, copy = students.members[1]
    layers = students.networks.layers(students.networks.flat)[index]
    parameters = [part[copy].clone().requires_grad_() for layer in layers for part in layer]
    optimizer = th.optim.Adam(parameters, lr=schedule.learning_rate)
    th.manual_seed(1)
    students.observe(states, targets)
    students.learn(50)
    th.manual_seed(1)
    inputs = th.as_tensor((states - states.mean(0)) / states.std(0))
    for update in range(50):
        rows = th.randint(64, (64,))
        optimizer.param_groups[0]["lr"] = schedule.at(update)
        w1, b1, w2, b2 = parameters
        output = th.tanh(th.relu(inputs[rows] @ w1.T + b1) @ w2.T + b2)
        loss = (output - th.as_tensor(targets)[rows]).square().mean()
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    learned = [part[copy] for layer in students.networks.layers(students.networks.flat)[index] for part in layer]
    for ours, theirs in zip(learned, parameters, strict=True):
        th.testing.assert_close(ours, theirs.detach(), rtol=1e-3, atol=1e-4)


def test_a_saved_student_takes_the_envs_own_observations():
    """In the order of the parts of its space, which is not that of the alphabet, and with its bounds."""
    place = gym.spaces.Box(np.float32([np.finfo(np.float32).min] * 3), np.float32([np.finfo(np.float32).max] * 3))
    space = gym.spaces.Dict([("place", place), ("goal", gym.spaces.Box(-5.0, 5.0, (2,)))])
    teacher = plain(SAC, RandomEnv(space), "MultiInputPolicy", buffer_size=10, policy_kwargs=dict(net_arch=[16]))
    saved = to_sb3(deployable(teacher), teacher)
    assert saved.observation_space == teacher.observation_space
    rng = np.random.default_rng(0)
    for _ in range(10):
        observation = {"goal": rng.normal(size=2).astype(np.float32), "place": rng.normal(size=3).astype(np.float32)}
        actions = [model.predict(observation, deterministic=True)[0] for model in (saved, teacher)]
        np.testing.assert_allclose(*actions, atol=1e-5)


def test_the_ladder_goes_from_cheap_to_expensive():
    """A linear student costs more than one of four units where there are many actions."""
    env = RandomEnv()
    env.observation_space, env.action_space = gym.spaces.Box(-1, 1, (105,)), gym.spaces.Box(-1, 1, (8,))
    sizes = _sizes(Teacher(plain(SAC, env, buffer_size=10, policy_kwargs=dict(net_arch=[64, 64]))), None)
    costs = [network_flops([105, *size, 8]) for size in sizes]
    assert costs == sorted(costs)
    assert sizes[:2] == [[4, 4], []]


def test_students_act_in_their_share_of_the_stretches(teacher):
    distilled = Teacher(teacher)
    pool = EnvPool(Steer, 6, distilled.agent)
    for env in range(6):
        pool.reset(env, env)
    calls = []

    class Counting:
        def actions(self, observations, options):
            calls.append(len(observations))
            return np.zeros((len(observations), 1), dtype=np.float32)

    states, targets = collect(pool, distilled, [Counting(), Counting()], 0.7, 400, np.random.default_rng(0))
    assert states.shape == (2400, 1)
    assert sum(calls) / 2400 == pytest.approx(0.7, abs=0.06)
    np.testing.assert_allclose(targets, distilled.targets(states), atol=1e-6)
    calls.clear()
    collect(pool, distilled, [Counting()], 0.0, 50, np.random.default_rng(0))
    assert calls == []


def test_episodes_have_the_same_seeds_for_every_agent(teacher):
    distilled = Teacher(teacher)
    pool = EnvPool(Steer, 3, distilled.agent)
    first, second = run_episodes(pool, [distilled.agent, distilled.agent], 7, seed=5)
    assert first.returns == pytest.approx(second.returns, rel=1e-5)
    env = Steer()
    observation, _ = env.reset(seed=5 + 4)
    total, done = 0.0, False
    while not done:
        observation, reward, _, done, _ = env.step(teacher.predict(observation, deterministic=True)[0])
        total += reward
    assert first.returns[4] == pytest.approx(total, rel=1e-4)
    assert first.option_steps.tolist() == [7 * 20]
    assert first.n_choices == 7 * 20


def test_ctrl_c_keeps_what_was_learned(teacher):
    def interrupt(stage, share):
        if stage == "learning" and share > 0.3:
            raise KeyboardInterrupt

    report = distill(teacher, Steer, sizes=[[4]], n_eval_episodes=2, settings=TINY, on_progress=interrupt)
    assert {candidate.kind for candidate in report.candidates} == {"student", "teacher"}


def test_ctrl_c_before_anything_was_learned_stops(teacher, tmp_path):
    class Interrupted(Steer):
        def reset(self, *, seed=None, options=None):
            self.is_of_learning = seed is not None and seed < TINY.n_envs
            return super().reset(seed=seed, options=options)

        def step(self, action):
            if self.is_of_learning:
                raise KeyboardInterrupt
            return super().step(action)

    with pytest.raises(KeyboardInterrupt):
        distill(teacher, Interrupted, sizes=[[2]], n_eval_episodes=4, settings=TINY, output=tmp_path / "out")
    assert not list(tmp_path.iterdir())


def test_short_episodes_are_measured_more_often(teacher):
    """As many as the teacher makes in 20,000 steps: Steer makes 20 in an episode, so 200 are the most."""
    settings = replace(TINY, schedule=Schedule(n_updates=30))
    report = distill(teacher, Steer, sizes=[[2]], settings=settings)
    assert report.n_episodes == 200
    assert distill(teacher, Steer, sizes=[[2]], settings=settings, n_eval_episodes=3).n_episodes == 3


# --- choice ---


def candidate(name, kind, flops, reward, selection=None):
    share = kept_share(reward, 100.0)
    return Candidate(name, kind, (), flops, 0, reward if selection is None else selection, reward, 1.0, share)


CANDIDATES = [
    candidate("a", "student", 10, 50.0),
    candidate("b", "student", 100, 97.0, selection=98.5),
    candidate("c", "student", 1000, 99.0),
    candidate("t", "teacher", 5000, 100.0),
    candidate("r", "random switching", 1, 100.0),
]


def test_the_cheapest_that_keeps_the_return_over_the_selection_episodes():
    best, reason = choose(CANDIDATES, 0.98, None)
    assert best.name == "b"
    assert "at least 98.5% over the selection episodes, within one standard error; 97.0% over the held-out ones" in reason
    unsure = [replace(c, selection_error=2.0) if c.name == "b" else c for c in CANDIDATES]
    assert choose(unsure, 0.98, None)[0].name == "c"
    assert choose(CANDIDATES, 0.995, None)[0] is None
    assert "closest, c, keeps 99.0%" in choose(CANDIDATES, 0.995, None)[1]


def test_the_best_within_a_budget():
    assert choose(CANDIDATES, 0.98, 500)[0].name == "b"
    best, reason = choose(CANDIDATES, 0.98, 5)
    assert best is None
    assert "the cheapest, a, costs 10" in reason


def test_whether_switching_is_worth_it_is_said():
    assert verdict(CANDIDATES) == ""
    above = [*CANDIDATES, candidate("s", "switching", 500, 99.5), candidate("random s", "random switching", 400, 98.0)]
    assert verdict(above).startswith("Switching is worth it: s keeps 1.5% more")
    chance = [*CANDIDATES, candidate("s", "switching", 500, 99.5), candidate("random s", "random switching", 400, 99.5)]
    assert verdict(chance).startswith("Switching is not worth it here")
    below = [*CANDIDATES, candidate("s", "switching", 1500, 99.0)]
    assert verdict(below).startswith("Switching is not worth it here")
    lucky = [*above, candidate("l", "switching", 500, 99.9, selection=98.0)]
    assert verdict(lucky) == verdict(above)


def test_negative_returns_keep_their_share_of_the_size():
    assert kept_share(-102.0, -100.0) == pytest.approx(0.98)
    assert kept_share(-90.0, -100.0) == pytest.approx(1.1)


def test_the_front_is_what_nothing_beats():
    points = [(1, 5.0), (2, 4.0), (2, 6.0), (3, 6.0), (4, 9.0)]
    assert front(points) == [True, False, True, False, True]


def test_flops_count_multiply_adds_as_two():
    assert network_flops([17, 64, 64, 6]) == 11_136


# --- wrong input ---


@pytest.mark.parametrize(
    ("kwargs", "message"),
    [
        (dict(keep=0.0), "keep is a share"),
        (dict(budget=-1), "budget is a number of FLOPs"),
        (dict(n_eval_episodes=1), "n_eval_episodes must be at least 2"),
        (dict(sizes=[[8], [4], [8]]), r"Name each size of a student once, got \[\[8\], \[4\], \[8\]\]"),
        (dict(loss="huber"), "loss must be one of robust, mse, critic, both"),
        (dict(sizes=[[64, 64]]), r"A student of \[64, 64\] units costs 8,448 FLOPs, more than the teacher's 2,176"),
        (dict(sizes=[[0]]), "layers of at least one unit"),
        (dict(sizes=[]), "There is no student"),
        (dict(env="Pendulum-v1"), "Observation spaces do not match"),
        (dict(env="NoSuchEnv-v0"), "doesn't exist"),
    ],
)
def test_wrong_input_is_one_sentence_and_writes_nothing(teacher, tmp_path, kwargs, message):
    arguments = {**dict(env=Steer, output=tmp_path / "out", settings=TINY), **kwargs}
    with pytest.raises((ValueError, gym.error.Error), match=message):
        distill(teacher, **arguments)
    assert not list(tmp_path.iterdir())


def test_settings_that_teach_nothing():
    with pytest.raises(ValueError, match="n_envs must be at least 1, got 0"):
        DistillationSettings(n_envs=0)
    with pytest.raises(ValueError, match="Each of 10 rounds needs an update, got n_updates=5"):
        DistillationSettings(schedule=Schedule(n_updates=5))


def test_a_teacher_without_a_critic_cannot_teach_by_it():
    model = plain(PPO, Steer(), n_steps=8, batch_size=8)
    with pytest.raises(ValueError, match="A PPO teacher has no critic of actions: choose the loss 'mse'"):
        distill(model, Steer, loss="critic", settings=TINY)


def test_a_teacher_whose_statistics_are_missing_is_refused():
    """With them it steers; without them it pushes to one side."""
    env = VecNormalize(DummyVecEnv([Steer]))
    env.obs_rms.mean, env.obs_rms.var = np.array([50.0]), np.array([1e-4])
    model = SAC("MlpPolicy", Steer(), policy_kwargs=dict(net_arch=[4]), seed=0, buffer_size=10, device="cpu")
    with th.no_grad():
        for parameter in model.policy.actor.parameters():
            parameter.zero_()
        model.policy.actor.mu.bias.fill_(9.0)
    with pytest.raises(ValueError, match=r"no more than random actions .* statistics are missing"):
        distill(model, Steer, settings=TINY, sizes=[[]])


def test_the_command_line_says_the_next_step(tmp_path):
    kwargs = dict(policy_kwargs=dict(net_arch=[16, 16]), seed=0, buffer_size=10, device="cpu")
    model = SAC("MlpPolicy", "Pendulum-v1", **kwargs)
    model.save(tmp_path / "teacher")
    done = run("distill", tmp_path / "teacher", "--env", "CartPole-v1", "-o", tmp_path / "out")
    assert done.returncode == 2
    assert "Observation spaces do not match" in done.stderr
    done = run("distill", tmp_path / "teacher", "--env", "Pendulum-v1", "--sizes", "8,x", "-o", tmp_path / "out")
    assert (done.returncode, done.stderr) == (2, "sb3-asym: --sizes takes hidden layers such as 32,32 or linear, got '8,x'.\n")
    assert not (tmp_path / "out").exists()
    assert run("distill", "--help").returncode == 0
