"""One master for every λ of a range."""

import numpy as np
import pytest
import torch as th
from envs import DriftEnv, EndlessEnv, GoalChainEnv
from option_cases import FAST, WORTH, Worth, fix_actions, greedy_option, set_choice
from stable_baselines3 import HerReplayBuffer
from stable_baselines3.common.vec_env import DummyVecEnv, VecNormalize

from sb3_asym import AsymSAC
from sb3_asym.deployment import deployable
from sb3_asym.evaluation import evaluate, n_evaluations
from sb3_asym.evaluation.plotting import switching


def test_one_agent_for_every_cost_coef(make_agent):
    agent = make_agent(Worth(), cost_coef=(1.0, 50.0), **FAST)
    fix_actions(agent, [-0.9, 0.9])
    agent.learn(1500)
    for cost_coef, option in ((1.0, 1), (0.7 * WORTH, 1), (1.4 * WORTH, 0), (50.0, 0)):
        agent.set_cost_coef(cost_coef)
        assert greedy_option(agent, [0.0]) == option
        assert evaluate(agent, Worth(), 1, compare=False).option_use["large"] == option


def test_the_deployed_master_is_a_plain_network(make_agent):
    agent = make_agent(cost_coef=(0.1, 10.0)).learn(100)
    obs = th.rand(64, *agent.observation_space.shape)
    for cost_coef in (0.1, 0.7, 10.0):
        agent.set_cost_coef(cost_coef)
        plain = agent.policy.deployed_master()
        values = agent.policy.master.q_net(obs)
        th.testing.assert_close(plain(obs), values)
        th.testing.assert_close(deployable(agent).master.forward(obs), values)
    assert plain.q_net[0].in_features == obs.shape[1]
    before = th.get_rng_state()
    agent.policy.deployed_master()
    assert th.equal(th.get_rng_state(), before)  # a look at an agent does not change a seeded run
    assert agent.policy.master_cost.flops == 2 * sum(layer.weight.numel() for layer in plain.q_net if hasattr(layer, "weight"))


def test_the_cost_coef_is_saved(make_agent, tmp_path):
    agent = make_agent(cost_coef=(0.1, 10.0)).learn(100)
    agent.set_cost_coef(0.3)
    agent.save(tmp_path / "agent")
    loaded = AsymSAC.load(tmp_path / "agent", env=DriftEnv())
    assert loaded.master.cost_coef == pytest.approx(0.3)
    obs = th.rand(64, *agent.observation_space.shape)
    th.testing.assert_close(loaded.policy.master.q_net(obs), agent.policy.master.q_net(obs))
    loaded.learn(50, reset_num_timesteps=False)
    assert loaded.master.cost_coef == pytest.approx(0.3)  # training draws others, and deploys this one
    policy = type(agent.policy).load(_saved_policy(agent, tmp_path))
    th.testing.assert_close(policy.master.q_net(obs), agent.policy.master.q_net(obs))


def _saved_policy(agent, folder):
    agent.policy.save(folder / "policy")
    return folder / "policy"


def test_each_episode_has_a_cost_coef_of_its_own(make_agent):
    """In each env apart; an episode without an end is taken to end after 1,000 steps."""
    agent = make_agent(DummyVecEnv([DriftEnv, EndlessEnv]), cost_coef="dial")
    acting, dones = [], []

    def look(known, _):
        acting.append(agent.master.acting.cost_coefs.copy())
        dones.append(known["dones"].copy())
        return True

    agent.learn(2 * 1010, callback=look)
    changed = np.diff(acting, axis=0) != 0
    np.testing.assert_array_equal(changed[:, 0], np.array(dones)[:-1, 0])
    assert np.flatnonzero(changed[:, 1]).tolist() == [999]
    set_choice(agent, [-0.1, 0.1])
    agent.master.acting.cost_coefs = np.array([0.001, 10.0])
    obs = th.zeros(2, *agent.observation_space.shape)
    with th.no_grad():
        assert agent.master.greedy_options(obs, np.array([0, 1])).tolist() == [1, 0]
        assert agent.master.greedy_options(obs, np.array([1, 0])).tolist() == [0, 1]
        assert agent.master.greedy_options(obs[:1], np.array([1])).tolist() == [0]


def test_the_middle_of_the_dial_until_it_is_set(make_agent):
    agent = make_agent(cost_coef="dial")
    seen = []
    agent.learn(50, callback=lambda *_: seen.append(agent.master.cost_coef) is None)
    assert [*seen, agent.master.cost_coef] == pytest.approx([0.1] * 51)


def test_each_transition_has_a_cost_coef_of_its_own(make_agent):
    agent = make_agent(cost_coef=(0.1, 10.0), batch_size=500).learn(40)
    batch = agent._sample(500)
    assert batch.cost_coefs.min() >= 0.1 * 0.999
    assert batch.cost_coefs.max() <= 10.0 * 1.001
    logs = batch.cost_coefs.log10()
    assert logs.mean() == pytest.approx(0.0, abs=0.15)
    assert logs.std() == pytest.approx(1 / np.sqrt(3), abs=0.06)  # all of the range evenly
    assert len(logs.unique()) > 490
    th.testing.assert_close(batch.positions, logs, atol=1e-5, rtol=0)
    assert th.equal(batch.actions[:, -1:], batch.positions)


def test_a_number_may_follow_a_dial(make_agent):
    agent = make_agent(cost_coef=(0.1, 10.0)).learn(60)
    agent.cost_coef = 2.0
    agent.learn(60, reset_num_timesteps=False)
    assert agent.master.cost_coef == pytest.approx(2.0)
    assert agent._sample(8).cost_coefs.unique() == pytest.approx([2.0])


@pytest.mark.parametrize(
    "cost_coef",
    ["dail", "auto", "auto_", "auto_0", "auto_1.5", "auto_x", (1.0, 1.0), (0.0, 1.0), (2.0, 1.0), (0.1,), [1, 2, 3]],
)
def test_what_is_no_cost_coef(make_agent, cost_coef):
    with pytest.raises(ValueError, match=r"cost_coef \(λ\) must be|A dial needs a range"):
        make_agent(cost_coef=cost_coef)


def test_what_needs_a_dial(make_agent):
    with pytest.raises(ValueError, match="make it with cost_coef='dial'"):
        make_agent().set_cost_coef(0.3)
    with pytest.raises(ValueError, match="make it with cost_coef='dial'"):
        make_agent().set_budget(0.3)
    with pytest.raises(ValueError, match="needs critic='option'"):
        make_agent(critic="shared", cost_coef="dial")
    agent = make_agent(cost_coef=(0.1, 10.0))
    with pytest.raises(ValueError, match=r"in the dial's range, 0.1 to 10, got 20"):
        agent.set_cost_coef(20.0)
    with pytest.raises(ValueError, match="must be a number"):
        agent.set_cost_coef("0.3")
    with pytest.raises(ValueError, match=r"leave n_steps at 1\.$"):
        make_agent(cost_coef="dial", n_steps=3)
    plain = make_agent(critic="option")
    plain.cost_coef = "dial"
    with pytest.raises(ValueError, match=r"must be given where the agent is made: its networks are for one λ\."):
        plain.learn(30)


@pytest.fixture
def dialled(make_agent):
    """An agent whose small sub-policy is chosen where λ is high."""
    agent = make_agent(cost_coef=(0.01, 10.0))
    last = agent.policy.master.q_net.q_net[-1]
    with th.no_grad():
        last.bias.copy_(th.tensor([0.0, 1.0]) + last.bias)
    return agent


def test_the_curve_of_a_dial(dialled, tmp_path):
    before = dialled.master.cost_coef
    report = evaluate(dialled, DriftEnv(time_limit=30), 5, cost_coef=[0.01, 1.0, 10.0])
    under = [other for other in report.comparisons if other.cost_coef is not None]
    assert [other.name for other in under] == ["λ = 0.01", "λ = 1", "λ = 10"]
    use = [other.option_use["large"] for other in under]
    assert use[0] > use[-1]
    assert sorted(use, reverse=True) == use
    assert len(report.comparisons) + 1 == n_evaluations(dialled, True, [0.01, 1.0, 10.0]) == 10
    random = next(other for other in report.comparisons if other.name == "random switching, as λ = 10")
    assert random.option_use["large"] == pytest.approx(use[-1], abs=0.15)
    assert dialled.master.cost_coef == before
    assert [point[1] for point in dialled.cost_curve] == pytest.approx([1 - other.flops_reduction for other in under])
    dialled.save(tmp_path / "agent")
    loaded = AsymSAC.load(tmp_path / "agent")
    np.testing.assert_allclose(loaded.cost_curve, dialled.cost_curve)
    least = dialled.cost_curve[-1][1]
    evaluate(loaded, DriftEnv(), 1, compare=False, cost_coef=0.5)  # adds to it
    assert [point[0] for point in loaded.cost_curve] == [0.01, 0.5, 1.0, 10.0]
    loaded.set_budget(least)
    assert loaded.master.cost_coef == pytest.approx(next(point[0] for point in dialled.cost_curve if point[1] <= least))
    switching(report, tmp_path / "switching.png")
    assert (tmp_path / "switching.png").stat().st_size > 10_000


def test_a_curve_is_that_of_the_present_weights(dialled):
    evaluate(dialled, DriftEnv(), 1, compare=False, cost_coef=0.1)
    assert [point[0] for point in dialled.cost_curve] == [0.1]
    dialled.learn(40)
    with pytest.raises(ValueError, match="not measured under several λ yet"):
        dialled.set_budget(0.4)


def test_nine_over_the_range(dialled):
    dialled.set_cost_coef(0.01)  # which float32 rounds to below the range
    report = evaluate(dialled, DriftEnv(time_limit=30), 5, compare=False, cost_coef="dial")
    cost_coefs, shares, rewards = np.array(dialled.cost_curve).T
    assert len(cost_coefs) == len(report.comparisons) == 9
    assert (cost_coefs[0], cost_coefs[-1]) == (0.01, 10.0)
    assert (np.diff(cost_coefs) > 0).all()
    assert [other.mean_reward for other in report.comparisons] == rewards.tolist()
    # No step of the curve is left that could be halved between λ that are far from each other.
    closest = np.diff(np.log(cost_coefs)).min()
    steps = np.abs(np.diff(shares))
    assert np.diff(np.log(cost_coefs))[steps.argmax()] == pytest.approx(closest)


def test_what_a_curve_needs(make_agent, dialled):
    with pytest.raises(ValueError, match="not measured under several λ yet"):
        dialled.set_budget(0.4)
    with pytest.raises(ValueError, match="cannot be measured under others"):
        evaluate(make_agent(), DriftEnv(), 1, cost_coef=[0.1])
    with pytest.raises(ValueError, match="in the dial's range"):
        evaluate(dialled, DriftEnv(), 1, cost_coef=[0.1, 20.0])
    with pytest.raises(ValueError, match="must be numbers or 'dial'"):
        evaluate(dialled, DriftEnv(), 1, cost_coef="all")


FIVE = dict(tiny=[2], small=[4], medium=[8], large=[16], huge=[32])


@pytest.mark.parametrize(
    ("env", "policy", "settings"),
    [
        (DriftEnv, "MlpPolicy", dict(policy_kwargs=dict(sub_net_archs=FIVE))),
        (lambda: VecNormalize(DummyVecEnv([DriftEnv] * 3)), "MlpPolicy", dict(use_sde=True)),
        (GoalChainEnv, "MultiInputPolicy", dict(replay_buffer_class=HerReplayBuffer)),
    ],
    ids=["five sub-policies", "three normalized envs, gSDE", "hindsight goals"],
)
def test_a_dial_with(make_agent, tmp_path, env, policy, settings):
    agent = make_agent(env(), policy, cost_coef=(0.01, 10.0), **settings)
    before = [weight.clone() for weight in agent.policy.master.q_net.parameters()]
    agent.learn(150)
    after = list(agent.policy.master.q_net.parameters())
    assert all((old != new).any() for old, new in zip(before, after, strict=True))
    assert agent.policy.advantage_network.scale != 1.0
    agent.save(tmp_path / "agent")
    loaded = AsymSAC.load(tmp_path / "agent", env=env())
    obs = agent.get_env().reset()
    for cost_coef in (0.01, 10.0):
        actions = []
        for model in (agent, loaded):
            model.set_cost_coef(cost_coef)
            actions.append(model.predict(obs, deterministic=True)[0])
        np.testing.assert_allclose(*actions)
