"""Bad input gets one clear sentence; numbers that are not finite stop training, after the agent was saved."""

import re
import zipfile

import gymnasium as gym
import numpy as np
import pytest
import torch as th
from envs import ChainEnv, DriftEnv, GoalChainEnv
from gymnasium import spaces
from stable_baselines3 import DQN, SAC
from stable_baselines3.common.envs import IdentityEnv
from stable_baselines3.common.vec_env import DummyVecEnv, VecNormalize

from sb3_asym import AsymSAC, OptionWrapper

NETS = dict(small=[4], large=[16])


class OtherSpaces(gym.Wrapper):
    """An env whose spaces differ in size."""

    def __init__(self, env, **sizes):
        super().__init__(env)
        for name, size in sizes.items():
            setattr(self, name, spaces.Box(-1.0, 1.0, (size,)))


class Spoiled(gym.Wrapper):
    """Replaces what the env returns in one step of the run."""

    def __init__(self, env, at, obs=None, reward=None, end=False):
        super().__init__(env)
        self.at, self.obs, self.reward, self.end, self.n_steps = at, obs, reward, end, 0

    def step(self, action):
        obs, reward, terminated, truncated, info = self.env.step(action)
        self.n_steps += 1
        if self.n_steps == self.at:
            reward = reward if self.reward is None else self.reward
            obs = obs if self.obs is None else np.full_like(obs, self.obs)
            terminated = terminated or self.end
        return obs, reward, terminated, truncated, info


# --- arguments ---


@pytest.mark.parametrize(
    ("settings", "error", "message"),
    [
        (dict(option_length=0), ValueError, r"option_length must be an integer of at least 1 env step, got 0"),
        (dict(option_length=-2), ValueError, r"option_length .* got -2"),
        (dict(option_length=2.5), ValueError, r"option_length .* got 2\.5"),
        (dict(option_length="5"), ValueError, r"option_length .* got '5'"),
        (dict(cost_coef=-0.1), ValueError, r"cost_coef .* at least 0, got -0\.1"),
        (dict(cost_coef=float("nan")), ValueError, r"cost_coef .* got nan"),
        (dict(cost_coef=float("inf")), ValueError, r"cost_coef .* got inf"),
        (dict(cost_coef="0.1"), (TypeError, ValueError), r"cost_coef .* got '0\.1'"),
        (dict(cost_coef=lambda progress: -0.1), ValueError, r"cost_coef .* got -0\.1"),
        (dict(critic="both"), ValueError, r"critic must be \"shared\", \"separate\" or \"option\", got 'both'"),
        (dict(master_kwargs=dict(learning_rat=0.1)), ValueError, r"master_kwargs takes .*learning_rate.* got learning_rat\b"),
        (dict(master_kwargs=dict(gamma=0.9, policy="x")), ValueError, r"master_kwargs takes .* got gamma, policy"),
        (dict(env=IdentityEnv(3)), ValueError, r"only supports .*Box.* as action spaces but Discrete\(3\)"),
        (dict(policy="MlpLstmPolicy"), ValueError, r"Policy MlpLstmPolicy unknown"),
        (dict(env=GoalChainEnv()), ValueError, r"You must use `MultiInputPolicy`"),
    ],
)
def test_arguments_out_of_range(make_agent, settings, error, message):
    with pytest.raises(error, match=message):
        make_agent(**settings)


@pytest.mark.parametrize(
    ("policy_kwargs", "error", "message"),
    [
        (dict(sub_net_archs=dict(only=[8])), ValueError, r"at least two sub-policies, got 1"),
        (dict(sub_net_archs={}), ValueError, r"at least two sub-policies, got 0"),
        (
            dict(sub_net_archs=dict(large=[16], small=[4])),
            ValueError,
            r"from cheapest to most expensive; their FLOPs are: large \d+, small \d+",
        ),
        (dict(sub_net_archs=[[4], [16]]), TypeError, r"sub_net_archs must map names to layers.* got \[\[4\], \[16\]\]"),
        (
            dict(sub_net_archs={"": [4], "large": [16]}),
            ValueError,
            r"needs a name and layers of at least one unit, got '': \[4\]",
        ),
        (dict(sub_net_archs=dict(small=[-8], large=[16])), ValueError, r"at least one unit, got 'small': \[-8\]"),
        (dict(net_arch=[8, 0]), ValueError, r"at least one unit, got 'small': \[4, 0\]"),
        (dict(sub_net_archs=NETS, net_arch=[16]), ValueError, r"either net_arch .* or sub_net_archs .* not both"),
        (dict(sub_net_archs=NETS, critic_net_arch=dict(small=[4], huge=[8])), ValueError, r"names \['small', 'large'\].*huge"),
        (dict(sub_net_archs=NETS, critic_net_arch=dict(small=[4])), ValueError, r"names \['small', 'large'\]"),
    ],
)
def test_policy_arguments_out_of_range(make_agent, policy_kwargs, error, message):
    with pytest.raises(error, match=message):
        make_agent(critic="separate", policy_kwargs=policy_kwargs)


def test_shared_critic_has_one_size(make_agent):
    with pytest.raises(ValueError, match="critic_net_arch by name needs critic='separate'"):
        make_agent(policy_kwargs=dict(sub_net_archs=NETS, critic_net_arch=dict(small=[4], large=[8])))


@pytest.mark.parametrize("name", ["master", "train", "asym"])
def test_names_of_sub_policies_do_not_clash_in_the_log(make_agent, name):
    with pytest.raises(ValueError, match=f"{name!r}"):
        make_agent(policy_kwargs=dict(sub_net_archs={name: [4], "large": [16]}))


def test_schedule_that_turns_negative_stops_training(make_agent):
    with pytest.raises(ValueError, match=r"cost_coef .* at least 0, got -"):
        make_agent(cost_coef=lambda progress: progress - 0.5).learn(100)


def test_option_wrapper_checks_its_arguments():
    with pytest.raises(ValueError, match="at least two sub-policies, got 1"):
        OptionWrapper(DriftEnv(), [SAC("MlpPolicy", DriftEnv())])


def test_predict_explains_what_it_cannot_take(make_agent):
    model = make_agent()
    with pytest.raises(ValueError, match=r"obs, info = env\.reset\(\)"):
        model.predict(DriftEnv().reset())
    _, state = model.predict(np.zeros((2, 1), dtype=np.float32))
    with pytest.raises(ValueError, match="option state has 2 rows but there are 3 envs: pass state=None to start over"):
        model.predict(np.zeros((3, 1), dtype=np.float32), state)


# --- files ---


@pytest.mark.parametrize("algorithm", [SAC, DQN])
def test_agents_of_other_algorithms_are_not_loaded(tmp_path, algorithm):
    env = DriftEnv() if algorithm is SAC else IdentityEnv(3)
    algorithm("MlpPolicy", env, buffer_size=10).save(tmp_path / "other")
    with pytest.raises(ValueError, match=rf"other is not a model that AsymSAC saved.*{algorithm.__name__}"):
        AsymSAC.load(tmp_path / "other")


def test_load_blames_what_is_wrong(make_agent, tmp_path):
    make_agent().save(tmp_path / "agent")
    with pytest.raises(ValueError, match="There is no device 'cudo' here: choose cpu, cuda or auto"):
        AsymSAC.load(tmp_path / "agent", device="cudo")
    with pytest.raises(ValueError, match="Observation spaces do not match"):
        AsymSAC.load(tmp_path / "agent", env=GoalChainEnv())

    class Broken(AsymSAC):
        def _setup_model(self):
            raise TypeError("a fault of the subclass")

    with pytest.raises(TypeError, match="a fault of the subclass"):
        Broken.load(tmp_path / "agent")


@pytest.mark.parametrize("damage", ["truncated", "text", "empty", "no data", "overwritten"])
def test_damaged_files_are_named(make_agent, tmp_path, damage):
    path = tmp_path / "agent.zip"
    make_agent().save(path)
    content = path.read_bytes()
    if damage == "no data":
        with zipfile.ZipFile(path, "w") as archive:
            archive.writestr("readme.txt", "nothing")
    else:
        middle = len(content) // 2
        damaged = dict(
            truncated=content[:middle],
            text=b"hello",
            empty=b"",
            overwritten=content[:middle] + b"x" * 9 + content[middle + 9 :],
        )
        path.write_bytes(damaged[damage])
    with pytest.raises(ValueError, match=r"agent\.zip"):
        AsymSAC.load(path)


def test_missing_file_is_named(tmp_path):
    with pytest.raises(FileNotFoundError, match=r"There is no file .*nowhere"):
        AsymSAC.load(tmp_path / "nowhere")


@pytest.mark.parametrize(
    ("sizes", "message"),
    [
        (dict(observation_space=2), r"Observation spaces do not match: .*\(1,\).* != .*\(2,\)"),
        (dict(action_space=2), r"Action spaces do not match: .*\(1,\).* != .*\(2,\)"),
    ],
)
def test_env_with_other_spaces_is_refused(make_agent, tmp_path, sizes, message):
    model = make_agent()
    model.save(tmp_path / "agent")
    env = OtherSpaces(DriftEnv(), **sizes)
    with pytest.raises(ValueError, match=message):
        model.set_env(env)
    with pytest.raises(ValueError, match=message):
        AsymSAC.load(tmp_path / "agent", env=env)


# --- numbers that are not finite ---


def assert_stops(model, message, total_timesteps=60):
    """Training stops with the message, after saving an agent that loads; returns it."""
    with pytest.raises(FloatingPointError, match=message) as stop:
        model.learn(total_timesteps)
    path = re.search(r"saved as (\S+\.zip)", str(stop.value)).group(1)
    saved = AsymSAC.load(path, env=DriftEnv())
    assert saved.num_timesteps == model.num_timesteps
    return saved


@pytest.fixture
def log_folder(tmp_path, monkeypatch):
    """Where SB3 logs when it was not told to."""
    monkeypatch.setenv("SB3_LOGDIR", str(tmp_path))


@pytest.mark.usefixtures("log_folder")
@pytest.mark.parametrize("at", [10, 40])
@pytest.mark.parametrize(
    ("spoiled", "message"),
    [
        (dict(reward=float("nan")), r"reward of env 0 is nan at timestep {}"),
        (dict(reward=float("-inf")), r"reward of env 0 is -inf at timestep {}"),
        (dict(obs=np.inf), r"observation of env 0 is \[inf\] at timestep {}"),
        (dict(obs=np.nan, end=True), r"observation of env 0 is \[nan\] at timestep {}"),
    ],
    ids=["NaN reward", "infinite reward", "infinite observation", "NaN last observation"],
)
def test_what_the_env_returns_must_be_finite(make_agent, at, spoiled, message):
    saved = assert_stops(make_agent(Spoiled(DriftEnv(), at, **spoiled)), message.format(at))
    saved.learn(30, reset_num_timesteps=False)
    assert saved.num_timesteps == at + 30


@pytest.mark.usefixtures("log_folder")
@pytest.mark.parametrize("normalize", [False, True])
def test_message_names_the_env(make_agent, normalize):
    env = DummyVecEnv([DriftEnv, lambda: Spoiled(DriftEnv(), 15, reward=float("nan"))])
    model = make_agent(VecNormalize(env) if normalize else env)
    with pytest.raises(FloatingPointError, match="reward of env 1 is nan at timestep 30"):
        model.learn(60)


@pytest.mark.usefixtures("log_folder")
def test_message_names_the_key_of_a_dict_observation(make_agent):
    class SpoiledPlace(GoalChainEnv):
        def _observation(self):
            return dict(super()._observation(), observation=np.array([np.inf if self.place == 3 else 0.0], dtype=np.float32))

    with pytest.raises(FloatingPointError, match=r"\bobservation of env 0 is \[inf\] at timestep 3"):
        make_agent(SpoiledPlace(), "MultiInputPolicy").learn(60)


@pytest.mark.usefixtures("log_folder")
def test_first_observation_must_be_finite(make_agent):
    class SpoiledStart(ChainEnv):
        def reset(self, **kwargs):
            return super().reset(**kwargs)[0] * np.nan, {}

    with pytest.raises(FloatingPointError, match=r"observation of env 0 is \[nan\] at timestep [01]\b"):
        make_agent(SpoiledStart()).learn(10)


@pytest.mark.usefixtures("log_folder")
@pytest.mark.parametrize("critic", ["shared", "separate", "option"])
@pytest.mark.parametrize(
    ("network", "message"), [("critics", "critic loss is .*nan"), ("master", "master loss is .*nan"), ("actors", "actor")]
)
def test_losses_must_be_finite(make_agent, critic, network, message):
    model = make_agent(critic=critic, learning_starts=30, master_kwargs=dict(exploration_final_eps=1.0)).learn(30)
    with th.no_grad():
        next(model.policy.get_submodule(network).parameters()).fill_(float("nan"))
    with pytest.raises(FloatingPointError, match=rf"{message}.* at timestep \d+.* saved as .*\.zip"):
        model.learn(30, reset_num_timesteps=False)


@pytest.mark.usefixtures("log_folder")
def test_the_reason_is_told_where_the_agent_cannot_be_saved(make_agent, monkeypatch):
    """As on a disk that is full."""
    agent = make_agent(Spoiled(DriftEnv(), 10, reward=float("nan")))
    monkeypatch.setattr(agent, "save", lambda path: (_ for _ in ()).throw(OSError("No space left on device")))
    with pytest.raises(FloatingPointError, match=r"reward of env 0 is nan at timestep 10.*could not be saved.*No space left"):
        agent.learn(60)


@pytest.mark.usefixtures("log_folder")
def test_diverging_networks_stop_training(make_agent):
    assert_stops(make_agent(learning_rate=1e20), r"is (nan|inf|-inf|\[).* at timestep 2\d")


def test_agent_is_saved_beside_the_log(make_agent, tmp_path):
    model = make_agent(Spoiled(DriftEnv(), 10, reward=float("nan")), tensorboard_log=str(tmp_path))
    assert_stops(model, "at timestep 10")
    assert [path.parent.name for path in tmp_path.rglob("*.zip")] == ["AsymSAC_1"]
