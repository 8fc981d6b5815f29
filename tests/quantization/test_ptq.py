"""Quantized agents of all kinds: what they do, and how large they are."""

import numpy as np
import pytest
import torch as th
from baseline_cases import Steer, steering_teacher
from export_cases import CASES, RandomEnv, asym, made, plain
from stable_baselines3 import DQN, PPO

from sb3_asym.deployment import deployable
from sb3_asym.deployment.agent import Dense
from sb3_asym.deployment.runners import ReferenceRunner
from sb3_asym.quantization import Scheme, quantize
from sb3_asym.quantization.gptq import round_in_turn
from sb3_asym.quantization.layers import Int8Dense, SimulatedDense, packed_bytes, quantize_layer, real_weight
from sb3_asym.quantization.ptq import CALIBRATION_EPISODES, calibration_observations, weights
from sb3_asym.quantization.schemes import fake_quantize, weight_grid


def distances(agent, form, recording):
    return np.abs(
        agent.actions(recording.observations, recording.options) - form.actions(recording.observations, recording.options)
    )


@pytest.mark.parametrize("case", CASES)
def test_every_agent_in_every_kind_of_scheme(case):
    _, agent, recording = made(case, 100)
    before = agent.actions(recording.observations, recording.options)
    n_bytes = []
    for text in ("fp32", "fp16", "w8", "w8-tensor-affine-gptq", "int8", "w6a8", "w2-affine"):
        form = quantize(agent, text, recording.observations)
        assert {network.precision for network in form.networks} == {"int8" if text == "int8" else Scheme.parse(text).name}
        actions = form.actions(recording.observations, recording.options)
        assert np.isfinite(actions).all()
        assert actions.shape == before.shape
        close = np.abs(actions - before).mean() < (0.2 if agent.output == "argmax" else 0.1)
        assert close or text == "w2-affine"
        n_bytes.append(sum(form.n_bytes.values()))
    assert n_bytes[0] == 2 * n_bytes[1]


def test_the_exported_int8_lies_on_the_grids_of_the_schemes():
    agent = deployable(asym())
    observations = np.random.default_rng(0).normal(size=(100, 5)).astype(np.float32)
    layer = quantize(agent, "int8", observations).sub_policies[1].layers[0]
    assert isinstance(layer, Int8Dense)
    plain_layer = agent.sub_policies[1].layers[0]
    steps = (observations.max(0) - observations.min(0)) / 255
    nearest = fake_quantize(plain_layer.weight * steps, weight_grid(plain_layer.weight * steps, Scheme(8)))
    # The scales differ by less than the 16 bits that they are stored in.
    assert np.allclose(layer.weight * layer.scale[:, None], nearest, atol=layer.scale.max() * 0.01)
    assert np.allclose(real_weight(layer), plain_layer.weight, atol=np.abs(plain_layer.weight).max() / 100)


def test_int8_in_integers_does_what_the_simulation_of_its_scheme_does():
    _, agent, recording = made("SAC")
    integers = quantize(agent, "int8", recording.observations)
    simulated = quantize(agent, "w8a8-affine", recording.observations)
    assert isinstance(simulated.sub_policies[0].layers[0], SimulatedDense)
    assert distances(integers, simulated, recording).mean() < 2 * distances(agent, integers, recording).mean() < 0.1


def test_weights_of_a_quantized_agent_lie_on_few_numbers():
    _, agent, recording = made("TD3")
    form = quantize(agent, "w3", None)
    for layer, weight in zip(agent.sub_policies[0].layers, weights(form), strict=True):
        assert all(len(np.unique(row)) <= 7 for row in weight)
        assert np.array_equal(weight, fake_quantize(layer.weight, weight_grid(layer.weight, Scheme(3))))
    assert distances(agent, form, recording).mean() > distances(agent, quantize(agent, "w6"), recording).mean()


def test_bytes_are_packed_bits_scales_zero_points_and_biases():
    layer = Dense(np.ones((5, 7), dtype=np.float32), np.zeros(5, dtype=np.float32), ())
    assert packed_bytes(35, 5, Scheme(3)) == 14 + 5 * 4  # 105 bits
    assert packed_bytes(35, 5, Scheme(3, None, False, False)) == 14 + 4 + 1
    assert packed_bytes(35, 5, Scheme(16)) == layer.weight.nbytes / 2
    agent = deployable(plain(PPO, RandomEnv(), policy_kwargs=dict(net_arch=[9])))
    observations = np.random.default_rng(0).normal(size=(50, 5)).astype(np.float32)
    sizes = {text: sum(quantize(agent, text, observations).n_bytes.values()) for text in ("w8", "w4", "w4a8", "w4-affine")}
    assert sizes["w8"] - sizes["w4"] == 45 - 23 + 18 - 9
    assert sizes["w4a8"] - sizes["w4"] == 8 * (5 + 1)  # gains and zero points: of each observation, and of the hidden layer
    assert sizes["w4-affine"] - sizes["w4"] == 9 + 2


def test_rounding_in_turn_keeps_the_outputs_and_the_grid():
    rng = np.random.default_rng(0)
    hidden = np.maximum(rng.normal(size=(500, 4)) @ rng.normal(size=(4, 24)) + 1, 0)
    weight, bias = rng.normal(size=(6, 24)).astype(np.float32), np.ones(6, dtype=np.float32)
    grid = weight_grid(weight, Scheme(3))
    whole, shifted = round_in_turn(weight, bias, grid, hidden)
    assert np.array_equal(whole, np.rint(whole))
    assert np.abs(whole).max() <= 3
    wanted = hidden @ weight.T + bias
    nearest = np.abs(hidden @ fake_quantize(weight, grid).T + bias - wanted).mean()
    in_turn = np.abs(hidden @ grid.dequantize(whole).T + shifted - wanted).mean()
    assert in_turn < nearest / 3


def test_rounding_in_turn_makes_up_for_the_layers_before():
    _, agent, recording = made("SAC")
    nearest, in_turn = (quantize(agent, text, recording.observations) for text in ("w3", "w3-gptq"))
    assert distances(agent, in_turn, recording).mean() < 0.7 * distances(agent, nearest, recording).mean()
    assert in_turn.n_bytes == nearest.n_bytes


def test_rounding_in_turn_where_inputs_are_dead():
    weight = np.random.default_rng(0).normal(size=(2, 3)).astype(np.float32)
    grid = weight_grid(weight, Scheme(4))
    whole, bias = round_in_turn(weight, np.zeros(2, dtype=np.float32), grid, np.zeros((5, 3)))
    assert np.array_equal(whole, grid.quantize(weight))
    assert np.allclose(bias, 0)


def test_each_network_may_have_a_scheme_of_its_own():
    agent = deployable(asym())
    form = quantize(agent, {"small": "fp16", "large": Scheme(4), "master": "fp32"})
    assert [network.precision for network in form.networks] == ["fp16", "w4", "fp32"]


def test_calibration_sees_whole_episodes():
    agent = deployable(steering_teacher())
    episodes = []
    observations = calibration_observations(ReferenceRunner(agent), agent, Steer(), lambda: episodes.append(1))
    assert len(episodes) == CALIBRATION_EPISODES
    assert observations.shape == (20 * CALIBRATION_EPISODES, 1)


@pytest.mark.parametrize("text", ["int8", "w4a8", "w4-gptq"])
def test_without_observations_some_schemes_are_refused(text):
    agent = deployable(steering_teacher())
    for observations in (None, np.zeros((0, 1), dtype=np.float32)):
        with pytest.raises(ValueError, match=f"{text} needs observations of rollouts to calibrate: name the env"):
            quantize(agent, text, observations)


def test_weights_beyond_fp16_are_refused():
    model = steering_teacher()
    with th.no_grad():
        model.policy.actor.mu.bias.fill_(1e6)
    with pytest.raises(ValueError, match="A weight of policy is too large for fp16: choose fp32"):
        quantize(deployable(model), "fp16")


def test_choices_are_as_fine_as_the_differences_between_outputs():
    """Outputs of a hundred and more that differ by one: in steps of all of an output, choices would be chance."""
    model = plain(DQN, RandomEnv(discrete=True), policy_kwargs=dict(net_arch=[16]))
    last = model.policy.q_net.q_net[-1]
    with th.no_grad():
        last.weight.copy_(300 + 0.5 * th.randn(last.weight.shape, generator=th.Generator().manual_seed(0)))
    agent = deployable(model)
    observations = np.random.default_rng(0).normal(size=(500, agent.obs_dim)).astype(np.float32)
    options = np.zeros(500, dtype=np.int64)
    choices = agent.actions(observations, options)
    for scheme in ("int8", "w8", "w8-tensor-affine", "int8-gptq"):
        assert (quantize(agent, scheme, observations).actions(observations, options) == choices).mean() > 0.9
    outputs = agent.sub_policies[0].forward(agent.normalize(observations)).numpy()
    assert np.ptp(outputs, axis=1).max() < 0.05 * outputs.mean()
    assert quantize(agent, "fp16").sub_policies[0].layers[-1].weight.mean() > 250


@pytest.mark.parametrize("in_turn", [False, True])
@pytest.mark.parametrize("scheme", ["int8", "w4a8"])
@pytest.mark.parametrize(("low", "high"), [(1.0, 1.0), (0.99, 1.0), (4.99, 5.0)])
def test_an_observation_far_from_zero_beside_its_range(scheme, in_turn, low, high):
    """It is as exact as where that observation is 0, which it might as well be: the bias makes up for its constant part."""
    rng = np.random.default_rng(0)
    weight = rng.normal(size=(64, 8)).astype(np.float32)
    layer = Dense(weight, np.zeros(64, np.float32), ())

    def error(low, high):
        inputs = rng.uniform(-1, 1, (500, 8)).astype(np.float32)
        inputs[:, 0] = rng.uniform(low, high, 500)
        seen = (inputs, inputs) if in_turn else None
        found = quantize_layer(layer, Scheme.parse(scheme), inputs.min(0), inputs.max(0), True, seen)
        wanted = layer.linear(th.as_tensor(inputs))
        return float((found.linear(th.as_tensor(inputs)) - wanted).abs().mean() / wanted.std())

    assert error(low, high) < 1.25 * error(0.0, high - low) + 1e-3
