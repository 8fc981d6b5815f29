"""FLOPs, MACs and parameters against numbers counted by hand."""

import numpy as np
import pytest
from stable_baselines3 import DQN, PPO, SAC, TD3

from sb3_asym.costs import actor_cost, mean_flops, network_cost, relative_costs

# DriftEnv: 1 observation, 1 action. small [4]: 1*4 + 4*1 MACs; large [16]: 1*16 + 16*1; master [8], 2 options: 1*8 + 8*2.


def test_flops_and_macs_of_the_deterministic_path(make_agent):
    policy = make_agent().policy
    assert [cost.macs for cost in policy.option_costs] == [8, 32]
    assert [cost.flops for cost in policy.option_costs] == [16, 64]
    assert policy.master_cost.macs == 24


def test_parameters_leave_out_the_head_for_the_log_std(make_agent):
    small = make_agent().policy.option_costs[0]
    assert small.parameters == (4 + 4) + (4 + 1)
    assert small.bytes == 4 * small.parameters


def test_mean_flops_weight_each_network_by_its_use(make_agent):
    policy = make_agent().policy
    # 30 steps of small, 10 of large, the master asked 8 times.
    assert mean_flops(policy.option_costs, policy.master_cost, np.array([30, 10]), 8) == pytest.approx(
        (30 * 16 + 10 * 64 + 8 * 48) / 40
    )


def test_images_count_their_convolutions(make_agent):
    from stable_baselines3.common.envs import FakeImageEnv

    env = FakeImageEnv(screen_height=40, screen_width=40, discrete=False)
    archs = dict(small=[4], large=[16])
    extractor = dict(features_dim=8)
    kwargs = dict(sub_net_archs=archs, features_extractor_kwargs=extractor)
    policy = make_agent(env, "CnnPolicy", policy_kwargs=kwargs).policy
    # NatureCNN on 1 x 40 x 40: 32 x 9 x 9, 64 x 3 x 3, 64 x 1 x 1, then 64 to 8 features, [16] units, 5 actions.
    convolutions = 32 * 81 * (1 * 64) + 64 * 9 * (32 * 16) + 64 * 1 * (64 * 9)
    assert policy.option_costs[-1].macs == convolutions + 64 * 8 + 8 * 16 + 16 * 5


@pytest.mark.parametrize("algorithm", [SAC, TD3, PPO])
def test_costs_of_any_sb3_policy(algorithm):
    small, large = (
        algorithm("MlpPolicy", "Pendulum-v1", policy_kwargs=dict(net_arch=[width]), device="cpu") for width in (4, 40)
    )
    assert relative_costs([small.policy, large.policy]) == pytest.approx([0.1, 1.0])


def test_cost_of_a_q_network():
    policy = DQN("MlpPolicy", "CartPole-v1", policy_kwargs=dict(net_arch=[8]), device="cpu").policy
    assert network_cost(policy.q_net).macs == 4 * 8 + 8 * 2


def test_gsde_costs_the_same(make_agent):
    plain, gsde = (make_agent(use_sde=use_sde).policy for use_sde in (False, True))
    assert actor_cost(plain.actor).flops == actor_cost(gsde.actor).flops


def test_costs_of_something_else_must_be_given():
    with pytest.raises(TypeError, match=r"Cannot count the FLOPs of a str: pass costs"):
        relative_costs(["policy"])
