"""λ steered for a budget."""

import numpy as np
import pytest
import torch as th
from envs import DriftEnv, EndlessEnv
from option_cases import EXPLORING, FAST, WORTH, Worth, fix_actions, set_choice
from stable_baselines3.common.callbacks import EvalCallback
from stable_baselines3.common.evaluation import evaluate_policy
from stable_baselines3.common.noise import NormalActionNoise
from stable_baselines3.common.vec_env import DummyVecEnv, VecNormalize

from sb3_asym import AsymSAC
from sb3_asym.budget import Budget
from sb3_asym.cost_coef import Dial, cost_coef_for
from sb3_asym.evaluation import evaluate

WIDE = dict(policy_kwargs=dict(sub_net_archs=dict(small=[4], large=[64]), master_net_arch=[8]))
"""Sub-policies of which the small one and the master keep to a budget."""


@pytest.mark.parametrize("share", [0.7, 0.9])
def test_a_budget_is_spent(make_agent, share):
    """
    All observations are the same, so that use jumps with λ, at the one where both sub-policies are worth the same; a budget in
    between is spent all the same, as λ is steered around that.
    """
    agent = make_agent(Worth(), **{**FAST, "cost_coef": f"auto_{share}"})
    fix_actions(agent, [-0.9, 0.9])
    agent.learn(2000)
    report = evaluate(agent, Worth(), 40, compare=False)
    assert 1 - report.flops_reduction == pytest.approx(share, abs=0.05)
    assert agent.master.cost_coef == pytest.approx(WORTH, rel=0.5)


@pytest.mark.parametrize("noise", [None, NormalActionNoise(np.zeros(1), np.full(1, 0.1))])
def test_a_budget_is_learned_as_deployed(make_agent, noise):
    """Three quarters of the episodes explore; in the rest, the option is the best one and the action is the mean."""
    env = DummyVecEnv([DriftEnv] * 8)
    agent = make_agent(env, cost_coef="auto_0.6", master_kwargs=EXPLORING, action_noise=noise)
    shares, explored = [], []
    before = []  # λ by which the last options were chosen

    def look(known, _):
        state, as_deployed = agent._option_state, agent.master.as_deployed
        shares.append(as_deployed.mean())
        if state is not None:
            obs = th.as_tensor(agent._last_obs)
            with th.no_grad():
                is_mean = np.isclose(agent.policy.actions(obs, state.option, True), known["buffer_actions"]).all(axis=1)
            assert is_mean[as_deployed].all()
            started = as_deployed & (state.steps_left == agent.option_length - 1)
            best = agent.policy.advantage_network.choices(obs, before[-1])
            assert (state.option == best)[started].all()
            explored.append(is_mean[~as_deployed])
        return True

    choose = agent.master.choose

    def remember(obs, envs):
        before.append(agent.master.acting.cost_coefs.copy())
        return choose(obs, envs)

    agent.master.choose = remember

    agent.learn(2000, callback=look)
    assert np.mean(shares) == pytest.approx(0.25, abs=0.08)
    assert np.concatenate(explored).mean() < 0.1


def test_a_budget_that_no_sub_policy_keeps(make_agent):
    agent = make_agent(cost_coef="auto_0.4", **WIDE)
    least = agent.policy.cost_shares.min()
    agent.cost_coef = f"auto_{1.01 * least}"
    agent.learn(10)
    with pytest.warns(UserWarning, match=r"A budget of .* cannot be kept: the cheapest sub-policy costs"):
        make_agent(cost_coef=f"auto_{0.99 * least}", **WIDE)


def test_a_budget_counts_the_master(make_agent):
    agent = make_agent(cost_coef="auto_0.4", **WIDE)
    largest = agent.policy.option_costs[-1].flops
    for option, share in enumerate(agent.policy.cost_shares):
        steps = np.zeros(2)
        steps[option] = 100 * agent.option_length
        assert agent.policy.mean_flops(steps, 100) / largest == pytest.approx(share)


def test_a_learned_cost_coef_goes_on_where_it_was(make_agent, tmp_path):
    agent = make_agent(cost_coef="auto_0.3", **WIDE).learn(800)
    before = agent.master.cost_coef
    assert before != pytest.approx(agent.dial.middle)
    agent.save(tmp_path / "agent")
    loaded = AsymSAC.load(tmp_path / "agent", env=DriftEnv())
    assert (loaded.master.cost_coef, loaded.policy.budget) == (before, pytest.approx(0.3))
    begun = []

    def look(*_):
        begun.append(loaded.master.acting.start)
        return len(begun) < 800

    loaded.learn(800, reset_num_timesteps=False, callback=look)
    assert begun[0] == pytest.approx(before)
    assert begun[-1] == pytest.approx(loaded.master.cost_coef)
    assert begun[-1] != pytest.approx(before)


@pytest.fixture
def undecided(make_agent):
    """An agent that takes to the large sub-policy just where λ < 1, in all states, and spends 40 %."""
    agent = make_agent(cost_coef=(0.01, 100.0), **WIDE)
    network = agent.policy.advantage_network
    set_choice(agent, network.prices / network.scale)
    agent.cost_curve = [(0.5, 1.1, 0.0), (2.0, 0.1, 0.0)]
    agent.set_budget(0.4)
    return agent


def test_a_budget_is_kept_at_run_time(undecided):
    assert (undecided.master.cost_coef, undecided.policy.budget) == (2.0, pytest.approx(0.4))
    obs = np.zeros((2, *undecided.observation_space.shape), np.float32)
    state, options = None, []
    for _ in range(4000):
        _, state = undecided.predict(obs, state)
        options.append(state.option)
    shares = undecided.policy.cost_shares[np.array(options)].mean(axis=0)
    np.testing.assert_allclose(shares, 0.4, atol=0.01)
    # Each env has its own account, over the ends of episodes too; without a state, a new one begins.
    small = undecided.policy.cost_shares[0]
    less = np.exp(0.1 * (small - 0.4))
    known = state._replace(steps_left=np.array([2, 0]), cost_coefs=np.array([3.0, 4.0]))
    _, state = undecided.predict(obs, known, episode_start=np.array([True, False]))
    assert state.cost_coefs == pytest.approx([3.0 * less, 4.0 * less])
    assert known.cost_coefs.tolist() == [3.0, 4.0]
    _, state = undecided.predict(obs[0])
    assert state.cost_coefs == pytest.approx([2.0 * less])


@pytest.mark.parametrize("option_length", [1, 5, 50])
@pytest.mark.parametrize("dial", [Dial(0.001, 10.0), Dial(0.5, 1.0)])
def test_steering_suits_options_and_range(option_length, dial):
    """Use is 0 or 1 in an option; were steps too long, λ would be clipped at one end of its range, and the mean missed."""
    cost_coefs, shares = np.array([dial.low, dial.middle, dial.high]), []
    for step in range(1500 * option_length):
        if step % option_length == 0:
            used = (cost_coefs < 0.8 * dial.middle).astype(float)
        shares.append(used)
        cost_coefs = dial.steer(cost_coefs, used - 0.4, option_length)
    np.testing.assert_allclose(np.mean(shares[len(shares) // 4 :], axis=0), 0.4, atol=0.02)


def test_where_a_budget_begins():
    budget = Budget(Dial(0.001, 10.0), 2, share=0.5, costs=np.array([0.1, 1.1]), option_length=5, start=1.0)
    budget.as_deployed[:] = True, False
    budget.spend(np.array([1, 0]))
    np.testing.assert_allclose(budget.cost_coefs, np.exp([0.06, -0.04]))
    budget.spend(np.array([-1, -1]))  # in the warm-up
    np.testing.assert_allclose(budget.cost_coefs, np.exp([0.06, -0.04]))
    budget.end_episodes(np.array([False, True]))
    assert (budget.start, budget.cost_coefs[1]) == (1.0, 1.0)  # what explores is not learned from
    budget.as_deployed[1] = True
    budget.cost_coefs[1] = 5.0
    budget.end_episodes(np.array([False, True]))
    assert budget.start == 1.0  # nor is an episode in which no sub-policy acted
    budget.as_deployed[1] = False
    budget.end_episodes(np.array([True, False]))
    assert budget.start == pytest.approx(np.exp(0.2 * 0.06))
    np.testing.assert_allclose(budget.cost_coefs[1], 1.0)


def test_episodes_as_deployed_go_on_where_the_last_one_ended():
    budget = Budget(Dial(0.001, 10.0), 64, share=0.5, costs=np.array([0.1, 1.1]), option_length=5, start=1.0)
    budget.as_deployed[:] = np.arange(64) == 0
    budget.spend(np.full(64, 1))
    budget.end_episodes(np.ones(64, bool))
    assert budget.start == pytest.approx(np.exp(0.2 * 0.06))
    assert 0 < budget.as_deployed.mean() < 1
    np.testing.assert_allclose(budget.cost_coefs, np.where(budget.as_deployed, np.exp(0.06), budget.start))


def test_a_budget_goes_on_with_the_next_call_of_learn(make_agent):
    agent = make_agent(EndlessEnv(), cost_coef="auto_0.3", **WIDE)
    budget = agent.master.acting
    budget.as_deployed[:] = True
    for _ in range(5):
        agent.learn(100, reset_num_timesteps=False)
    assert budget.start == pytest.approx(agent.dial.middle)
    assert budget.cost_coefs[0] != pytest.approx(budget.start)
    agent.learn(700, reset_num_timesteps=False)
    assert agent.master.acting is budget
    assert agent.master.cost_coef == pytest.approx(budget.start) != pytest.approx(agent.dial.middle)


def test_a_warm_up_spends_nothing(make_agent):
    """The second call of ``learn`` begins with random actions again, by no sub-policy."""
    agent = make_agent(cost_coef="auto_0.3", **WIDE).learn(600)
    budget = agent.master.acting
    before = budget.cost_coefs.copy()
    agent.learning_starts = 400
    agent.learn(3)  # within an episode
    np.testing.assert_array_equal(budget.cost_coefs, before)
    agent.learn(100)  # ends the episode that was cut short above
    start = budget.start
    agent.learn(400)
    assert agent.master.acting is budget
    assert budget.start == start != pytest.approx(agent.dial.middle)


def test_a_dial_may_follow_a_budget(make_agent, tmp_path):
    agent = make_agent(cost_coef="auto_0.3", **WIDE).learn(100)
    agent.save(tmp_path / "agent")
    assert AsymSAC.load(tmp_path / "agent", cost_coef="dial").policy.budget is None
    assert AsymSAC.load(tmp_path / "agent", cost_coef="auto_0.5").policy.budget == 0.5
    make_agent(cost_coef="dial", **WIDE).save(tmp_path / "dial")
    assert AsymSAC.load(tmp_path / "dial", cost_coef="auto_0.5").policy.budget == 0.5
    agent.cost_coef = "dial"
    agent.learn(100, reset_num_timesteps=False)
    assert agent.policy.budget is None
    agent.cost_curve = [(0.5, 0.2, 0.0)]
    agent.set_budget(0.3)
    agent.learn(100, reset_num_timesteps=False)  # which deploys what was set
    assert agent.policy.budget == pytest.approx(0.3)


def test_a_budget_is_saved_and_given_up(undecided, tmp_path):
    undecided.save(tmp_path / "agent")
    loaded = AsymSAC.load(tmp_path / "agent")
    assert (loaded.master.cost_coef, loaded.policy.budget) == (2.0, pytest.approx(0.4))
    before = loaded.policy.budget
    evaluate(loaded, DriftEnv(), 1, compare=False, cost_coef=[0.1, 1.0])
    assert (loaded.master.cost_coef, loaded.policy.budget) == (2.0, before)
    loaded.set_cost_coef(0.3)
    assert loaded.policy.budget is None
    assert len(loaded.predict(np.zeros(loaded.observation_space.shape, np.float32))[1]) == 2


def test_the_least_cost_coef_within_a_budget():
    curve = [(0.1, 0.9), (1.0, 0.5), (10.0, 0.6), (100.0, 0.1)]
    assert cost_coef_for(1.0, curve) == cost_coef_for(0.9, curve) == 0.1
    assert cost_coef_for(0.7, curve) == cost_coef_for(0.5, curve) == 1.0  # what lies between two of them was not measured
    assert cost_coef_for(0.3, curve) == 100.0
    with pytest.raises(ValueError, match=r"costs 10.0% of its largest sub-policy at the least, more than 5.0%"):
        cost_coef_for(0.05, curve)
    for budget in (40, 0.0, float("nan")):
        with pytest.raises(ValueError, match="A budget is a share"):
            cost_coef_for(budget, curve)


def test_a_budget_with_normalized_envs_and_callbacks(make_agent):
    """SB3 hands the state of ``predict`` on, with λ of each env."""
    env = VecNormalize(DummyVecEnv([DriftEnv] * 3))
    agent = make_agent(env, cost_coef="auto_0.3", **WIDE)
    evaluation = VecNormalize(DummyVecEnv([DriftEnv] * 2), training=False)
    agent.learn(300, callback=EvalCallback(evaluation, n_eval_episodes=2, eval_freq=30, verbose=0))
    states = []
    predict = agent.predict

    def looked_at(*args, **kwargs):
        action, state = predict(*args, **kwargs)
        states.append(state)
        return action, state

    agent.predict = looked_at
    evaluate_policy(agent, evaluation, n_eval_episodes=4)
    assert all(len(state.cost_coefs) == 2 for state in states)
    assert states[-1].cost_coefs != pytest.approx(states[0].cost_coefs)
