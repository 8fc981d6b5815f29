"""Learning from actors, with each engine and algorithm."""

from functools import partial
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import gymnasium as gym
import numpy as np
import pytest
from actorq_cases import ALGORITHMS, Trail, env_fn, make_model
from envs import GoalChainEnv
from stable_baselines3 import SAC, HerReplayBuffer
from stable_baselines3.common.callbacks import BaseCallback, CheckpointCallback, EvalCallback
from stable_baselines3.common.logger import configure
from stable_baselines3.common.monitor import Monitor
from stable_baselines3.common.vec_env import DummyVecEnv, VecNormalize

from sb3_asym import AsymSAC
from sb3_asym.actorq import ActorQ

RAY = pytest.param("ray", marks=pytest.mark.skipif(find_spec("ray") is None, reason="needs Ray"))
ENGINES = ["processes", RAY]


class Infos(BaseCallback):
    """Keeps what is known of each transition, and checks the ratio of updates to env steps."""

    def __init__(self) -> None:
        super().__init__()
        self.infos: list[dict[str, Any]] = []

    def _on_step(self) -> bool:
        self.infos.append(self.locals["infos"][0])
        frequency = self.model.train_freq.frequency
        ends_of_rollouts = range(frequency, self.num_timesteps, frequency)
        assert self.model._n_updates == sum(steps > self.model.learning_starts for steps in ends_of_rollouts)
        return True


@pytest.mark.parametrize("algorithm", ALGORITHMS)
@pytest.mark.parametrize("engine", ENGINES)
def test_learns(algorithm: str, engine: str) -> None:
    if engine == "ray" and algorithm not in ("SAC", "DQN", "AsymSAC"):
        pytest.skip("differs from these in the learner alone")
    model = make_model(algorithm)
    infos = Infos()
    actors = ActorQ(model, env_fn(algorithm), n_actors=2, pull_every=20, engine=engine)
    actors.learn(300, callback=infos)
    assert 300 <= model.num_timesteps == model.replay_buffer.size() == len(infos.infos) < 304
    found = [info["actorq"] for info in infos.infos]
    for actor in (0, 1):
        sequence = [info["sequence"] for info in found if info["actor"] == actor]
        assert sequence == list(range(len(sequence)))
        versions = [info["version"] for info in found if info["actor"] == actor]
        assert versions == sorted(versions)
        assert versions[:10] == [0] * 10
        assert versions[-1] > 1
    assert 20 <= sum(info["version"] == 0 for info in found) <= 54  # int8 needs 50, and each actor makes one more
    report = actors.report()
    assert report.n_steps == model.num_timesteps
    assert report.n_versions >= max(info["version"] for info in found)
    assert 0 < report.age_in_steps < 300
    assert "learner" in str(report)
    assert np.isfinite(actors.evaluate(model.env, 1)[0])
    model.learn(10, reset_num_timesteps=False)  # SB3's own loop goes on


def test_options_are_stored_whole() -> None:
    model: Any = make_model("AsymSAC", option_length=5)
    ActorQ(model, partial(gym.make, "Pendulum-v1"), n_actors=2, pull_every=20).learn(300)
    memory = model.option_memory
    options, lengths = memory.options[:300, 0], memory.lengths[:300, 0]
    starts = np.flatnonzero(lengths)
    assert len(starts) > 40
    assert (lengths[starts] == 5).all()
    for start in starts:
        assert len(set(options[start : start + 5])) == 1


@pytest.mark.parametrize("n_steps", [1, 3])
def test_rows_that_belong_together_are_of_one_actor(n_steps: int) -> None:
    model: Any = make_model("SAC", Monitor(Trail()), n_steps=n_steps, gradient_steps=0)
    ActorQ(model, Trail, n_actors=2, pull_every=20, precision="fp32").learn(400)
    buffer = model.replay_buffer
    episodes, steps = buffer.observations[:400, 0, 0], buffer.observations[:400, 0, 1]
    assert (buffer.next_observations[:400, 0, 0] == episodes).all()
    assert (buffer.next_observations[:400, 0, 1] == steps + 1).all()
    assert (buffer.rewards[:400, 0] == steps + 1).all()
    for episode in np.unique(episodes):
        assert (steps[episodes == episode] == np.arange(np.count_nonzero(episodes == episode))).all()
    ends = steps == 49
    assert ends.sum() >= 4
    assert (buffer.timeouts[:400, 0] == ends).all()
    assert (buffer.dones[:400, 0] == ends).all()
    changes = np.flatnonzero(np.diff(episodes)) + 1
    assert (len(changes) <= 400 / 50 + 2) == (n_steps > 1)


@pytest.mark.parametrize("algorithm", ["SAC", "AsymSAC"])
def test_hindsight_goals(algorithm: str) -> None:
    kwargs = dict(policy="MultiInputPolicy", replay_buffer_class=HerReplayBuffer, buffer_size=1000)
    model: Any = make_model(algorithm, GoalChainEnv(), **kwargs)
    env_fns = [partial(GoalChainEnv, goal=goal, length=length) for goal, length in ((5, 7), (6, 9))]
    ActorQ(model, env_fns, pull_every=20).learn(300)
    memory = model.replay_buffer
    goals = memory.observations["desired_goal"]
    goes_on = memory.dones[: model.num_timesteps - 1, 0] == 0
    for before, after in zip(np.flatnonzero(goes_on), np.flatnonzero(goes_on) + 1, strict=True):
        assert (goals[after] == goals[before]).all()
        for name, observation in memory.next_observations.items():
            np.testing.assert_array_equal(memory.observations[name][after], observation[before])
    assert set(goals[:300].flatten()) == {5, 6}
    assert model._n_updates > 200


def test_normalization_counts_as_without_actors() -> None:
    env = VecNormalize(DummyVecEnv([lambda: Monitor(gym.make("Pendulum-v1"))]), gamma=0.9)
    model = make_model("SAC", env)
    seen: list[tuple[int, np.ndarray, float, bool]] = []

    class Watch(BaseCallback):
        def _on_step(self) -> bool:
            info, env = self.locals["infos"][0], self.model.get_vec_normalize_env()
            after = env.get_original_obs()[0]
            seen.append((info["actorq"]["actor"], after, float(env.get_original_reward()[0]), bool(self.locals["dones"][0])))
            return True

    actors = ActorQ(model, partial(gym.make, "Pendulum-v1"), n_actors=2, pull_every=20)
    actors.learn(450, callback=Watch())
    assert env.obs_rms.count == pytest.approx(452, abs=0.01)  # each actor's first observation too
    observations = np.array([observation for _, observation, _, _ in seen])
    assert env.obs_rms.mean == pytest.approx(observations.mean(0), abs=0.05)
    returns, running = [], [0.0, 0.0]
    for actor, _, reward, done in seen:
        running[actor] = running[actor] * 0.9 + reward
        returns.append(running[actor])
        running[actor] *= not done
    assert env.ret_rms.mean == pytest.approx(np.mean(returns), rel=1e-3)
    normalization = actors.policy._loaded()._normalization
    assert normalization.mean == pytest.approx(env.obs_rms.mean, abs=0.1)
    stored = model.replay_buffer.next_observations[0, 0]
    assert stored == pytest.approx(seen[0][1])


def test_what_is_evaluated_is_quantized() -> None:
    model = make_model("SAC")
    actors = ActorQ(model, partial(gym.make, "Pendulum-v1"), pull_every=20, precision="int8")
    with pytest.raises(RuntimeError, match="No policy was published"):
        actors.evaluate(model.env)
    with pytest.raises(RuntimeError, match="call learn first"):
        actors.report()
    differences: list[float] = []

    class Compare(BaseCallback):
        def _on_step(self) -> bool:
            if self.num_timesteps == 150:
                observations = np.array([self.model.observation_space.sample() for _ in range(50)])
                ours, _ = self.model.predict(observations, deterministic=True)
                published = actors.policy._loaded()
                quantized = [published.exploit(observation, None)[0] * 2 for observation in observations]
                np.testing.assert_allclose(ours, np.array(quantized), atol=1e-6)
                differences.append(float(np.abs(ours - self.model.policy.predict(observations, deterministic=True)[0]).max()))
            return True

    evaluation = EvalCallback(Monitor(gym.make("Pendulum-v1")), n_eval_episodes=1, eval_freq=200, verbose=0)
    actors.learn(210, callback=[Compare(), evaluation])
    assert 1e-5 < differences[0] < 2  # it is up to 20 updates older, too
    assert np.isfinite(evaluation.last_mean_reward)


def test_goes_on_from_a_checkpoint(tmp_path: Path) -> None:
    model = make_model("SAC")
    model.set_logger(configure(str(tmp_path / "log"), ["csv"]))
    checkpoint = CheckpointCallback(200, str(tmp_path), save_replay_buffer=True, save_vecnormalize=True)
    ActorQ(model, partial(gym.make, "Pendulum-v1"), pull_every=20).learn(410, callback=checkpoint, log_interval=1)
    logged = (tmp_path / "log" / "progress.csv").read_text().splitlines()[0]
    for key in ("actorq/steps_per_second", "actorq/policy_age_steps", "actorq/actor_inference_share", "rollout/ep_rew_mean"):
        assert key in logged
    loaded = SAC.load(tmp_path / "rl_model_400_steps", env=gym.make("Pendulum-v1"))
    loaded.load_replay_buffer(tmp_path / "rl_model_replay_buffer_400_steps")
    assert loaded.num_timesteps == 400
    versions: list[int] = []

    class Versions(BaseCallback):
        def _on_step(self) -> bool:
            versions.append(self.locals["infos"][0]["actorq"]["version"])
            return True

    actors = ActorQ(loaded, partial(gym.make, "Pendulum-v1"), pull_every=20)
    actors.learn(100, callback=Versions(), reset_num_timesteps=False)
    assert loaded.num_timesteps == 500
    assert loaded._n_updates > model._n_updates
    assert min(versions) == 1  # no random actions again


def test_report(tmp_path: Path) -> None:
    actors = ActorQ(make_model("DQN"), env_fn("DQN"), pull_every=20, precision="fp16")
    actors.learn(200)
    report = actors.report()
    assert set(report.actors[0]) == {"inference", "env", "pull", "load", "push", "wait"}
    assert all(seconds >= 0 for seconds in report.actors[0].values())
    assert set(report.learner) == {"sample", "update", "pack", "publish", "wait", "rest"}
    assert sum(report.learner.values()) == pytest.approx(report.seconds, rel=0.01)
    assert report.to_dict()["steps_per_second"] > 0
    report.draw(tmp_path / "report.png")
    assert (tmp_path / "report.png").stat().st_size > 0


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (dict(precision="int4"), "precision must be one of"),
        (dict(pull_every=0), "pull_every must be at least 1"),
        (dict(ring_size=1), "ring_size must be at least 2"),
        (dict(engine="threads"), "engine must be one of"),
        (dict(n_actors=0), "at least one actor"),
        (dict(env_fns=[Trail, Trail], n_actors=3), "one for each of the 3 actors"),
        (dict(env_fns=[]), "at least one actor"),
    ],
)
def test_wrong_arguments(arguments: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        ActorQ(make_model("SAC"), arguments.pop("env_fns", Trail), **arguments)


def test_models_that_cannot_learn_so() -> None:
    with pytest.raises(TypeError, match="functions that make an env"):
        ActorQ(make_model("SAC"), [gym.make("Pendulum-v1")])  # type: ignore[list-item]
    with pytest.raises(ValueError, match="gSDE"):
        ActorQ(make_model("SAC", use_sde=True), Trail)
    with pytest.raises(ValueError, match=r"No budget \('auto_0.4'\) is kept where"):
        ActorQ(make_model("AsymSAC", cost_coef="auto_0.4"), Trail)
    spending = make_model("AsymSAC", cost_coef="dial")
    made_before = ActorQ(spending, Trail)
    spending.cost_curve = [(0.1, 0.3, 0.0)]
    spending.set_budget(0.4)
    for start in (partial(ActorQ, spending, Trail), partial(made_before.learn, 10)):
        with pytest.raises(ValueError, match=r"set λ instead"):
            start()
    two = DummyVecEnv([partial(gym.make, "Pendulum-v1")] * 2)
    with pytest.raises(ValueError, match="a single env"):
        ActorQ(make_model("SAC", two), Trail)
    model = make_model("SAC")
    model.env = None
    with pytest.raises(ValueError, match="needs an env"):
        ActorQ(model, Trail)


@pytest.mark.parametrize("engine", ENGINES)
def test_an_actor_with_another_env_is_refused(engine: str) -> None:
    model = make_model("SAC")
    with pytest.raises(ValueError, match="Actor 0 failed: Observation spaces do not match"):
        ActorQ(model, env_fn("DQN"), engine=engine).learn(100)
    assert type(model) is SAC
    assert not isinstance(model, AsymSAC)
    model.learn(30)
