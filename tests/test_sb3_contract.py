"""What users do with SAC works with AsymSAC: arguments, training, callbacks, logging, prediction and saving."""

import inspect
import io
import pickle
from functools import partial

import numpy as np
import pytest
import torch as th
from envs import ChainEnv, DriftEnv
from stable_baselines3 import SAC
from stable_baselines3.common.buffers import ReplayBuffer
from stable_baselines3.common.callbacks import (
    CallbackList,
    CheckpointCallback,
    ConvertCallback,
    EvalCallback,
    EveryNTimesteps,
    StopTrainingOnMaxEpisodes,
    StopTrainingOnRewardThreshold,
)
from stable_baselines3.common.env_util import make_vec_env
from stable_baselines3.common.evaluation import evaluate_policy
from stable_baselines3.common.logger import configure
from stable_baselines3.common.noise import NormalActionNoise
from stable_baselines3.common.vec_env import DummyVecEnv, SubprocVecEnv
from trees import assert_same_tree

from sb3_asym import AsymSAC

THREE = dict(sub_net_archs=dict(small=[4], medium=[8], large=[16]), master_net_arch=[8])
CRITICS = pytest.mark.parametrize("critic", ["shared", "separate", "option"])


def weights_of(model):
    return {name: value.clone() for name, value in model.policy.state_dict().items()}


# --- arguments ---


def test_positional_arguments_come_in_the_order_of_sac():
    noise = NormalActionNoise(np.zeros(1), np.ones(1))
    values = dict(policy="MlpPolicy", env=DriftEnv(), learning_rate=1e-3, buffer_size=300, learning_starts=7)
    values |= dict(batch_size=9, tau=0.02, gamma=0.9, train_freq=2, gradient_steps=3, action_noise=noise)
    values |= dict(replay_buffer_class=ReplayBuffer, replay_buffer_kwargs=dict(handle_timeout_termination=False))
    values |= dict(optimize_memory_usage=True, n_steps=1, ent_coef="auto_0.1", target_update_interval=2)
    values |= dict(target_entropy=-0.5, use_sde=False, sde_sample_freq=5, use_sde_at_warmup=True, stats_window_size=10)
    values |= dict(tensorboard_log=None, policy_kwargs=dict(net_arch=[16]), verbose=0, seed=3, device="cpu")
    assert list(values) == list(inspect.signature(SAC).parameters)[: len(values)]
    sac = SAC(*values.values())
    values["policy_kwargs"] = dict(net_arch=[16])
    for model in (AsymSAC(*values.values()), AsymSAC(**values)):
        for name in set(values) & set(vars(sac)) - {"policy", "env", "policy_kwargs", "train_freq"}:
            assert getattr(model, name) == getattr(sac, name), name
        assert (model.train_freq, model._stats_window_size) == (sac.train_freq, 10)
        assert model.policy.sub_net_archs == dict(small=[4], large=[16])


def test_n_steps_by_position():
    arguments = [parameter.default for parameter in inspect.signature(SAC).parameters.values()][2:]
    position = list(inspect.signature(SAC).parameters).index("n_steps")
    model = AsymSAC("MlpPolicy", DriftEnv(), *arguments[: position - 2], 3)
    assert (model.n_steps, model.critic_kind) == (3, "shared")


def test_arguments_can_be_passed_on_to_the_next_agent(make_agent):
    policy_kwargs, master_kwargs = dict(net_arch=[8]), dict(learning_rate=1e-3)
    make_agent(policy_kwargs=policy_kwargs, master_kwargs=master_kwargs, critic="separate")
    assert master_kwargs == dict(learning_rate=1e-3)
    # SB3 itself adds use_sde.
    assert set(policy_kwargs) <= {"net_arch", "use_sde"}
    SAC("MlpPolicy", DriftEnv(), policy_kwargs=policy_kwargs)


@pytest.mark.parametrize("net_arch", [None, [16, 8], dict(pi=[16], qf=[24, 24])])
def test_net_arch_of_sac_sizes_the_largest_sub_policy(net_arch):
    sac, model = (
        make("MlpPolicy", env=DriftEnv(), policy_kwargs={} if net_arch is None else dict(net_arch=net_arch))
        for make in (SAC, partial(AsymSAC, critic="shared"))
    )
    for name in ("actor", "critic", "critic_target"):
        expected = [weight.shape for weight in getattr(sac, name).parameters()]
        assert [weight.shape for weight in getattr(model, name).parameters()] == expected


@pytest.mark.parametrize(
    ("train_freq", "gradient_steps"),
    [(1, 2), (4, 1), ((4, "step"), -1), ((1, "episode"), -1), ((2, "episode"), 3), (1, 0)],
)
def test_updates_are_as_many_as_with_sac(make_agent, train_freq, gradient_steps):
    settings = dict(train_freq=train_freq, gradient_steps=gradient_steps, learning_starts=10, batch_size=4)
    model = make_agent(ChainEnv(), **settings).learn(40)
    sac = SAC("MlpPolicy", ChainEnv(), **settings, policy_kwargs=dict(net_arch=[4])).learn(40)
    assert model._n_updates == sac._n_updates
    assert model.num_timesteps == sac.num_timesteps


@CRITICS
@pytest.mark.parametrize(("ent_coef", "start"), [("auto", 1.0), ("auto_0.1", 0.1), (0.01, 0.01)])
def test_entropy_coefficient_is_learned_or_fixed(make_agent, critic, ent_coef, start):
    model = make_agent(ent_coef=ent_coef, target_entropy=-0.5, critic=critic, learning_rate=1e-2)
    learned = ent_coef != 0.01
    before = model.log_ent_coef.exp().tolist() if learned else [model.ent_coef_tensor.item()]
    assert before == pytest.approx([start] * len(before))
    model.learn(40)
    assert model.target_entropy == -0.5
    if learned:
        assert all(value != pytest.approx(start, rel=1e-3) for value in model.log_ent_coef.exp().tolist())
    else:
        assert model.ent_coef_optimizer is None
        assert model.ent_coef_tensor.item() == pytest.approx(0.01)


@CRITICS
def test_learning_rate_schedule_reaches_every_network(make_agent, critic):
    model = make_agent(learning_rate=lambda progress: 1e-3 * progress, critic=critic)
    networks = [*model.policy.actors, *model.policy.critics, model.policy.master]
    optimizers = [network.optimizer for network in networks] + [model.ent_coef_optimizer]
    assert {optimizer.param_groups[0]["lr"] for optimizer in optimizers} == {1e-3}
    model.learn(60)
    assert all(optimizer.param_groups[0]["lr"] < 1e-4 for optimizer in optimizers)


def test_cost_coef_schedule_follows_progress(make_agent):
    model = make_agent(cost_coef=lambda progress: 2 * progress)
    assert model.master.cost_coef == pytest.approx(2.0)
    model.learn(50)
    assert model.master.cost_coef == pytest.approx(0.0)
    model.learn(50)
    assert make_agent(cost_coef=0.3).master.cost_coef == pytest.approx(0.3)


# --- training ---


@pytest.mark.parametrize(
    ("critic", "vec_env_cls"), [("shared", DummyVecEnv), ("separate", DummyVecEnv), ("shared", SubprocVecEnv)]
)
def test_several_envs(make_agent, critic, vec_env_cls):
    env = make_vec_env(DriftEnv, n_envs=2, seed=0, vec_env_cls=vec_env_cls)
    model = make_agent(env, critic=critic, train_freq=2, gradient_steps=-1).learn(60)
    assert model.num_timesteps == 60
    assert model._n_updates == 40
    assert model.option_memory.size() > 0
    assert evaluate_policy(model, env, n_eval_episodes=4)[0] < 0
    env.close()


def test_episodic_training_takes_one_env_as_with_sac(make_agent):
    env = make_vec_env(DriftEnv, n_envs=2)
    with pytest.raises(AssertionError, match="only one env when doing episodic training"):
        make_agent(env, train_freq=(1, "episode")).learn(60)


@CRITICS
def test_all_sub_policies_and_the_master_learn(make_agent, critic):
    model = make_agent(policy_kwargs=dict(THREE), critic=critic)
    before = weights_of(model)
    model.learn(60)
    after = weights_of(model)
    for name in ("actors.0", "actors.1", "actors.2", "critics.0", "critic_targets.0", "master.q_net"):
        changed = [not th.equal(before[key], after[key]) for key in before if key.startswith(f"{name}.")]
        assert changed, name
        assert any(changed), name
    assert len(model.policy.critics) == (3 if critic == "separate" else 1)


@CRITICS
def test_a_seed_fixes_the_run(make_agent, critic):
    def run(seed):
        model = make_agent(make_vec_env(DriftEnv, n_envs=2, seed=seed), critic=critic, seed=seed).learn(50)
        return model.get_parameters(), model.replay_buffer.rewards, model.option_memory.options

    assert_same_tree(run(1), run(1))
    assert not np.array_equal(run(1)[1], run(2)[1])


def test_learn_again_and_again(make_agent):
    model = make_agent(action_noise=NormalActionNoise(np.zeros(1), 0.1 * np.ones(1)))
    for round_ in range(1, 4):
        model.learn(30, reset_num_timesteps=False)
        assert model.num_timesteps == 30 * round_
    assert model.replay_buffer.size() == 90
    assert model._n_updates == 70
    model.learn(30)
    assert model.num_timesteps == 30
    assert model.replay_buffer.size() == 120


def test_progress_bar(make_agent):
    assert make_agent().learn(30, progress_bar=True).num_timesteps == 30


# --- callbacks ---


@CRITICS
def test_eval_callback_keeps_the_best_agent(make_agent, tmp_path, critic):
    model = make_agent(critic=critic)
    stop = StopTrainingOnRewardThreshold(reward_threshold=-1e9)
    callback = EvalCallback(
        make_vec_env(DriftEnv, n_envs=2),
        callback_on_new_best=stop,
        n_eval_episodes=2,
        eval_freq=25,
        log_path=str(tmp_path),
        best_model_save_path=str(tmp_path),
        verbose=0,
    )
    model.learn(60, callback)
    assert model.num_timesteps == 25
    assert np.load(tmp_path / "evaluations.npz")["results"].shape == (1, 2)
    assert_same_tree(AsymSAC.load(tmp_path / "best_model").get_parameters(), model.get_parameters())


def test_checkpoint_callback_saves_agent_and_memory(make_agent, tmp_path):
    callback = CheckpointCallback(20, str(tmp_path), name_prefix="agent", save_replay_buffer=True)
    seen = []
    every_ten = EveryNTimesteps(10, ConvertCallback(lambda locals_, _: seen.append(locals_["self"].num_timesteps) or True))
    model = make_agent().learn(45, CallbackList([callback, every_ten]))
    assert seen == [10, 20, 30, 40]
    for steps in (20, 40):
        assert (tmp_path / f"agent_{steps}_steps.zip").exists()
        assert (tmp_path / f"agent_replay_buffer_{steps}_steps.pkl").exists()
    resumed = AsymSAC.load(tmp_path / "agent_40_steps", env=model.env)
    resumed.load_replay_buffer(tmp_path / "agent_replay_buffer_40_steps")
    # Callbacks run before the step's transition is stored.
    assert resumed.replay_buffer.size() == 39
    assert resumed.learn(20, reset_num_timesteps=False).num_timesteps == 60


def test_training_stops_after_episodes(make_agent):
    assert make_agent(ChainEnv(lengths=(5,))).learn(200, StopTrainingOnMaxEpisodes(8)).num_timesteps == 40


def test_training_stops_where_a_callback_says_so_and_goes_on_later(make_agent):
    model = make_agent().learn(100, lambda locals_, globals_: locals_["self"].num_timesteps < 32)
    assert model.num_timesteps == 32
    model.learn(28, reset_num_timesteps=False)
    assert model.num_timesteps == 60
    assert model.option_memory.lengths.max() <= model.option_length


# --- logging ---


@CRITICS
def test_tensorboard_log(make_agent, tmp_path, critic):
    event_accumulator = pytest.importorskip("tensorboard.backend.event_processing.event_accumulator")
    model = make_agent(tensorboard_log=str(tmp_path), critic=critic).learn(80, log_interval=2)
    model.learn(40, tb_log_name="second")
    assert {path.name for path in tmp_path.iterdir()} == {"AsymSAC_1", "second_1"}
    events = event_accumulator.EventAccumulator(str(tmp_path / "AsymSAC_1")).Reload()
    expected = {f"train/{key}" for key in ("actor_loss", "critic_loss", "ent_coef", "ent_coef_loss", "learning_rate")}
    expected |= {"rollout/ep_rew_mean", "rollout/ep_len_mean", "time/fps", "master/loss", "master/exploration_rate"}
    expected |= {"asym/flops_per_inference", "asym/flops_reduction", "asym/switches_per_episode"}
    for name in ("small", "large"):
        expected |= {f"asym/{name}_use", f"{name}/actor_loss", f"{name}/ent_coef", f"{name}/ent_coef_loss"}
        expected |= {f"{name}/critic_loss"} if critic == "separate" else set()
    expected |= {"master/cost_coef"} if critic == "option" else set()
    assert expected <= set(events.Tags()["scalars"])
    assert ("small/critic_loss" in events.Tags()["scalars"]) == (critic == "separate")
    use = [[event.value for event in events.Scalars(f"asym/{name}_use")] for name in ("small", "large")]
    assert np.sum(use, axis=0) == pytest.approx(np.ones(len(use[0])))
    largest = model.policy.option_costs[-1].flops
    flops, reduction = (events.Scalars(f"asym/flops_{key}")[-1].value for key in ("per_inference", "reduction"))
    assert reduction == pytest.approx(1 - flops / largest)


def test_logger_of_the_user(make_agent, tmp_path):
    model = make_agent(verbose=1)
    model.set_logger(configure(str(tmp_path), ["csv", "json", "log", "stdout"]))
    model.learn(60, log_interval=2)
    header = (tmp_path / "progress.csv").read_text().splitlines()[0].split(",")
    assert {"time/total_timesteps", "train/n_updates", "asym/small_use", "master/n_updates"} <= set(header)


# --- prediction ---


@CRITICS
@pytest.mark.parametrize("deterministic", [True, False])
def test_predict_one_observation_and_several(make_agent, critic, deterministic):
    model = make_agent(critic=critic)
    action, state = model.predict(np.zeros(1, dtype=np.float32), deterministic=deterministic)
    assert action.shape == (1,)
    assert [rows.shape for rows in state] == [(1,), (1,)]
    observations = np.linspace(-5, 5, 4, dtype=np.float32).reshape(4, 1)
    actions, state = model.predict(observations, deterministic=deterministic)
    assert actions.shape == (4, 1)
    kept = [rows.copy() for rows in state]
    starts = np.array([True, False, False, True])
    _, after = model.predict(observations, state, starts, deterministic)
    assert [rows.tolist() for rows in state] == [rows.tolist() for rows in kept]
    assert after[1].tolist() == [2, 1, 1, 2]
    assert after[0].tolist() == state[0].tolist()
    with pytest.raises(ValueError, match="Unexpected observation shape"):
        model.predict(np.zeros((1, 2), dtype=np.float32))


@pytest.mark.parametrize("n_envs", [1, 2])
def test_evaluate_policy_holds_options(make_agent, n_envs):
    env = make_vec_env(ChainEnv, n_envs, env_kwargs=dict(lengths=(7, 4)))
    model = make_agent(env, policy_kwargs=dict(sub_net_archs=dict(small=[4], large=[8]), master_net_arch=[]))
    with th.no_grad():
        for weight, bias in [model.policy.master.q_net.q_net[0].parameters()]:
            # Small acts in the first two places, large from the third on.
            weight.copy_(th.tensor([[-1.0], [1.0]]))
            bias.copy_(th.tensor([3.0, 0.0]))
    options = [[] for _ in range(n_envs)]

    def record(locals_, globals_):
        options[locals_["i"]].append(int(locals_["states"][0][locals_["i"]]))

    evaluate_policy(model, env, n_eval_episodes=2 * n_envs, callback=record)
    # A new option starts in the places 0, 3 and 6 of the long episode, and 0 and 3 of the short one.
    assert options == [[0, 0, 0, 1, 1, 1, 1, 0, 0, 0, 1]] * n_envs


@CRITICS
def test_policy_is_saved_loaded_and_pickled_alone(make_agent, tmp_path, critic):
    model = make_agent(policy_kwargs=dict(THREE), critic=critic).learn(30)
    model.policy.save(tmp_path / "policy")
    observations = np.linspace(-5, 5, 6, dtype=np.float32).reshape(6, 1)
    action, state = model.predict(observations, deterministic=True)
    for policy in (type(model.policy).load(tmp_path / "policy"), pickle.loads(pickle.dumps(model.policy))):
        assert policy.option_names == ("small", "medium", "large")
        same_action, same_state = policy.predict(observations, deterministic=True)
        assert_same_tree([same_action, *same_state], [action, *state])


# --- saving ---


@CRITICS
@pytest.mark.parametrize("settings", [dict(), dict(policy_kwargs=dict(THREE), ent_coef=0.1)])
def test_save_and_load(make_agent, tmp_path, critic, settings):
    model = make_agent(critic=critic, cost_coef=0.2, **settings).learn(40)
    model.save(tmp_path / "agent")
    stream = io.BytesIO()
    model.save(stream)
    stream.seek(0)
    for source in (tmp_path / "agent", str(tmp_path / "agent.zip"), stream):
        loaded = AsymSAC.load(source, env=DriftEnv(), device="cpu")
        assert_same_tree(loaded.get_parameters(), model.get_parameters())
        for name in ("option_length", "cost_coef", "critic_kind", "num_timesteps", "_n_updates", "option_names", "gamma"):
            assert getattr(loaded, name) == getattr(model, name)
        assert loaded.master.exploration_rate == model.master.exploration_rate
    loaded.learn(40, reset_num_timesteps=False)
    assert loaded.num_timesteps == 80
    assert AsymSAC.load(tmp_path / "agent", learning_rate=0.5, cost_coef=0.7).master.cost_coef == pytest.approx(0.7)


def test_load_with_other_envs_goes_on(make_agent, tmp_path):
    make_agent().learn(30).save(tmp_path / "agent")
    loaded = AsymSAC.load(tmp_path / "agent")
    with pytest.raises(AssertionError, match="You must set the environment"):
        loaded.learn(10)
    loaded = AsymSAC.load(tmp_path / "agent", env=make_vec_env(DriftEnv, n_envs=3))
    assert loaded.learn(60).n_envs == 3
    loaded.set_env(make_vec_env(DriftEnv, n_envs=3, seed=5))
    loaded.learn(30, reset_num_timesteps=False)
    assert loaded.num_timesteps == 90
    with pytest.raises(AssertionError, match="number of environments to be set is different"):
        loaded.set_env(DriftEnv())


def test_load_accepts_the_same_policy_kwargs_and_no_others(make_agent, tmp_path):
    policy_kwargs = dict(THREE)
    make_agent(policy_kwargs=policy_kwargs).save(tmp_path / "agent")
    assert AsymSAC.load(tmp_path / "agent", policy_kwargs=policy_kwargs).policy.n_options == 3
    with pytest.raises(ValueError, match="policy kwargs do not equal"):
        AsymSAC.load(tmp_path / "agent", policy_kwargs=dict(net_arch=[8]))


def test_save_leaves_out_and_takes_in_what_it_is_told(make_agent, tmp_path):
    model = make_agent().learn(30)
    model.save(tmp_path / "agent", exclude=["tau"], include=["env"])
    loaded = AsymSAC.load(tmp_path / "agent", custom_objects=dict(learning_rate=0.5))
    assert loaded.tau == 0.005
    assert loaded.learning_rate == 0.5
    assert loaded.get_env().num_envs == 1


@CRITICS
def test_parameters_are_copied_from_agent_to_agent(make_agent, critic):
    first, second = make_agent(critic=critic).learn(40), make_agent(critic=critic, seed=1)
    parameters = first.get_parameters()
    second.set_parameters(parameters)
    assert_same_tree(second.get_parameters(), parameters)
    first.learn(20, reset_num_timesteps=False)  # they are copies
    assert_same_tree(second.get_parameters(), parameters)
    with pytest.raises(ValueError, match="Names of parameters do not match"):
        second.set_parameters(dict(policy=parameters["policy"]))
    second.set_parameters(dict(policy=parameters["policy"]), exact_match=False)
    with pytest.raises(ValueError, match="is an invalid object name"):
        second.set_parameters(dict(policy=parameters["policy"], nonsense={}), exact_match=False)
    with pytest.raises(RuntimeError, match="Missing key"):
        second.set_parameters({**parameters, "policy": {}})
