"""The learner: its ratio, its frozen actor, its checkpoint."""

import copy

import numpy as np
import pytest
import torch as th
from cloud_cases import CountingRobot, make_model
from stable_baselines3 import DDPG, PPO, SAC, TD3
from stable_baselines3.common.vec_env import DummyVecEnv, VecNormalize

from sb3_asym import AsymSAC
from sb3_asym.cloud_edge import CloudLearner, drain
from sb3_asym.cloud_edge.layout import Layout
from sb3_asym.cloud_edge.link import LinkError
from sb3_asym.cloud_edge.outbox import Outbox
from sb3_asym.cloud_edge.policy_frames import decode_policy
from sb3_asym.cloud_edge.transitions import Transitions

LAYOUT = Layout.of(CountingRobot.observation_space, CountingRobot.action_space)


@pytest.fixture
def env(tmp_path):
    return CountingRobot(tmp_path / "count")


def walk(first, n):
    """Transitions of a counting robot in episodes of 20, all of whose numbers are small."""
    number = np.arange(first, first + n)
    before = np.stack([number % 20 / 20, number % 7 / 7], axis=1)
    after = np.stack([(number % 20 + 1) / 20, (number + 1) % 7 / 7], axis=1)
    truncated = number % 20 == 19
    breaks = truncated.copy()
    breaks[-1] = True
    return Transitions(
        first=first,
        observations={"observation": before},
        last_observations={"observation": after[breaks]},
        actions=np.sin(number)[:, None].astype(np.float32),
        rewards=np.cos(number).astype(np.float32),
        terminated=np.zeros(n, dtype=bool),
        truncated=truncated,
        options=(number // 2 % 2).astype(np.int8),
        started=number % 2 == 0,
        ended=number % 2 == 1,
        policy_versions=np.zeros(n, dtype=np.int64),
    )


def fill_outbox(tmp_path, n, robot="robot", batch=50):
    """What a robot left: ``n`` further transitions."""
    outbox = Outbox(tmp_path / "robots" / robot / "outbox.sqlite", robot, LAYOUT)
    for _ in range(0, n, batch):
        outbox.append(walk(outbox.next_transition, batch))
    outbox.close()


@pytest.mark.parametrize("ratio", [0.5, 2.0])
def test_ratio_of_updates_to_env_steps_is_held(tmp_path, env, ratio):
    make_model(tmp_path / "sim.zip", env)
    fill_outbox(tmp_path, 100, "first")
    fill_outbox(tmp_path, 100, "second")
    learner = CloudLearner.load(tmp_path / "sim.zip", str(tmp_path), ratio=ratio, prefill=50).learn(200)
    assert learner.model.num_timesteps == 200
    assert learner.model._n_updates == ratio * 150
    assert learner.trainer.memory.robots == {"first": 0, "second": 1}
    assert learner.trainer.memory.size() == 200


@pytest.mark.parametrize(
    ("algorithm", "settings"), [(SAC, {}), (TD3, {}), (DDPG, {}), (AsymSAC, {}), (AsymSAC, {"cost_coef": "dial"})]
)
def test_only_critics_learn_while_the_actor_is_frozen(tmp_path, env, algorithm, settings):
    make_model(tmp_path / "sim.zip", env, algorithm, **settings)
    fill_outbox(tmp_path, 100)
    arguments = dict(prefill=50, freeze_actor=50, push_period=100)
    learner = CloudLearner.load(tmp_path / "sim.zip", str(tmp_path), **arguments)
    before = copy.deepcopy(learner.model.get_parameters())
    acting = learner.trainer.policy(1, 0.0)
    learner.learn(100)
    after = learner.model.get_parameters()
    assert learner.model._n_updates == 50
    changed = {key for key in before["policy"] if not th.equal(before["policy"][key], after["policy"][key])}
    assert any(key.startswith(("critic.", "critics.")) for key in changed)
    assert not any(key.startswith(("actor.", "actors.", "master.q_net.")) for key in changed)
    assert_same_networks(acting, learner.trainer.policy(1, 0.0))
    fill_outbox(tmp_path, 50)
    learner.learn(150)
    with pytest.raises(AssertionError):
        assert_same_networks(acting, learner.trainer.policy(1, 0.0))


def assert_same_networks(first, second):
    for one, other in zip(first.agent.networks, second.agent.networks, strict=True):
        for layer, same in zip(one.layers, other.layers, strict=True):
            np.testing.assert_array_equal(layer.weight, same.weight)


def test_a_learner_goes_on_from_its_checkpoint(tmp_path, env):
    make_model(tmp_path / "sim.zip", env)
    fill_outbox(tmp_path, 200)
    learner = CloudLearner.load(tmp_path / "sim.zip", str(tmp_path), prefill=50).learn(200)
    learner.close()
    version, weights = learner.journal.version, learner.model.get_parameters()
    again = CloudLearner.load(tmp_path / "sim.zip", str(tmp_path), prefill=50)
    assert again.model.num_timesteps == 200
    assert again.trainer.steps_due == 0
    for key, value in again.model.get_parameters()["policy"].items():
        assert th.equal(value, weights["policy"][key])
    fresh, stored = (x.trainer.memory._lanes.memories[0].replay_buffer for x in (again, learner))
    for name in ("observations", "next_observations", "actions", "rewards", "dones", "timeouts"):
        np.testing.assert_array_equal(getattr(fresh, name)[:200], getattr(stored, name)[:200])
    fill_outbox(tmp_path, 100)
    again.learn(300)
    assert again.model._n_updates == 250
    assert decode_policy((tmp_path / "policy").read_bytes(), LAYOUT).version > version


def test_what_was_not_trained_for_is_made_up_for_after_a_crash(tmp_path, env):
    make_model(tmp_path / "sim.zip", env)
    fill_outbox(tmp_path, 100)
    learner = CloudLearner.load(tmp_path / "sim.zip", str(tmp_path), prefill=50).learn(100)
    fill_outbox(tmp_path, 50)
    batches = learner.reader.read()
    learner.journal.store(batches, learner.reader.cursors)  # and no checkpoint of the agent
    learner.close()
    again = CloudLearner.load(tmp_path / "sim.zip", str(tmp_path), prefill=50)
    assert (again.model.num_timesteps, again.trainer.steps_due) == (150, 50)
    assert again.learn(150).model._n_updates == 100


def test_normalization_acts_at_the_edge_and_stays_as_it_was(tmp_path, env):
    normalized = VecNormalize(DummyVecEnv([lambda: env]))
    normalized.obs_rms.mean[:], normalized.ret_rms.var = 3.0, np.float64(16.0)
    normalized.save(str(tmp_path / "vec.pkl"))
    make_model(tmp_path / "sim.zip", normalized)
    fill_outbox(tmp_path, 100)
    learner = CloudLearner.load(tmp_path / "sim.zip", str(tmp_path), vec_normalize=tmp_path / "vec.pkl", prefill=50).learn(100)
    statistics = learner.model.get_vec_normalize_env()
    np.testing.assert_array_equal(statistics.obs_rms.mean, 3.0)
    policy = decode_policy((tmp_path / "policy").read_bytes(), LAYOUT)
    np.testing.assert_allclose(policy.agent.normalization.mean, 3.0)
    rewards = learner.trainer.memory.sample(500, statistics).rewards
    assert float(rewards.abs().max()) == pytest.approx(0.25, rel=0.05)


def test_callbacks_and_logs(tmp_path, env):
    make_model(tmp_path / "sim.zip", env)
    fill_outbox(tmp_path, 200)
    learner = CloudLearner.load(tmp_path / "sim.zip", str(tmp_path), prefill=50)
    records = []
    learner.learn(200, callback=lambda local, _: records.append(local["rewards"][0]) is None, log_interval=2)
    assert len(records) == 200
    assert learner.model.ep_info_buffer[0]["l"] == 20
    stopped = CloudLearner.load(tmp_path / "sim.zip", str(tmp_path), folder=tmp_path / "second", join=True)
    stopped.learn(10_000, callback=lambda *_: False)
    assert stopped.model.num_timesteps == 200


def test_weights_that_are_not_finite_are_neither_published_nor_stored(tmp_path, env):
    make_model(tmp_path / "sim.zip", env)
    fill_outbox(tmp_path, 100)
    learner = CloudLearner.load(tmp_path / "sim.zip", str(tmp_path), prefill=50).learn(100)
    published = (tmp_path / "policy").read_bytes()
    with th.no_grad():
        next(learner.model.actor.parameters())[:] = float("nan")
    with pytest.raises(FloatingPointError, match="nothing was published"):
        learner.learn(100)
    assert (tmp_path / "policy").read_bytes() == published
    learner.close()
    again = CloudLearner.load(tmp_path / "sim.zip", str(tmp_path))
    assert all(th.isfinite(values).all() for values in again.model.policy.state_dict().values())


def test_what_could_not_be_confirmed_is_learned_and_confirmed_later(tmp_path, env, monkeypatch):
    make_model(tmp_path / "sim.zip", env)
    fill_outbox(tmp_path, 200)
    learner = CloudLearner.load(tmp_path / "sim.zip", str(tmp_path), prefill=50)

    def refuse(_):
        raise LinkError("There is no room.")

    with monkeypatch.context() as patch:
        patch.setattr(learner.link, "confirm", refuse)
        learner.learn(200)
    assert (learner.model.num_timesteps, learner.trainer.trained_steps) == (200, 150)
    learner.close()
    assert drain(str(tmp_path), seconds=0.1) == 4
    again = CloudLearner.load(tmp_path / "sim.zip", str(tmp_path))
    again._receive(None, 0)  # nothing new comes
    again.close()
    assert drain(str(tmp_path), seconds=10.0) == 0


def test_a_checkpoint_is_not_overwritten(tmp_path, env):
    model = make_model(tmp_path / "sim.zip", env)
    fill_outbox(tmp_path, 100)
    CloudLearner(model, str(tmp_path), prefill=50).learn(100).close()
    with pytest.raises(ValueError, match=r"has the checkpoint of an agent: CloudLearner\.load goes on with it"):
        CloudLearner(make_model(tmp_path / "other.zip", env), str(tmp_path))
    CloudLearner.load(tmp_path / "sim.zip", str(tmp_path)).close()


def test_clear_messages(tmp_path, env):
    make_model(tmp_path / "sim.zip", env)
    PPO("MlpPolicy", env, n_steps=8, batch_size=8).save(tmp_path / "ppo.zip")
    with pytest.raises(ValueError, match="PPO does not learn from robots"):
        CloudLearner.load(tmp_path / "ppo.zip", str(tmp_path))
    with pytest.raises(ValueError, match="ratio must be above 0"):
        CloudLearner.load(tmp_path / "sim.zip", str(tmp_path), ratio=0)
    CloudLearner.load(tmp_path / "sim.zip", str(tmp_path)).close()
    make_model(tmp_path / "spending.zip", env, AsymSAC, cost_coef="auto_0.4")
    with pytest.raises(ValueError, match=r"No budget \('auto_0.4'\) is kept where"):
        CloudLearner.load(tmp_path / "spending.zip", str(tmp_path), folder=tmp_path / "spending")
    make_model(tmp_path / "dial.zip", env, AsymSAC, cost_coef="dial")
    learner = CloudLearner.load(tmp_path / "dial.zip", str(tmp_path), folder=tmp_path / "dial")
    learner.model.cost_curve = [(0.1, 0.3, 0.0)]
    learner.model.set_budget(0.4)
    with pytest.raises(ValueError, match="set λ instead"):
        learner.learn(10)
    make_model(tmp_path / "td3.zip", env, TD3)
    with pytest.raises(ValueError, match="is of another agent"):
        CloudLearner.load(tmp_path / "td3.zip", str(tmp_path))
    with pytest.raises(FileNotFoundError, match=r"no file .*none\.zip"):
        CloudLearner.load(tmp_path / "none.zip", str(tmp_path))
