"""The compiled update learns the same as the plain one."""

from copy import deepcopy
from operator import attrgetter

import cloudpickle
import numpy as np
import pytest
import torch as th
from envs import DriftEnv, GoalChainEnv
from stable_baselines3.common.type_aliases import ReplayBufferSamples
from torch._inductor import config
from torch.utils._pytree import tree_map

from sb3_asym.update import graph, matmul
from sb3_asym.update.compiled import CompiledUpdate, obstacle_to_compiling
from sb3_asym.update.graph import GraphCache, compile_function
from sb3_asym.update.plain import PlainUpdate

NETS = dict(sub_net_archs=dict(small=[4], medium=[8, 8], large=[16, 16]), master_net_arch=[8])


def parameters(agent):
    """All weights and optimizer states, flat."""
    leaves = th.utils._pytree.tree_leaves(agent.get_parameters())
    return th.cat([leaf.detach().reshape(-1).float() for leaf in leaves if isinstance(leaf, th.Tensor)])


@pytest.fixture
def make_pair(make_agent):
    def make(**kwargs):
        settings = {"policy_kwargs": NETS, "learning_starts": 100, **kwargs}
        env = settings.pop("env", DriftEnv)
        agents = [make_agent(env(), **settings).learn(60) for _ in range(2)]
        return agents, [PlainUpdate(agents[0]), CompiledUpdate(agents[1])]

    return make


@pytest.mark.parametrize(
    "kwargs",
    [
        dict(critic="shared"),
        dict(critic="separate", ent_coef=0.1, n_steps=3),
        dict(critic="option", cost_coef=2.0),
        dict(cost_coef=(0.1, 10.0)),
        dict(env=GoalChainEnv, policy="MultiInputPolicy", policy_kwargs=dict(NETS, activation_fn=th.nn.Tanh, n_critics=3)),
        # Wider than a panel of our own matrix products is deep.
        dict(policy_kwargs=dict(sub_net_archs=dict(small=[8], large=[320, 320])), critic="separate"),
    ],
    ids=[
        "shared critic, learned entropy",
        "separate critics, fixed entropy, n-step",
        "critic of options",
        "dial",
        "Dict, tanh, three critics",
        "large",
    ],
)
def test_one_step_equals_the_plain_one(make_pair, kwargs):
    agents, updates = make_pair(**kwargs)
    for i in range(3):
        losses = []
        for agent, update in zip(agents, updates, strict=True):
            np.random.seed(i)
            th.manual_seed(i)
            losses += update.steps([agent._sample(64)], [True])
        for name, values in losses[0].items():
            assert losses[1][name] == pytest.approx(values, rel=1e-4, abs=1e-5), name
    th.testing.assert_close(parameters(agents[0]), parameters(agents[1]), rtol=1e-4, atol=1e-6)


def test_own_products_equal_those_of_torch(monkeypatch):
    """Of all shapes and strides, whichever processor this is."""
    sizes = [(2, 7, 1), (5, 3, 2), (8, 16, 32), (9, 300, 17), (64, 256, 64), (23, 600, 33), (256, 64, 15), (3, 0, 4)]
    pairs = [(th.randn(m, k), th.randn(k, n)) for m, k, n in sizes]
    pairs += [(th.randn(k, m).t(), th.randn(n, k).t()) for m, k, n in sizes]
    pairs += [(th.randn(3, m, k), th.randn(3, n, k).transpose(1, 2)) for m, k, n in sizes]
    pairs += [(th.randn(m, k).expand(2, m, k), th.randn(2, k, n)) for m, k, n in sizes]
    pairs += [(th.randn(40, 60)[:, ::2], th.randn(60, 40)[::2, ::2])]
    used = []
    codegen = matmul._Product.codegen
    monkeypatch.setattr(matmul._Product, "codegen", lambda self, wrapper: used.append(self) or codegen(self, wrapper))
    monkeypatch.setattr(graph, "own_products_are_faster", lambda: True)
    tensors = [tensor for pair in pairs for tensor in pair]
    with config.patch(force_disable_caches=True):
        function = compile_function(lambda *values: [a @ b for a, b in zip(values[::2], values[1::2], strict=True)], tensors)
    for (a, b), product in zip(pairs, function(*tensors), strict=True):
        th.testing.assert_close(product, a @ b, rtol=1e-4, atol=1e-4)
    assert len(used) == len(pairs)


@pytest.mark.parametrize(
    "device", ["cpu", pytest.param("cuda", marks=pytest.mark.skipif(not th.cuda.is_available(), reason="there is no GPU"))]
)
@pytest.mark.parametrize("ent_coef", ["auto", 0.1])
def test_the_graph_equals_the_function_that_it_was_made_of(make_agent, device, ent_coef, tmp_path):
    agent = make_agent(device=device, ent_coef=ent_coef, fast_update=True, learning_starts=50).learn(60)
    assert isinstance(agent._update.present, CompiledUpdate)
    for _ in range(3):
        batch = agent._sample(64)
        noise = th.randn((1, *agent._update.present._noise_shape(batch)), device=device)
        (inputs,), state = agent._update.present._inputs([batch], [True], noise), agent._update.present._state(batch)
        copies = tree_map(th.clone, state)
        with th.no_grad():
            expected = agent._update.present._update(*inputs, *copies)
        th.testing.assert_close(agent._update.present._graphs(inputs, state), expected, rtol=1e-4, atol=1e-5)
        th.testing.assert_close(state, copies, rtol=1e-4, atol=1e-5)
    agent.save(tmp_path / "agent")
    agent.set_parameters(str(tmp_path / "agent.zip"), device=device)
    agent.learn(30, reset_num_timesteps=False)
    other = type(agent).load(tmp_path / "agent", env=agent.get_env(), device="cpu").learn(30, reset_num_timesteps=False)
    for trained in (agent, other):
        steps = {int(step["step"]) for optimizer in trained.policy.optimizers for step in optimizer.state.values()}
        assert steps == {10 + 3 + 30}


def test_another_batch_size_gets_a_graph_of_its_own():
    def double(batch, total):
        total.add_(2 * batch.rewards.sum())
        return total.clone()

    update, total = GraphCache(double), th.zeros(())
    for size in (4, 32, 4):
        fields = [th.ones(size, 1)] * 5
        update((ReplayBufferSamples(*fields, discounts=fields[0]),), (total,))
    assert total == 80


def test_agents_of_the_same_shapes_do_not_share_a_graph(make_pair):
    batch, results = None, []
    for activation_fn in (th.nn.ReLU, th.nn.Tanh):
        agents, updates = make_pair(policy_kwargs=dict(NETS, activation_fn=activation_fn))
        batch = batch or agents[0]._sample(64)
        losses = []
        for update in updates:
            th.manual_seed(0)
            losses.append(update.steps([batch], [True])[0]["critic_loss"])
        assert losses[1] == pytest.approx(losses[0], rel=1e-4)
        results.append(losses[1])
    assert results[0] != pytest.approx(results[1], rel=1e-3)


def test_the_masters_step_equals_that_of_dqn(make_pair):
    (plain, fast), (_, update) = make_pair(
        critic="shared", learning_starts=0, gradient_steps=0, master_kwargs=dict(gradient_steps=0)
    )
    fast.master.compiled_update = update.master_update
    for i in range(3):
        for agent in (plain, fast):
            np.random.seed(i)
            agent.master.train(1, 32)
    for part in ("policy", "policy.optimizer"):
        leaves = (th.utils._pytree.tree_leaves(attrgetter(part)(agent.master).state_dict()) for agent in (plain, fast))
        for value, other in zip(*leaves, strict=True):
            th.testing.assert_close(value, other, rtol=1e-4, atol=1e-6)


def test_checkpoints_move_between_both(make_agent, tmp_path):
    """Weights, moments and step counts survive a save by one and a load into the other, in both directions."""
    fast = make_agent(fast_update=True).learn(60)
    assert isinstance(fast._update.present, CompiledUpdate)
    fast.save(tmp_path / "fast")
    plain = type(fast).load(tmp_path / "fast", env=fast.get_env(), fast_update=False)
    assert th.equal(parameters(fast), parameters(plain))
    plain.learn(30, reset_num_timesteps=False)
    plain.save(tmp_path / "plain")
    fast.set_parameters(str(tmp_path / "plain.zip"), device="cpu")
    assert th.equal(parameters(fast), parameters(plain))
    assert fast.policy.actor.mu.weight.data_ptr() >= fast._update.present.actors.flat.data_ptr()
    fast.learn(30, reset_num_timesteps=False)
    steps = [agent.policy.actor.optimizer.state[agent.policy.actor.mu.weight]["step"] for agent in (plain, fast)]
    assert steps[1] == steps[0] + 30


def test_same_seed_same_agent(make_agent):
    first, second = (make_agent(fast_update=True).learn(60) for _ in range(2))
    assert th.equal(parameters(first), parameters(second))


def test_a_loss_that_is_not_finite_changes_nothing(make_pair):
    agents, updates = make_pair()
    batch = agents[1]._sample(64)
    updates[1].steps([batch], [True])
    before = parameters(agents[1])
    batch.rewards[3] = float("nan")
    with pytest.raises(FloatingPointError, match=r"The critic loss is \[nan\]"):
        updates[1].steps([batch], [True])
    assert th.equal(parameters(agents[1]), before)


@pytest.mark.parametrize(
    ("kwargs", "reason"),
    [
        (dict(use_sde=True), "gSDE is in use"),
        (dict(policy_kwargs=dict(NETS, optimizer_class=th.optim.AdamW)), "not a plain Adam"),
        (dict(policy_kwargs=dict(NETS, optimizer_kwargs=dict(weight_decay=0.1))), "not a plain Adam"),
        (dict(policy_kwargs=dict(NETS, activation_fn=th.nn.PReLU)), "activation function has weights"),
    ],
)
def test_what_it_does_not_cover_falls_back_with_one_line(make_agent, capsys, kwargs, reason):
    agent = make_agent(fast_update=True, verbose=1, **kwargs)
    assert reason in obstacle_to_compiling(agent)
    agent.learn(30)
    assert isinstance(agent._update.present, PlainUpdate)
    assert f"Plain update: {obstacle_to_compiling(agent)}." in capsys.readouterr().out


def test_other_layers_are_not_covered(make_agent):
    agent = make_agent()
    assert obstacle_to_compiling(agent) is None
    agent.policy.actors[0].latent_pi.insert(1, th.nn.LayerNorm(4))
    assert "other layers" in obstacle_to_compiling(agent)


def test_an_optimizer_without_state_starts_anew(make_pair):
    agents, updates = make_pair()
    for i in range(2):
        for agent, update in zip(agents, updates, strict=True):
            np.random.seed(i)
            th.manual_seed(i)
            update.steps([agent._sample(64)], [True])
            for optimizer in agent.policy.optimizers:
                optimizer.state.clear()
    for agent, update in zip(agents, updates, strict=True):
        np.random.seed(9)
        th.manual_seed(9)
        update.steps([agent._sample(64)], [True])
    th.testing.assert_close(parameters(agents[0]), parameters(agents[1]), rtol=1e-4, atol=1e-6)


def test_where_steps_differ_the_plain_update_goes_on(make_agent, capsys):
    agents = []
    for fast_update in (True, False):
        agent = make_agent(fast_update=fast_update).learn(60)
        agent.policy.actors[0].optimizer.state.clear()
        agents.append(agent)
    batch = agents[0]._sample(64)
    agents[1].set_parameters(agents[0].get_parameters())
    agents[1].policy.actors[0].optimizer.state.clear()
    for agent in agents:
        th.manual_seed(0)
        agent._update.steps([batch], [True], 0)
        assert isinstance(agent._update.present, PlainUpdate)
    assert "Plain update: the optimizers have not taken the same number of steps." in capsys.readouterr().out
    th.testing.assert_close(parameters(agents[0]), parameters(agents[1]))


def test_a_compiler_that_fails_means_the_plain_update(make_agent, capsys):
    agents = []
    with config.patch({"cpp.cxx": ("/bin/false",), "force_disable_caches": True}):
        for fast_update in (True, False):
            agents.append(make_agent(GoalChainEnv(), "MultiInputPolicy", verbose=1, fast_update=fast_update).learn(60))
            assert isinstance(agents[-1]._update.present, PlainUpdate)
    assert capsys.readouterr().out.count("Plain update: compiling failed") == 1
    assert th.equal(parameters(agents[0]), parameters(agents[1]))


def test_a_batch_that_cannot_be_compiled_goes_to_the_plain_update(make_agent, capsys):
    agent = make_agent(fast_update=True).learn(60)
    agent.batch_size = agent.master.batch_size = 17
    with config.patch({"cpp.cxx": ("/bin/false",), "force_disable_caches": True}):
        agent.train(1, 17)
        agent.master.train(1, 17)
    assert isinstance(agent._update.present, PlainUpdate)
    assert agent.master.compiled_update is None
    assert "Plain update: compiling failed" in capsys.readouterr().out


def test_weights_in_memory_of_their_own_are_learned_too(make_agent):
    """As ``load_from_vector`` and other ways to replace a parameter's data leave them."""
    agent = make_agent(fast_update=True).learn(60)
    agent.policy.load_from_vector(np.full_like(agent.policy.parameters_to_vector(), 0.1))
    agent._update.steps([agent._sample(16)], [True], 0)
    assert agent.policy.actor.mu.weight.data_ptr() >= agent._update.present.actors.flat.data_ptr()
    changes = [th.all(weight != 0.1) for weight in (agent.policy.actor.mu.weight, agent.policy.critic.q_networks[0][0].weight)]
    assert all(changes)


def test_a_copy_learns_by_itself(make_agent):
    agent = make_agent(fast_update=True).learn(60)
    size = len(cloudpickle.dumps(make_agent(fast_update=False).learn(60)))
    assert len(cloudpickle.dumps(agent)) < 1.2 * size
    before = parameters(agent)
    for copy in (deepcopy(agent), cloudpickle.loads(cloudpickle.dumps(agent))):
        assert th.equal(parameters(copy), before)
        copy.learn(30, reset_num_timesteps=False)
        assert isinstance(copy._update.present, CompiledUpdate)
        assert not th.equal(parameters(copy), before)
    assert th.equal(parameters(agent), before)


def test_short_runs_are_not_compiled(make_agent):
    agent = make_agent(fast_update=None)
    agent.learn(30)
    assert isinstance(agent._update.present, PlainUpdate)


def test_on_a_gpu_the_graph_has_to_be_asked_for(make_agent):
    """There it has not been run yet."""
    agent = make_agent(fast_update=None).learn(60)
    batch = agent._sample(16)
    agent.device = th.device("cuda")
    assert isinstance(agent._update._choose(batch, 1_000_000), PlainUpdate)
    agent.device = th.device("cpu")
    assert isinstance(agent._update._choose(batch, 1_000_000), CompiledUpdate)
