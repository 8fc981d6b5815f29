"""What SB3's own tests do with SAC, where AsymSAC needs a test of its own (all of them: benchmarks/sb3_test_suite.py)."""

import numpy as np
import pytest
import torch as th
from envs import DriftEnv
from stable_baselines3 import HerReplayBuffer
from stable_baselines3.common.envs import BitFlippingEnv


@pytest.mark.parametrize("use_sde", [False, True])
def test_policy_and_actors_are_saved_and_loaded_alone(make_agent, tmp_path, use_sde):
    model = make_agent(use_sde=use_sde, policy_kwargs=dict(sub_net_archs=dict(small=[4], large=[16]), master_net_arch=[]))
    policy = model.learn(30).policy
    policy.load_state_dict({name: th.rand_like(value) - 0.5 for name, value in policy.state_dict().items()})
    with th.no_grad():
        for weight, bias in [policy.master.q_net.q_net[0].parameters()]:
            # Small acts left of 0, large right of it.
            weight.copy_(th.tensor([[-1.0], [1.0]]))
            bias.zero_()
    policy.save(tmp_path / "policy")
    for name, actor in zip(policy.option_names, policy.actors, strict=True):
        actor.save(tmp_path / name)
    loaded = type(policy).load(tmp_path / "policy")
    actors = [type(actor).load(tmp_path / name) for name, actor in zip(policy.option_names, policy.actors, strict=True)]
    observations = np.linspace(-5, 5, 6, dtype=np.float32).reshape(6, 1)
    small, large = (actor.predict(observations, deterministic=True)[0] for actor in policy.actors)
    assert abs(small - large).min() > 1e-3
    for saved, actor in zip((small, large), actors, strict=True):
        np.testing.assert_allclose(actor.predict(observations, deterministic=True)[0], saved, rtol=1e-5)
    for agent in (policy, loaded):
        # SB3 compares the policy with its actor; here that is the actor of the sub-policy that the master chose.
        actions, _ = agent.predict(observations, deterministic=True)
        np.testing.assert_allclose(actions, np.where(observations < 0, small, large), rtol=1e-5)


@pytest.mark.parametrize("hindsight", [False, True])
def test_replay_memory_is_loaded_after_the_present_one_was_deleted(make_agent, tmp_path, hindsight):
    env = BitFlippingEnv(n_bits=3, continuous=True) if hindsight else DriftEnv()
    policy, buffer = ("MultiInputPolicy", HerReplayBuffer) if hindsight else ("MlpPolicy", None)
    model = make_agent(env, policy=policy, replay_buffer_class=buffer).learn(60)
    rewards, options = model.replay_buffer.rewards, model.option_memory.options
    model.save_replay_buffer(tmp_path / "memory")
    del model.replay_buffer
    model.load_replay_buffer(tmp_path / "memory", truncate_last_traj=False)
    np.testing.assert_array_equal(model.replay_buffer.rewards, rewards)
    np.testing.assert_array_equal(model.option_memory.options, options)
    assert model.learn(30, reset_num_timesteps=False).replay_buffer.size() == 90
