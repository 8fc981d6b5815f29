from functools import partial

import numpy as np
import pytest
import torch as th
from envs import ChainEnv, GoalChainEnv
from recorder import GAMMA, GOAL, Recorder
from stable_baselines3 import HerReplayBuffer
from stable_baselines3.common.buffers import DictReplayBuffer, NStepReplayBuffer, ReplayBuffer
from stable_baselines3.common.type_aliases import DictReplayBufferSamples
from stable_baselines3.common.vec_env import DummyVecEnv, VecNormalize

from sb3_asym.buffers import OptionMemory, sample_transitions, split
from sb3_asym.options import NO_OPTION


def expected_transitions(recorder, costs=(0.0, 0.0), n_rows=None):
    """
    Complete options among the recorded steps that started in the last ``n_rows`` (those in the buffer), by plain loops:
    observation at the start → (option, next observation, reward, discount, does not bootstrap).
    """
    buffer, option_length, transitions = recorder.buffer, recorder.memory.option_length, {}
    if n_rows is None:
        # With optimize_memory_usage, the newest observation takes the place of the oldest transition.
        n_rows = buffer.buffer_size - buffer.optimize_memory_usage
    for steps in recorder.steps:
        for start in range(max(len(steps) - n_rows, 0), len(steps)):
            if not steps[start].started:
                continue
            reward, n_run, end = 0.0, 0, None
            while n_run < option_length and end is None and start + n_run < len(steps):
                step = steps[start + n_run]
                reward += GAMMA**n_run * (step.reward - costs[step.option])
                end, n_run = step.end, n_run + 1
            if n_run < option_length and end is None:
                continue
            next_obs = step.next_obs
            if buffer.optimize_memory_usage and end is not None and start + n_run < len(steps):
                next_obs = steps[start + n_run].obs  # as in SB3, the next episode's first takes the place of the last
            done = 0.0 if end is None or (end == "truncated" and buffer.handle_timeout_termination) else 1.0
            transitions[steps[start].obs] = (steps[start].option, next_obs, reward, GAMMA**n_run, done)
    return transitions


def sampled_rows(samples):
    """Sampled transitions as (observation, (option, next observation, reward, discount, done)), in plain numbers."""
    obs, next_obs = samples.observations, samples.next_observations
    if isinstance(obs, dict):
        obs, next_obs = obs["observation"], next_obs["observation"]
    columns = (obs, samples.actions, next_obs, samples.rewards, samples.discounts, samples.dones)
    rows = zip(*(column.flatten().tolist() for column in columns), strict=True)
    return [(row[0], row[1:]) for row in rows]


def sample_net(memory, n_samples, costs=(0.0, 0.0), env=None):
    """Option transitions whose rewards have paid the costs per step."""
    memory.costs = np.array(costs)
    return memory.sample(n_samples, env=env).net(1.0)


def assert_samples_are(memory, transitions, costs=(0.0, 0.0), n_samples=1000):
    """Every sample is one of the transitions, each of which is drawn."""
    rows = sampled_rows(sample_net(memory, n_samples, costs))
    for start, row in rows:
        assert row == pytest.approx(transitions[start], abs=1e-5)
    assert {start for start, _ in rows} == set(transitions)
    assert memory.size() == len(transitions)


def make_memory(buffer_class=ReplayBuffer, option_length=3, n_envs=1, buffer_size=100, recent_steps=None, **kwargs):
    """An option memory on an empty buffer of ``buffer_size`` rows."""
    example = (GoalChainEnv if issubclass(buffer_class, DictReplayBuffer) else ChainEnv)()
    spaces = example.observation_space, example.action_space
    buffer = buffer_class(buffer_size * n_envs, *spaces, device="cpu", n_envs=n_envs, **kwargs)
    costs = np.array([0.25, 1.0])
    return OptionMemory(buffer, option_length=option_length, gamma=GAMMA, costs=costs, recent_steps=recent_steps)


def make_her_memory(n_envs=1, env=None, **kwargs):
    venv = DummyVecEnv([lambda: env or GoalChainEnv()] * n_envs)
    return make_memory(HerReplayBuffer, n_envs=n_envs, env=venv, **kwargs)


@pytest.fixture(autouse=True)
def seed():
    np.random.seed(0)


FLAT_BUFFERS = [
    (ReplayBuffer, {}),
    (DictReplayBuffer, {}),
    (NStepReplayBuffer, dict(n_steps=4, gamma=GAMMA)),
    (ReplayBuffer, dict(optimize_memory_usage=True, handle_timeout_termination=False)),
]


@pytest.mark.parametrize(("buffer_class", "kwargs"), FLAT_BUFFERS)
def test_option_transition_by_hand(buffer_class, kwargs):
    recorder = Recorder(make_memory(buffer_class, option_length=3, **kwargs))
    for reward in (1.0, 2.0, 4.0):
        recorder.step([reward], [1])
    samples = recorder.memory.sample(4)
    assert samples.rewards.flatten().tolist() == [1.0 + 0.5 * 2.0 + 0.25 * 4.0] * 4
    assert samples.discounts.flatten().tolist() == [0.125] * 4
    assert samples.actions.tolist() == [[1]] * 4
    assert samples.dones.flatten().tolist() == [0.0] * 4
    first, last = recorder.steps[0][0], recorder.steps[0][2]
    assert {row[0] for row in sampled_rows(samples)} == {first.obs}
    assert {row[1][1] for row in sampled_rows(samples)} == {last.next_obs}


@pytest.mark.parametrize(("end", "done"), [("terminated", 1.0), ("truncated", 0.0)])
@pytest.mark.parametrize("buffer_class", [ReplayBuffer, DictReplayBuffer, NStepReplayBuffer])
def test_an_option_ends_with_the_episode_and_a_time_limit_bootstraps(buffer_class, end, done):
    recorder = Recorder(make_memory(buffer_class, option_length=4))
    recorder.step([1.0], [0])
    recorder.step([3.0], [0], [end])
    samples = recorder.memory.sample(1)
    assert samples.rewards.item() == 1.0 + 0.5 * 3.0
    assert samples.discounts.item() == 0.25
    assert samples.dones.item() == done
    last_observation = recorder.steps[0][1].next_obs
    assert sampled_rows(samples)[0][1][1] == last_observation


def test_without_timeout_handling_every_end_is_final():
    recorder = Recorder(make_memory(handle_timeout_termination=False))
    recorder.step([1.0], [0], ["truncated"])
    assert recorder.memory.sample(1).dones.item() == 1.0


def test_costs_apply_to_what_was_collected_before():
    """λ·c is subtracted at each step that ran, from rewards as they are in the buffer."""
    recorder = Recorder(make_memory(option_length=3))
    recorder.step([1.0], [1])
    recorder.step([1.0], [1], ["terminated"])
    for cost, expected in ((0.0, 1.5), (0.2, 0.8 + 0.5 * 0.8), (1.0, 0.0)):
        assert sample_net(recorder.memory, 1, (9.0, cost)).rewards.item() == pytest.approx(expected)


def test_the_weight_of_the_cost_may_differ_from_row_to_row():
    """Rewards and costs are apart in a batch: 1.5 earned, and c = 1 paid for 1.5 discounted steps."""
    recorder = Recorder(make_memory(option_length=3))
    recorder.step([1.0], [1])
    recorder.step([1.0], [1], ["terminated"])
    samples = recorder.memory.sample(3)
    assert samples.rewards.flatten().tolist() == [1.5] * 3
    assert samples.costs.flatten().tolist() == [1.5] * 3
    net = samples.net(th.tensor([[0.0], [0.2], [1.0]]))
    assert net.rewards.flatten().tolist() == pytest.approx([1.5, 1.2, 0.0])
    assert th.equal(net.discounts, samples.discounts)


def test_options_of_several_envs_run_on_their_own_clocks():
    recorder = Recorder(make_memory(option_length=3, n_envs=2))
    recorder.step([1.0, 10.0], [0, 1])
    recorder.step([2.0, 20.0], [0, 0], [None, "terminated"])
    recorder.step([4.0, 30.0], [0, 0])
    recorder.step([8.0, 40.0], [1, 1])
    recorder.step([8.0, 50.0], [0, 1])
    rows = {row for _, row in sampled_rows(recorder.memory.sample(200))}
    assert {(option, reward, discount, done) for option, _, reward, discount, done in rows} == {
        (0, 1.0 + 0.5 * 2.0 + 0.25 * 4.0, 0.125, 0.0),
        (1, 10.0 + 0.5 * 20.0, 0.25, 1.0),
        (0, 30.0 + 0.5 * 40.0 + 0.25 * 50.0, 0.125, 0.0),
    }


def test_an_option_can_be_sampled_once_it_is_complete():
    recorder = Recorder(make_memory(option_length=3))
    for n_complete in (0, 0, 1, 1, 1, 2):
        recorder.step([1.0], [0])
        assert recorder.memory.size() == n_complete
        assert recorder.memory.can_sample() == (n_complete > 0)


@pytest.mark.parametrize("make", [make_memory, make_her_memory])
def test_sampling_without_a_complete_option_says_what_to_do(make):
    recorder = Recorder(make(option_length=3))
    recorder.step([1.0], [NO_OPTION])
    recorder.step([1.0], [0])
    with pytest.raises(RuntimeError, match="no complete option to sample yet: let more steps pass"):
        recorder.memory.sample(1)


def test_random_warm_up_makes_no_options():
    recorder = Recorder(make_memory(option_length=2))
    for _ in range(6):
        recorder.step([1.0], [NO_OPTION])
    assert not recorder.memory.can_sample()


def test_an_option_that_was_given_up_is_never_sampled():
    """As when training starts over in the middle of an option: the env is reset without an end."""
    recorder = Recorder(make_memory(option_length=3))
    recorder.step([1.0], [0])
    recorder.held, recorder.steps = [0], [[]]
    for reward in (2.0, 4.0, 8.0):
        recorder.step([reward], [1])
    assert_samples_are(recorder.memory, expected_transitions(recorder))


@pytest.mark.parametrize(("buffer_class", "kwargs"), FLAT_BUFFERS)
@pytest.mark.parametrize(("option_length", "n_envs", "n_steps"), [(1, 1, 20), (3, 1, 29), (4, 3, 31), (3, 2, 95), (4, 3, 212)])
def test_samples_are_the_recorded_options(buffer_class, kwargs, option_length, n_envs, n_steps):
    """Before and after the buffer of 30 rows wraps around: overwritten options vanish, the others stay as they were."""
    recorder = Recorder(make_memory(buffer_class, option_length, n_envs, buffer_size=30, **kwargs))
    recorder.run_randomly(n_steps, warm_up=4)
    transitions = expected_transitions(recorder, costs=(0.1, 0.7))
    assert_samples_are(recorder.memory, transitions, costs=np.array([0.1, 0.7]))


@pytest.mark.parametrize(("buffer_class", "kwargs"), FLAT_BUFFERS)
def test_every_step_of_a_long_run_leaves_the_right_options(buffer_class, kwargs):
    recorder = Recorder(make_memory(buffer_class, option_length=3, n_envs=2, buffer_size=7, **kwargs))
    for _ in range(60):
        recorder.run_randomly(1)
        transitions = expected_transitions(recorder)
        assert recorder.memory.can_sample() == bool(transitions)
        if transitions:
            assert_samples_are(recorder.memory, transitions, n_samples=200)


def test_all_options_are_equally_likely():
    recorder = Recorder(make_memory(option_length=4))
    recorder.step([1.0], [0], ["terminated"])
    for _ in range(8):
        recorder.step([1.0], [0])
    starts = [start for start, _ in sampled_rows(recorder.memory.sample(3000))]
    shares = [starts.count(start) / len(starts) for start in set(starts)]
    assert shares == pytest.approx([1 / 3] * 3, abs=0.04)


@pytest.mark.parametrize("n_envs", [1, 2])
def test_recent_steps_bounds_where_sampled_options_started(n_envs):
    recorder = Recorder(make_memory(option_length=3, n_envs=n_envs, recent_steps=12 * n_envs))
    recorder.run_randomly(60)
    assert_samples_are(recorder.memory, expected_transitions(recorder, n_rows=12))


@pytest.mark.parametrize("make", [make_memory, make_her_memory])
def test_nothing_can_be_sampled_where_no_recent_step_started_a_complete_option(make):
    recorder = Recorder(make(option_length=5, recent_steps=4))
    for step in range(14):
        recorder.step([1.0], [0], ["terminated" if step == 4 else None])
    assert recorder.memory.size() == 0
    assert not recorder.memory.can_sample()


def test_rewards_and_costs_are_normalized_alike_and_the_cost_is_never_clipped():
    env = VecNormalize(DummyVecEnv([ChainEnv]), clip_reward=2.0)
    env.ret_rms.var, env.epsilon = np.array(4.0), 0.0
    env.obs_rms.mean, env.obs_rms.var = np.array([1.0]), np.array([4.0])
    recorder = Recorder(make_memory(option_length=3))
    for reward in (1.0, 3.0, 9.0):
        recorder.step([reward], [1])
    samples = sample_net(recorder.memory, 1, (0.0, 0.5), env)
    clipped = 2.0  # of 9 / 2
    assert samples.rewards.item() == pytest.approx((1.0 - 0.5) / 2 + 0.5 * (3.0 - 0.5) / 2 + 0.25 * (clipped - 0.5 / 2))
    first, last = recorder.steps[0][0], recorder.steps[0][2]
    assert samples.observations.item() == pytest.approx((first.obs - 1.0) / 2)
    assert samples.next_observations.item() == pytest.approx((last.next_obs - 1.0) / 2)


def her_samples(recorder, n_samples=1000, costs=(0.0, 0.0)):
    """Sampled rows as those of ``sampled_rows``, each with its goals before and after."""
    samples = sample_net(recorder.memory, n_samples, costs)
    goals, next_goals = samples.observations["desired_goal"], samples.next_observations["desired_goal"]
    return list(zip(sampled_rows(samples), goals.flatten().tolist(), next_goals.flatten().tolist(), strict=True))


def option_steps(recorder, start_obs):
    """Steps of the option that started at the observation."""
    for steps in recorder.steps:
        for start, step in enumerate(steps):
            if step.obs == start_obs:
                end = next((i for i in range(start, len(steps)) if steps[i].end), len(steps) - 1)
                return steps[start : min(start + recorder.memory.option_length, end + 1)]
    raise AssertionError(f"No step starts at {start_obs}.")


@pytest.mark.parametrize(("n_steps", "n_envs"), [(40, 1), (33, 3), (170, 2)])
def test_options_keep_the_goal_that_they_were_run_for(n_steps, n_envs):
    recorder = Recorder(make_her_memory(n_envs, option_length=3, buffer_size=50, n_sampled_goal=4))
    recorder.run_randomly(n_steps, warm_up=3)
    costs = np.array([0.1, 0.7])
    for (start, row), goal, next_goal in her_samples(recorder, costs=costs):
        assert goal == next_goal == GOAL
        option, next_obs, reward, discount, done = row
        run = option_steps(recorder, start)
        assert option == run[0].option
        assert next_obs == run[-1].next_obs
        expected = sum(GAMMA**i * (step.reward - costs[int(option)]) for i, step in enumerate(run))
        assert reward == pytest.approx(expected, rel=1e-5, abs=1e-5)
        assert discount == GAMMA ** len(run)
        assert done == (run[-1].end == "terminated")


@pytest.mark.parametrize(("buffer_class", "kwargs"), FLAT_BUFFERS)
@pytest.mark.parametrize("n_envs", [1, 2])
def test_primitive_transitions_are_those_that_the_buffer_samples(buffer_class, kwargs, n_envs):
    recorder = Recorder(make_memory(buffer_class, n_envs=n_envs, **kwargs))
    recorder.run_randomly(40)
    env = VecNormalize(DummyVecEnv([GoalChainEnv if buffer_class is DictReplayBuffer else ChainEnv]))
    batches = []
    for sample in (recorder.memory.replay_buffer.sample, partial(sample_transitions, recorder.memory.replay_buffer)):
        np.random.seed(1)
        batches.append(sample(64, env=env))
    assert_close = partial(th.testing.assert_close, rtol=0, atol=0)
    th.utils._pytree.tree_map(assert_close, *(tuple(batch) for batch in batches))


def test_each_gradient_step_gets_rows_from_all_over_a_large_batch():
    """Buffers may have an order: relabelled goals lie behind the others, and each robot's rows lie together."""
    rows = th.arange(24.0).unsqueeze(1)
    parts = split(DictReplayBufferSamples({"a": rows, "b": -rows}, 2 * rows, {"a": rows + 1}, rows, rows, None), 8)
    assert sorted(int(row) for part in parts for row in part.rewards) == list(range(24))
    for part in parts:
        assert all(2 <= count <= 3 for count in np.bincount((part.rewards.flatten() // 8).long()))
        assert th.equal(part.observations["a"], part.rewards)
        assert th.equal(part.observations["b"], -part.rewards)
        assert th.equal(part.actions, 2 * part.rewards)
        assert th.equal(part.next_observations["a"], part.rewards + 1)
        assert part.rewards.is_contiguous()
        assert part.discounts is None
