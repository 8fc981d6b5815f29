"""Policies on images: their weights are quantized, and they are measured as others are."""

import gymnasium as gym
import numpy as np
import pytest
from gymnasium import spaces
from sb3_contrib import QRDQN
from stable_baselines3 import DQN, PPO, SAC, TD3

from sb3_asym import AsymSAC
from sb3_asym.quantization import Scheme, quantize, sweep
from sb3_asym.quantization.images import acting_layers, image_agent, quantize_policy
from sb3_asym.quantization.schemes import fake_quantize, weight_grid


class Spot(gym.Env):
    """
    An image with a bright spot on its left or right half: pushing to its side earns 1.

    :param discrete: whether actions are
    :param channels_first: whether the channel is the first axis
    """

    def __init__(self, discrete=True, channels_first=False):
        self.channels_first = channels_first
        self.observation_space = spaces.Box(0, 255, (1, 36, 36) if channels_first else (36, 36, 1), np.uint8)
        self.action_space = spaces.Discrete(2) if discrete else spaces.Box(-1.0, 1.0, (1,))

    def reset(self, *, seed=None, options=None):
        super().reset(seed=seed)
        self.steps = 0
        return self._draw(), {}

    def step(self, action):
        wanted = 1 if self.right else -1
        given = 2 * action - 1 if isinstance(self.action_space, spaces.Discrete) else float(action[0])
        self.steps += 1
        return self._draw(), float(wanted * given), False, self.steps >= 5, {}

    def _draw(self):
        self.right = bool(self.np_random.integers(2))
        image = self.np_random.integers(0, 40, self.observation_space.shape, dtype=np.uint8)
        column = 18 * self.right + int(self.np_random.integers(12))
        (image[0] if self.channels_first else image[:, :, 0])[8:24, column : column + 6] = 255
        return image


def small(algorithm, env, **kwargs):
    """A model on images, with few features."""
    kwargs |= dict(policy_kwargs=dict(features_extractor_kwargs=dict(features_dim=16)))
    return algorithm("CnnPolicy", env, seed=0, device="cpu", **kwargs)


KINDS = {
    "DQN": lambda: small(DQN, Spot(), buffer_size=50),
    "DQN, channels first": lambda: small(DQN, Spot(channels_first=True), buffer_size=50),
    "QRDQN": lambda: small(QRDQN, Spot(), buffer_size=50),
    "PPO": lambda: small(PPO, Spot(), n_steps=8, batch_size=8),
    "SAC": lambda: small(SAC, Spot(discrete=False), buffer_size=50),
    "TD3": lambda: small(TD3, Spot(discrete=False), buffer_size=50),
}


@pytest.mark.parametrize("kind", KINDS)
def test_an_agent_on_images_acts_as_predict_does(kind):
    model = KINDS[kind]()
    env = Spot(isinstance(model.action_space, spaces.Discrete), kind == "DQN, channels first")
    agent = image_agent(model, env)
    images = [env.reset(seed=seed)[0] for seed in range(20)]
    flat = np.stack([agent.flatten(image) for image in images])
    actions = agent.actions(flat, np.zeros(20, dtype=int))
    wanted = np.stack([np.ravel(model.predict(image, deterministic=True)[0]) for image in images])
    assert np.allclose(actions, wanted, atol=1e-5)

    form = quantize(agent, "w8")
    copied = form.sub_policies[0].policy
    wanted = np.stack([np.ravel(copied.predict(image, deterministic=True)[0]) for image in images])
    assert np.allclose(form.actions(flat, np.zeros(20, dtype=int)), wanted, atol=1e-5)
    assert [network.precision for network in form.networks] == ["w8"]


@pytest.mark.parametrize("kind", ["DQN", "PPO", "SAC"])
def test_weights_of_convolutions_lie_on_grids_and_the_model_keeps_its_own(kind):
    model = KINDS[kind]()
    before = [layer.weight.detach().clone().numpy() for layer in acting_layers(model.policy)]
    assert [weight.ndim for weight in before[:3]] == [4, 4, 4]
    for scheme in (Scheme(4), Scheme(2, None, False, False)):
        after = [layer.weight.detach().numpy() for layer in acting_layers(quantize_policy(model.policy, scheme))]
        for weight, quantized in zip(before, after, strict=True):
            assert np.array_equal(quantized, fake_quantize(weight, weight_grid(weight, scheme)))
            assert all(len(np.unique(channel)) <= 2**scheme.weight_bits for channel in quantized)
    assert all(np.array_equal(w, layer.weight.detach()) for w, layer in zip(before, acting_layers(model.policy), strict=True))


def test_bytes_of_convolutions():
    agent = image_agent(KINDS["PPO"](), Spot())
    layers = list(acting_layers(agent.sub_policies[0].policy))
    n_weights, n_biases = sum(layer.weight.numel() for layer in layers), sum(layer.bias.numel() for layer in layers)
    assert agent.n_bytes == {"policy": 4 * (n_weights + n_biases)}
    assert quantize(agent, "fp16").n_bytes == {"policy": 2 * (n_weights + n_biases)}
    assert quantize(agent, "w4").n_bytes == {"policy": n_weights // 2 + 8 * n_biases}


def test_a_policy_that_learned_to_see_is_swept(tmp_path):
    model = small(PPO, Spot(), n_steps=128, batch_size=32, n_epochs=4, learning_rate=1e-3).learn(640)
    report = sweep(model, Spot, output=tmp_path / "out", n_eval_episodes=6)
    assert report.form("fp32").mean_reward > 4  # by chance it is 0
    assert report.form("w8").choices_as_before > 0.9
    assert report.form("w8").relative_error < 0.1
    assert not [form.scheme for form in report.forms if Scheme.parse(form.scheme).needs_observations]
    assert report.form("w2").n_bytes < 0.1 * report.form("fp32").n_bytes
    assert report.form("w2").layers[0].error > report.form("w8").layers[0].error
    assert {path.name for path in (tmp_path / "out").iterdir()} == {"report.json", "report.csv", "sweep.png"}


@pytest.mark.parametrize("text", ["int8", "w4a8", "w4-gptq"])
def test_schemes_that_need_observations_are_refused_on_images(text):
    with pytest.raises(ValueError, match=f"weights alone quantized, to the nearest: choose w[48] for {text}"):
        sweep(KINDS["DQN"](), Spot, [text], n_eval_episodes=1)


def test_an_agent_that_switches_on_images_is_refused():
    settings = dict(sub_net_archs=dict(small=[4], large=[8]), features_extractor_kwargs=dict(features_dim=8))
    model = AsymSAC("CnnPolicy", Spot(discrete=False), buffer_size=50, device="cpu", policy_kwargs=settings)
    with pytest.raises(ValueError, match="Only vectors of numbers and single images can be quantized"):
        sweep(model, lambda: Spot(discrete=False), n_eval_episodes=1)
