"""The exported graphs in ONNX Runtime."""

import json

import gymnasium as gym
import numpy as np
import onnx
import onnxruntime
import pytest
from export_cases import BOX, CASES, asym, made
from gymnasium import spaces

from sb3_asym import __version__
from sb3_asym.deployment.recording import replay
from sb3_asym.deployment.runners import ReferenceRunner
from sb3_asym.export import deployable
from sb3_asym.export.onnx import INT8_KERNELS, operators, write_onnx
from sb3_asym.export.onnx_runner import OnnxRunner
from sb3_asym.quantization.ptq import quantize
from sb3_asym.quantization.schemes import parse_precision


def in_precision(agent, precision, recording):
    """The agent in other precisions, calibrated on the recording."""
    precisions = parse_precision(precision, tuple(network.name for network in agent.networks))
    return quantize(agent, precisions, recording.observations)


def check_that_actions_agree(agent, folder, recording, options, actions):
    """int8 of ONNX rounds biases to units of the integer sums, and where torch multiplies it divides."""
    found_options, found_actions = replay(OnnxRunner(agent, folder), agent, recording)
    np.testing.assert_array_equal(found_options, options)
    errors = np.abs(found_actions - actions).max(1)
    is_int8 = any(network.precision == "int8" for network in agent.networks)
    if is_int8:
        assert np.mean(errors > 1e-3) < 0.05
        assert errors.max() < 0.1 or agent.output == "argmax"
    else:
        assert errors.max() < 1e-5


@pytest.mark.parametrize("case", CASES)
def test_acts_as_predict_does(case, tmp_path):
    _, agent, recording = made(case)
    write_onnx(agent, tmp_path)
    onnx.checker.check_model(tmp_path / "policy.onnx", full_check=True)
    check_that_actions_agree(agent, tmp_path, recording, recording.options, recording.actions)


@pytest.mark.parametrize(
    ("case", "precision"),
    [
        ("vector", "fp16"),
        ("three sub-policies", "int8"),
        ("VecNormalize of some keys", "int8"),
        ("ELU", "small=fp32,large=int8,master=fp16"),
        ("gSDE", "int8"),
        ("no hidden layer", "int8"),
        ("PPO, Discrete", "int8"),
        ("A2C, VecNormalize", "int8"),
    ],
)
def test_does_what_the_quantized_layers_do(case, precision, tmp_path):
    _, agent, recording = made(case)
    agent = in_precision(agent, precision, recording)
    options, actions = replay(ReferenceRunner(agent), agent, recording)
    write_onnx(agent, tmp_path)
    check_that_actions_agree(agent, tmp_path, recording, options, actions)


@pytest.mark.parametrize(("low", "high"), [(-1.0, 1.0), (7.0, 9.0)])
def test_int8_of_a_single_input(low, high, tmp_path):
    """It has a range of its own, which need not hold the zero."""
    env = gym.make("MountainCarContinuous-v0").unwrapped
    env.observation_space = spaces.Box(low, high, (1,))
    agent = deployable(asym(env))
    observations = np.linspace(low, high, 200, dtype=np.float32)[:, None]
    agent = quantize(agent, dict.fromkeys(agent.n_bytes, "int8"), observations)
    write_onnx(agent, tmp_path)
    for option, name in enumerate(("small", "large")):
        session = onnxruntime.InferenceSession(tmp_path / f"sub_policy_{name}.onnx")
        (actions,) = session.run(None, {"observation": observations})
        errors = np.abs(actions - agent.actions(observations, np.full(200, option)))
        assert np.median(errors) < 1e-3
        assert errors.max() < 0.05


def test_int8_runs_integer_kernels(tmp_path):
    _, agent, recording = made("three sub-policies")
    agent = in_precision(agent, "middle=int8,large=int8,master=int8", recording)
    write_onnx(agent, tmp_path)
    n_layers = {name: len(layers) for name, layers in ((n.name, n.layers) for n in agent.networks)}
    for file, names in {"policy": ["middle", "large", "master"], "sub_policy_large": ["large"], "sub_policy_tiny": []}.items():
        kinds = operators(tmp_path / f"{file}.onnx")
        assert kinds["QGemm"] == sum(kinds[kind] for kind in INT8_KERNELS) == sum(n_layers[name] for name in names)
    initializers = onnx.load(tmp_path / "sub_policy_large.onnx").graph.initializer
    large = next(network for network in agent.networks if network.name == "large")
    n_int8 = sum(np.prod(tensor.dims) for tensor in initializers if tensor.data_type == onnx.TensorProto.INT8)
    assert n_int8 >= sum(layer.weight.size for layer in large.layers)


def test_fp16_halves_the_file(tmp_path):
    _, agent, recording = made("vector")
    sizes = {}
    for precision in ("fp32", "fp16"):
        folder = tmp_path / precision
        folder.mkdir()
        write_onnx(in_precision(agent, precision, recording), folder)
        tensors = onnx.load(folder / "sub_policy_large.onnx").graph.initializer
        sizes[precision] = sum(len(tensor.raw_data) for tensor in tensors if np.prod(tensor.dims) > 2)
    assert sizes["fp16"] == sizes["fp32"] / 2


@pytest.mark.parametrize("case", ["three sub-policies", "VecNormalize of some keys"])
def test_single_networks_take_batches(case, tmp_path):
    _, agent, recording = made(case)
    write_onnx(agent, tmp_path)
    networks = ["master", *(f"sub_policy_{network.name}" for network in agent.sub_policies)]
    assert {file.stem for file in tmp_path.iterdir()} == {"policy", *networks}
    flat = recording.observations
    batch = {p.name: flat[:, p.offset : p.offset + p.size].reshape(-1, *p.shape) for p in agent.observations}
    results = {name: onnxruntime.InferenceSession(tmp_path / f"{name}.onnx").run(None, batch) for name in networks}
    q_values, options = results["master"]
    asked = recording.choices(agent.option_length)
    np.testing.assert_array_equal(options[asked], recording.options[asked])
    np.testing.assert_array_equal(q_values.argmax(1), options)
    for option, name in enumerate(networks[1:]):
        acted = recording.options == option
        assert acted.any()
        np.testing.assert_allclose(results[name][0][acted], recording.actions[acted], atol=1e-5, rtol=0)


def test_metadata_inputs_and_outputs(tmp_path):
    _, agent, recording = made("Dict")
    write_onnx(in_precision(agent, "large=fp16", recording), tmp_path)
    session = onnxruntime.InferenceSession(tmp_path / "policy.onnx")
    meta = session.get_modelmeta()
    found = meta.custom_metadata_map
    assert meta.producer_name == "sb3-asym"
    assert onnx.load(tmp_path / "policy.onnx").producer_version == __version__
    assert found["algorithm"] == "AsymSAC"
    assert json.loads(found["option_names"]) == ["small", "large"]
    assert json.loads(found["option_length"]) == 3
    assert json.loads(found["observation"]) == {"touch": [3], "achieved_goal": [2, 2], "observation": [5]}
    assert json.loads(found["action_low"]) == [-1, -3]
    assert json.loads(found["action_high"]) == [2, 3]
    assert json.loads(found["precision"]) == {"small": "fp32", "large": "fp16", "master": "fp32"}
    inputs = {value.name: value.shape for value in session.get_inputs()}
    state = {"option_in": [1], "steps_left_in": [1]}
    assert inputs == {"touch": [1, 3], "achieved_goal": [1, 2, 2], "observation": [1, 5], **state}
    outputs = {value.name: value.shape for value in session.get_outputs()}
    assert outputs == {"action": [1, 2], "option": [1], "steps_left": [1]}


def test_an_option_is_held_for_its_length_and_zeros_start_an_episode(tmp_path):
    _, agent, recording = made("vector")
    write_onnx(agent, tmp_path)
    chosen = agent.choices(recording.observations)
    small, large = (recording.observations[np.flatnonzero(chosen == option)[0]] for option in (0, 1))
    driver = OnnxRunner(agent, tmp_path)
    assert [driver.step(obs)[0] for obs in (small, large, large, large, small, small, small)] == [0, 0, 0, 1, 1, 1, 0]
    driver.reset()
    assert [driver.step(obs)[0] for obs in (large, small)] == [1, 1]
    driver.reset()
    assert [driver.step(obs)[0] for obs in (small, large)] == [0, 0]


def test_only_the_chosen_network_runs(tmp_path):
    _, agent, recording = made("three sub-policies")
    write_onnx(agent, tmp_path)
    options = onnxruntime.SessionOptions()
    options.graph_optimization_level = onnxruntime.GraphOptimizationLevel.ORT_DISABLE_ALL  # so that nodes keep their names
    prefixes = {0: "option0/", 1: "option1/", 2: "after1/"}
    chosen = agent.choices(recording.observations)
    for option in range(3):
        observation = recording.observations[np.flatnonzero(chosen == option)[:1]]
        for steps_left in (0, 2):
            options.enable_profiling, options.profile_file_prefix = True, str(tmp_path / "profile")
            session = onnxruntime.InferenceSession(tmp_path / "policy.onnx", options)
            state = {"option_in": np.array([option]), "steps_left_in": np.array([steps_left])}
            session.run(None, {"observation": observation, **state})
            with open(session.end_profiling()) as profile:
                names = [event["name"] for event in json.load(profile) if event.get("cat") == "Node"]
            ran = [name for name in names if "/Gemm" in name]
            expected = len(agent.sub_policies[option].layers), 2 if steps_left == 0 else 0
            assert (sum(name.startswith(prefixes[option]) for name in ran), sum("master/" in name for name in ran)) == expected
            assert len(ran) == sum(expected)


@pytest.mark.parametrize("name", ["option", "steps_left_in"])
def test_a_part_of_the_observation_with_a_name_of_ours(name, tmp_path):
    env = gym.make("MountainCarContinuous-v0").unwrapped
    env.observation_space = spaces.Dict({name: BOX, "other": BOX})
    with pytest.raises(ValueError, match=f"'{name}' has a name that the ONNX graph needs"):
        write_onnx(deployable(asym(env, "MultiInputPolicy")), tmp_path)
    assert not list(tmp_path.iterdir())
