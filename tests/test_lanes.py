"""Several sources of transitions, each with a clock of its own."""

import numpy as np
import pytest
import torch as th
from envs import ChainEnv, GoalChainEnv
from stable_baselines3 import HerReplayBuffer
from stable_baselines3.common.buffers import DictReplayBuffer, NStepReplayBuffer, ReplayBuffer
from stable_baselines3.common.vec_env import DummyVecEnv

from sb3_asym.buffers import OptionMemory
from sb3_asym.lanes import Lanes, Transition

GAMMA = 0.5
COSTS = np.array([0.25, 1.0])
BUFFERS = {
    ReplayBuffer: {},
    DictReplayBuffer: {},
    NStepReplayBuffer: dict(n_steps=2, gamma=GAMMA),
    HerReplayBuffer: dict(env=DummyVecEnv([GoalChainEnv])),
}


def make_lanes(n_lanes, buffer_class=ReplayBuffer, n_envs=1):
    env = (GoalChainEnv if issubclass(buffer_class, DictReplayBuffer) else ChainEnv)()
    memories = []
    for _ in range(n_lanes):
        spaces = env.observation_space, env.action_space
        buffer = buffer_class(100, *spaces, device="cpu", n_envs=n_envs, **BUFFERS[buffer_class])
        memories.append(OptionMemory(buffer, option_length=3, gamma=GAMMA, costs=COSTS))
    return Lanes(memories)


def observation(lanes, place):
    """Places are running numbers; a lane's begin with its hundred."""
    place = np.array([place], dtype=np.float32)
    if not isinstance(lanes.memories[0].replay_buffer, DictReplayBuffer):
        return place
    return dict(observation=place, achieved_goal=place, desired_goal=np.full_like(place, -5.0))


def run(lanes, lane, first, n_steps, option, end=None):
    """One option of a source, which earns 1 at each step."""
    for step in range(n_steps):
        last = step == n_steps - 1
        place = 100 * lane + first + step
        done = last and end is not None
        lanes.add(
            lane,
            Transition(
                observation(lanes, place),
                observation(lanes, place + 1),
                np.zeros(1, dtype=np.float32),
                1.0,
                done,
                {"TimeLimit.truncated": done and end == "truncated"},
                option,
                step == 0,
                last,
            ),
        )


@pytest.mark.parametrize("buffer_class", BUFFERS)
def test_options_of_each_source_are_sampled_whole(buffer_class):
    """Sources that are interleaved step by step, one far ahead of the other."""
    lanes = make_lanes(2, buffer_class)
    run(lanes, 0, 0, 3, option=1)
    run(lanes, 1, 0, 2, option=0, end="terminated")
    run(lanes, 0, 3, 3, option=0)
    run(lanes, 0, 6, 1, option=1, end="truncated")
    samples = lanes.sample_options(500)
    assert lanes.size() == 9
    starts = samples.observations
    if isinstance(starts, dict):
        own_goals = samples.observations["desired_goal"].flatten() == -5.0
        starts, ends = starts["observation"].flatten(), samples.next_observations["observation"].flatten()
    else:
        own_goals = th.ones(500, dtype=th.bool)
        starts, ends = starts.flatten(), samples.next_observations.flatten()
    columns = (starts, samples.actions, ends, samples.rewards, samples.costs, samples.discounts, samples.dones)
    rows = {tuple(row) for row in th.stack([column.flatten()[own_goals] for column in columns], 1).tolist()}
    assert rows == {
        (0.0, 1.0, 3.0, 1.75, 1.75, 0.125, 0.0),
        (3.0, 0.0, 6.0, 1.75, 0.25 * 1.75, 0.125, 0.0),
        (6.0, 1.0, 7.0, 1.0, 1.0, 0.5, 0.0),
        (100.0, 0.0, 102.0, 1.5, 0.25 * 1.5, 0.25, 1.0),
    }


def test_all_steps_are_equally_likely():
    lanes = make_lanes(3)
    run(lanes, 0, 0, 3, option=1)
    run(lanes, 2, 0, 1, option=0, end="terminated")
    places = lanes.sample(4000).observations.flatten().tolist()
    shares = [places.count(place) / len(places) for place in (0.0, 1.0, 2.0, 200.0)]
    assert shares == pytest.approx([0.25] * 4, abs=0.04)


def test_nothing_to_sample_is_said():
    lanes = make_lanes(2)
    assert not lanes.can_sample_options()
    with pytest.raises(RuntimeError, match="nothing to sample yet"):
        lanes.sample_options(1)
    run(lanes, 1, 0, 3, option=1)
    assert lanes.can_sample_options()


def test_lanes_have_a_single_env():
    with pytest.raises(ValueError, match=r"with a single env each; they have \[2\] envs"):
        make_lanes(1, n_envs=2)
    with pytest.raises(ValueError, match="one replay buffer or more"):
        Lanes([])
