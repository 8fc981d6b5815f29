import copy

import numpy as np
import pytest
import torch as th
from envs import DriftEnv
from export_cases import RandomEnv, asym, normalized
from gymnasium import spaces
from sb3_contrib import QRDQN, TQC
from stable_baselines3 import A2C, DDPG, DQN, PPO, SAC, TD3
from torch import nn

from sb3_asym import AsymSAC
from sb3_asym.deployment import deployable, load_model
from sb3_asym.deployment.from_sb3 import deployed_networks, linear_layers
from sb3_asym.export import export_c, export_onnx
from sb3_asym.quantization import QuantizedTraining, as_trained, quantize
from sb3_asym.quantization.fake import QuantizedLinear, QuantizedPolicy, Quantizer
from sb3_asym.quantization.schemes import Scheme
from sb3_asym.update.compiled import CompiledUpdate, obstacle_to_compiling
from sb3_asym.update.graph import CompiledUpdateUnavailable

N_STEPS, DELAY = 48, 32
OFF_POLICY = dict(learning_starts=8, batch_size=16, buffer_size=100)
OBSERVATIONS = np.random.default_rng(0).uniform(-5, 5, (300, 5)).astype(np.float32)
CASES = {
    "SAC": (SAC, False, OFF_POLICY),
    "SAC with gSDE": (SAC, False, dict(**OFF_POLICY, use_sde=True)),
    "TD3": (TD3, False, OFF_POLICY),
    "DDPG": (DDPG, False, OFF_POLICY),
    "TQC": (TQC, False, OFF_POLICY),
    "DQN": (DQN, True, dict(**OFF_POLICY, train_freq=1, target_update_interval=20)),
    "QRDQN": (QRDQN, True, dict(**OFF_POLICY, train_freq=1)),
    "PPO": (PPO, False, dict(n_steps=16, batch_size=16)),
    "PPO, Discrete": (PPO, True, dict(n_steps=16, batch_size=16)),
    "A2C": (A2C, False, {}),
}


def make(name, env=None):
    """A small agent that has not learned."""
    if name == "AsymSAC":
        return asym(env, **{**OFF_POLICY, "fast_update": False})
    algorithm, discrete, settings = CASES[name]
    arch = dict(net_arch=[12, 8], **({"n_quantiles": 7} if name in ("QRDQN", "TQC") else {}))
    return algorithm("MlpPolicy", env or RandomEnv(discrete=discrete), seed=0, device="cpu", policy_kwargs=arch, **settings)


def trained(name, scheme="int8", **kwargs):
    """An agent that has learned, half of the time quantized."""
    model = make(name)
    return model.learn(N_STEPS, callback=QuantizedTraining(scheme, delay=DELAY, **kwargs))


def acts(model):
    """Options and actions of a model, deterministic, on the same observations."""
    if isinstance(model, AsymSAC):
        action, state = model.predict(OBSERVATIONS, deterministic=True)
        return state[0], action
    action, _ = model.predict(OBSERVATIONS, deterministic=True)
    return np.zeros(len(OBSERVATIONS), dtype=np.int64), action.reshape(len(OBSERVATIONS), -1)


def same_rows(actions, others):
    """Share of the rows in which actions are the same but for rounding."""
    return (np.abs(actions - others).max(1) < 1e-4).mean()


@pytest.mark.parametrize(
    ("name", "scheme"), [*((name, "int8") for name in [*CASES, "AsymSAC"]), ("DQN", "int3"), ("TD3", "w4-tensor-affine")]
)
def test_what_is_deployed_is_what_was_trained(name, scheme):
    model = trained(name, scheme)
    agent, (options, actions) = deployable(model), acts(model)
    deployed = as_trained(agent)
    assert {network.precision for network in deployed.networks} == {Scheme.parse(scheme).name}
    np.testing.assert_array_equal(deployed.choices(OBSERVATIONS), options)
    others = deployed.actions(OBSERVATIONS, options)
    assert same_rows(actions, others) > 0.99  # a number may be rounded up in one and down in the other
    assert np.abs(actions - others).max() <= (0.5 if scheme != "w4-tensor-affine" else 1e-4)
    for part in deployed_networks(model.policy).values():
        for layer in linear_layers(part.modules):  # the weights lie on their grids
            np.testing.assert_allclose(layer.weight.detach(), layer.trained()[0], atol=1e-6)
    if scheme == "int8":
        exported = quantize(agent, "int8")  # no observations: the ranges are those of training
        np.testing.assert_array_equal(exported.actions(OBSERVATIONS, options), others)
        full = make(name).policy  # nothing about the parameters has changed, neither names nor order nor shapes
        named = [[(key, value.shape) for key, value in policy.named_parameters()] for policy in (full, model.policy)]
        assert named[0] == named[1]


@pytest.mark.parametrize("name", ["TD3", "PPO", "AsymSAC"])
def test_the_delay_changes_nothing(name):
    full = make(name)
    full.learn(DELAY)
    model = make(name)
    with pytest.warns(UserWarning, match="ended at timestep .* in full precision: delay is 1000"):
        model.learn(DELAY, callback=QuantizedTraining(delay=1000))
    for ours, theirs in zip(model.policy.parameters(), full.policy.parameters(), strict=True):
        assert th.equal(ours, theirs)
    np.testing.assert_array_equal(acts(model)[1], acts(full)[1])
    assert not any(network.is_trained_quantized for network in deployable(model).networks)


@pytest.mark.parametrize("name", ["TD3", "QRDQN", "PPO", "AsymSAC"])
def test_save_and_load(name, tmp_path):
    model = trained(name, "int4", critic=name != "QRDQN")
    model.save(tmp_path / "agent")
    loaded = load_model(tmp_path / "agent")
    fresh = make(name)
    QuantizedTraining("int4", critic=name != "QRDQN").init_callback(fresh)
    fresh.set_parameters(model.get_parameters())
    for other in (
        loaded,
        fresh,
        *([] if name == "PPO" else [copy.deepcopy(model)]),
    ):  # SB3 does not copy a PPO that has learned
        for ours, theirs in zip(acts(other), acts(model), strict=True):
            np.testing.assert_array_equal(ours, theirs)
        for ours, theirs in zip(deployable(other).networks, deployable(model).networks, strict=True):
            np.testing.assert_array_equal(ours.layers[1].trained.high, theirs.layers[1].trained.high)


def test_learning_goes_on_the_same_after_load(tmp_path):
    model = make("SAC")
    model.learn(N_STEPS, callback=[QuantizedTraining("int4", delay=DELAY)])
    model.save(tmp_path / "agent")
    loaded = SAC.load(tmp_path / "agent", device="cpu")
    loaded.replay_buffer = model.replay_buffer
    loaded.set_logger(model.logger)
    for agent in (model, loaded):
        agent.set_random_seed(1)
        agent.train(gradient_steps=10, batch_size=16)
    for ours, theirs in zip(model.policy.state_dict().items(), loaded.policy.state_dict().items(), strict=True):
        assert ours[0] == theirs[0]
        assert th.equal(ours[1], theirs[1])


@pytest.mark.parametrize(("name", "network", "target"), [("TD3", "actor", "actor_target"), ("DQN", "q_net", "q_net_target")])
def test_targets_calculate_as_the_networks_that_they_follow(name, network, target):
    policy = trained(name, "int2").policy
    parts = [getattr(policy, part) for part in (network, target)]
    parts[1].load_state_dict(parts[0].state_dict())
    policy.set_training_mode(False)
    obs = th.as_tensor(OBSERVATIONS)
    assert th.equal(parts[0](obs), parts[1](obs))
    assert len({float(value) for value in parts[0](obs)[:, 0].detach()}) < 250  # a few numbers only


def test_critic_on_request():
    policy = trained("SAC", critic=True).policy
    assert all(isinstance(network[0], QuantizedLinear) for network in policy.critic.q_networks)
    assert policy.critic_target.q_networks[1][2].quantizer is policy.critic.q_networks[1][2].quantizer
    assert not any(isinstance(layer, QuantizedLinear) for layer in trained("SAC").policy.critic.modules())
    assert isinstance(trained("PPO", critic=True).policy.value_net, QuantizedLinear)
    with pytest.raises(ValueError, match="has no critic apart"):
        trained("DQN", critic=True)


def test_ranges_are_those_of_training():
    model = make("SAC", normalized())
    model.learn(N_STEPS, callback=QuantizedTraining(delay=DELAY))
    stored = model.get_vec_normalize_env().normalize_obs(model.replay_buffer.observations[:N_STEPS, 0])
    low = model.policy.actor.latent_pi[0].quantizer.low.numpy()
    assert (low >= stored.min(0) - 1e-6).all()
    assert (low < stored.mean(0)).all()  # of batches, so it need not reach the least
    before = low.copy()
    model.predict(100 * OBSERVATIONS)
    np.testing.assert_array_equal(low, before)


def test_gradients_pass_straight_through_within_the_range():
    layer = nn.Linear(2, 1)
    layer.__class__, layer.quantizer = QuantizedLinear, Quantizer(Scheme.parse("int3"), 2, first=True)
    layer(th.tensor([[-1.0, 0.0], [1.0, 3.0]]))
    layer.quantizer.on = True
    layer.eval()
    x = th.tensor([[0.3, 2.0], [5.0, 1.0]], requires_grad=True)
    layer(x).sum().backward()
    quantized = layer.trained()[0][0]
    assert th.allclose(x.grad, th.stack([quantized, quantized * th.tensor([0.0, 1.0])]))
    step = th.tensor([2 / 7, 3 / 7])
    grid = th.tensor([[-1.0, 0.0]]) + step * th.tensor([[5, 5], [7, 2]])  # the nearest of 8 numbers of each input
    assert th.allclose(layer.weight.grad[0], grid.sum(0))


def test_a_network_learns_to_live_with_few_bits():
    th.manual_seed(0)
    x = th.rand(512, 2) * 2 - 1
    y = (x[:, :1] * x[:, 1:]).sin()

    def fit(network, n_steps):
        optimizer = th.optim.Adam(network.parameters(), lr=3e-3)
        for _ in range(n_steps):
            optimizer.zero_grad()
            nn.functional.mse_loss(network(x), y).backward()
            optimizer.step()

    def error_quantized(network):
        layers = [layer for layer in network if isinstance(layer, nn.Linear)]
        for index, layer in enumerate(layers):
            layer.__class__, layer.quantizer = QuantizedLinear, Quantizer(Scheme.parse("int3"), layer.in_features, index == 0)
        network(x)
        for layer in layers:
            layer.quantizer.on = True
        return float(nn.functional.mse_loss(network(x), y).detach())

    network = nn.Sequential(nn.Linear(2, 16), nn.ReLU(), nn.Linear(16, 16), nn.ReLU(), nn.Linear(16, 1))
    fit(network, 500)
    after_training = error_quantized(network)
    fit(network, 300)
    assert float(nn.functional.mse_loss(network(x), y)) < 0.7 * after_training


@pytest.mark.parametrize(("export", "scheme"), [(export_c, "int8"), (export_onnx, "int8"), (export_c, "int4")])
def test_exports_do_what_was_trained(export, scheme, tmp_path):
    report = export(trained("SAC", scheme), tmp_path / "robot", precision="int8")  # no env: there is nothing to calibrate
    assert report.selftest_failures == 0
    assert report.mean_action_error < 1e-3
    assert report.precision == {"policy": "int8"}


def test_onnx_has_no_activations_of_few_bits(tmp_path):
    with pytest.raises(ValueError, match="fewer than 8 bits, which ONNX cannot hold: export to C"):
        export_onnx(trained("SAC", "int4"), tmp_path / "robot", precision="int8")


def test_fewer_bits_in_int8():
    """Weights and inputs of 4 bits, within the ranges of training and beyond."""
    model = trained("TD3", "int4")
    agent, (options, _) = deployable(model), acts(model)
    held = quantize(agent, "int8")
    first, second = held.sub_policies[0].layers[:2]
    assert np.abs(second.weight).max() == 7
    assert first.greatest == second.greatest == 15
    assert same_rows(held.actions(OBSERVATIONS, options), as_trained(agent).actions(OBSERVATIONS, options)) > 0.95


def test_compiled_update_stands_back(make_agent):
    agent = make_agent(DriftEnv())
    update = CompiledUpdate(agent)
    update._bind()
    callback = QuantizedTraining()
    callback.init_callback(agent)
    with pytest.raises(CompiledUpdateUnavailable, match="training is quantized"):
        update._bind()
    update.release()
    assert "training is quantized" in obstacle_to_compiling(agent)


def test_another_scheme_takes_over():
    model = trained("TD3", "int8")
    model.learn(40, callback=QuantizedTraining("int4"), reset_num_timesteps=False)
    assert isinstance(model.policy_class, QuantizedPolicy)
    assert as_trained(deployable(model)).networks[0].precision == "int4"
    assert not isinstance(model.policy_class.policy_class, QuantizedPolicy)


def test_bad_input():
    with pytest.raises(ValueError, match="such as int8, int4 or w4, not in fp16"):
        QuantizedTraining("fp16")
    with pytest.raises(ValueError, match="2 to 8 bits, got 9"):
        QuantizedTraining("int9")
    with pytest.raises(ValueError, match="delay must be at least 0 env steps, got -1"):
        QuantizedTraining(delay=-1)
    for cost_coef in ("dial", "auto_0.4"):
        dialled = asym(cost_coef=cost_coef)
        with pytest.raises(ValueError, match="make the agent with a number as cost_coef"):
            dialled.learn(10, callback=QuantizedTraining())
        assert type(dialled.policy.actor.mu) is nn.Linear
    images = RandomEnv(spaces.Box(0, 255, (3, 36, 36), np.uint8), discrete=True)
    model = DQN("CnnPolicy", images, device="cpu", buffer_size=10)
    with pytest.raises(ValueError, match="cannot be exported"):
        model.learn(10, callback=QuantizedTraining())
