"""Agents that switch between distilled students and the teacher: frozen actors, and a master that learns which one to use."""

import io
from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import Any, cast

import gymnasium as gym
import numpy as np
import torch as th
from gymnasium import spaces
from stable_baselines3.common.vec_env import DummyVecEnv, VecNormalize
from torch import nn

from sb3_asym.asym_sac import AsymSAC
from sb3_asym.deployment import DeployableAgent, deployable
from sb3_asym.deployment.agent import Network, Normalization
from sb3_asym.distillation.cotraining import cotrain
from sb3_asym.distillation.entries import Entry
from sb3_asym.distillation.report import kept_share
from sb3_asym.distillation.teacher import Teacher
from sb3_asym.distillation.to_sb3 import activation_of, copy_actor, copy_linears

OPTION_LENGTH = 4
N_MASTER_UPDATES = 4_000
RELATIVE_COST_COEFS = (0.1, 0.3, 1.0)
"""λ, in units of what the larger sub-policy returns more than the smaller one per env step."""
SMALLEST_GAIN = 0.01
"""Least unit of λ, as a share of the size of the teacher's mean return per env step."""
SMALLEST_VARIANCE = 1e-6
"""An observation that varies less is not scaled."""


def add_switching_agents(
    entries: list[Entry],
    teacher: Teacher,
    make_env: Callable[[], gym.Env],
    keep: float,
    n_steps: int,
    n_cotraining_updates: int,
    seed: int,
    on_progress: Callable[[str, float], Any],
) -> None:
    """
    Add agents that switch: between the student that keeps the return and the one below it, and between that and the teacher.

    :param entries: students and teacher, with their selection episodes; the new agents are added
    :param teacher: the teacher
    :param make_env: function that makes one env
    :param keep: share of the teacher's return to keep
    :param n_steps: env steps from which the masters of a pair learn
    :param n_cotraining_updates: gradient steps of the smaller student on the states that a master gives it, after which it
        is an agent of its own, too, and another master is fitted; 0 for none
    :param seed: seed
    :param on_progress: called with the stage and the share of it that is done
    """
    pairs = switching_pairs(entries, keep)
    n_forms = 2 if n_cotraining_updates else 1
    total, done = len(pairs) * len(RELATIVE_COST_COEFS) * n_forms, 0

    def count() -> None:
        nonlocal done
        done += 1
        on_progress("learning to switch", done / total)

    for small, large in pairs:
        names = [_option_name(small.name), _option_name(large.name)]
        agent = switching_agent([small.agent, large.agent], names, teacher, make_env, seed)
        agent.learn(n_steps)
        unit = _gain_per_step(entries, small, large)
        for relative in RELATIVE_COST_COEFS:
            fit_master(agent, relative * unit, seed, N_MASTER_UPDATES)
            entries.append(_switching_entry(agent, names))
            count()
            if n_cotraining_updates:
                student = cotrain(agent, teacher, make_env, n_steps, n_cotraining_updates, seed)
                name = f"co-trained {small.name}"
                entries.append(Entry(f"{name} of {large.name}, λ = {agent.cost_coef:.2g}", "student", student))
                names_then = [_option_name(name), names[1]]
                again = switching_agent([student, large.agent], names_then, teacher, make_env, seed + 1)
                again.learn(n_steps)
                fit_master(again, relative * unit, seed, N_MASTER_UPDATES)
                entries.append(_switching_entry(again, names_then))
                count()


def add_random_switching(entries: list[Entry], seed: int) -> None:
    """
    Add random switching with the same actors and the same use for each agent that switches.

    :param entries: agents with their selection episodes; the baselines are added
    :param seed: seed of the random choices
    """
    for entry in [entry for entry in entries if entry.kind == "switching"]:
        assert entry.selection is not None
        use = entry.selection.option_steps / entry.selection.option_steps.sum()
        chooser = RandomChoice(use, seed)
        entries.append(Entry(f"random {entry.name}", "random switching", entry.agent, chooser=chooser))


class RandomChoice:
    """
    Random options, whatever the observation.

    :param use: ``(n_options,)`` probability of each option
    :param seed: seed
    """

    def __init__(self, use: np.ndarray, seed: int):
        self.use, self.rng = use, np.random.default_rng(seed)

    def __call__(self, observations: np.ndarray) -> np.ndarray:
        """
        Options for a batch.

        :param observations: ``(batch, obs_dim)``
        :return: ``(batch,)`` options
        """
        return self.rng.choice(len(self.use), size=len(observations), p=self.use)


def switching_pairs(entries: list[Entry], keep: float) -> list[tuple[Entry, Entry]]:
    """
    Neighbours around the point at which students keep the return.

    Where the teacher cannot be a sub-policy (see :func:`can_switch`), the most expensive student stands in for it.

    :param entries: students, cheapest first, and the teacher, with their selection episodes
    :param keep: share of the teacher's return to keep
    :return: the smaller and the larger sub-policy of each agent
    """
    ladder = [entry for entry in entries if entry.kind == "student"]
    teacher = as_sub_policy(next(entry for entry in entries if entry.kind == "teacher"))
    enough = [kept_share(_reward(entry), _reward(teacher)) >= keep for entry in ladder]
    if can_switch([*(entry.agent for entry in ladder), teacher.agent]):
        ladder.append(teacher)
    middle = enough.index(True) if any(enough) else len(ladder) - 1
    larger = {middle, len(ladder) - 1} if middle > 0 else set()
    return [(ladder[middle - 1], ladder[i]) for i in sorted(larger)]


def as_sub_policy(entry: Entry) -> Entry:
    """
    An agent of observations as the env gives them: their normalization goes into its first layer, which is exact but where
    normalized observations are clipped.

    :param entry: a fixed agent
    :return: the agent itself, or one with its episodes and another name
    """
    agent = entry.agent
    if agent.normalization is None:
        return entry
    network = fold_normalization(agent.sub_policies[0], agent.normalization)
    return replace(entry, name=f"unclipped {entry.name}", agent=replace(agent, sub_policies=(network,), normalization=None))


def fold_normalization(network: Network, normalization: Normalization) -> Network:
    """
    Fold a normalization of the inputs into the first layer, but for its clipping.

    :param network: network of normalized inputs
    :param normalization: the normalization
    :return: the network of inputs as they are
    """
    first, *rest = network.layers
    weight = first.weight * normalization.gain.astype(np.float64)
    bias = first.bias - weight @ normalization.mean
    first = replace(first, weight=weight.astype(np.float32), bias=bias.astype(np.float32))
    return replace(network, layers=(first, *rest))


def _reward(entry: Entry) -> float:
    assert entry.selection is not None
    return float(entry.selection.returns.mean())


def _gain_per_step(entries: list[Entry], small: Entry, large: Entry) -> float:
    """What the larger sub-policy returns more per env step, if that is not too little to be told from chance."""
    teacher = next(entry.selection for entry in entries if entry.kind == "teacher")
    assert teacher is not None
    gain = max(_reward(large) - _reward(small), SMALLEST_GAIN * abs(float(teacher.returns.mean())))
    return gain * len(teacher.returns) / float(teacher.option_steps.sum())


def _option_name(name: str) -> str:
    """Name of a sub-policy."""
    return name.replace(", ", "x")


def _switching_entry(agent: AsymSAC, names: Sequence[str]) -> Entry:
    """The agent as it is now, in a copy of its own."""
    copy = io.BytesIO()
    agent.save(copy)
    name = f"switching {' / '.join(names)}, λ = {agent.cost_coef:.2g}"
    return Entry(name, "switching", deployable(agent), model=AsymSAC.load(copy, device="cpu"))


def can_switch(agents: Sequence[DeployableAgent]) -> bool:
    """
    Whether agents can be sub-policies of one AsymSAC agent.

    :param agents: fixed agents
    :return: True if they end with tanh, share an activation function and see observations alike
    """
    kinds = {type(a) for agent in agents for layer in agent.sub_policies[0].layers[:-1] for a in layer.activations}
    ends = [[type(a) for a in agent.sub_policies[0].layers[-1].activations] for agent in agents]
    return len(kinds) <= 1 and all(end == [nn.Tanh] for end in ends) and all(agent.normalization is None for agent in agents)


def switching_agent(
    agents: Sequence[DeployableAgent], names: Sequence[str], teacher: Teacher, make_env: Callable[[], gym.Env], seed: int
) -> AsymSAC:
    """
    An AsymSAC agent whose sub-policies are given and frozen; its master has learned nothing yet.

    :param agents: the sub-policies, cheapest first; see :func:`can_switch`
    :param names: their names
    :param teacher: the teacher, whose discount factor it takes
    :param make_env: function that makes one env
    :param seed: seed
    :return: the agent, which chooses its options at random while it collects
    """
    networks: list[Network] = [agent.sub_policies[0] for agent in agents]
    archs = {name: [len(layer.bias) for layer in network.layers[:-1]] for name, network in zip(names, networks, strict=True)}
    agent = AsymSAC(
        "MultiInputPolicy" if teacher.agent.is_dict else "MlpPolicy",
        DummyVecEnv([make_env]),
        option_length=OPTION_LENGTH,
        critic="shared",
        gamma=teacher.model.gamma,  # type: ignore[attr-defined]
        gradient_steps=0,
        learning_starts=0,
        buffer_size=100_000,
        batch_size=256,
        seed=seed,
        device="cpu",
        policy_kwargs=dict(
            sub_net_archs=archs, critic_net_arch=[8], master_net_arch=[16, 16], activation_fn=activation_of(networks)
        ),
        master_kwargs=dict(
            gradient_steps=0, exploration_initial_eps=1.0, exploration_final_eps=1.0, learning_rate=1e-3, tau=0.01
        ),
    )
    for actor, network in zip(agent.policy.actors, networks, strict=True):
        copy_actor(network, actor)
    return agent


def fit_master(agent: AsymSAC, cost_coef: float, seed: int, n_updates: int) -> None:
    """
    Fit the master to the option transitions that were collected.

    It learns from observations and rewards in units of their spread, so that DQN's robust loss is quadratic where options
    differ. The units then go into its first and last layers: it chooses by observations as they are, and its q-values are
    returns.

    :param agent: the agent, with transitions of options that were chosen at random
    :param cost_coef: λ, return per env step
    :param seed: seed of the master's first weights
    :param n_updates: gradient steps
    """
    th.manual_seed(seed)
    np.random.seed(seed)
    agent.cost_coef = cost_coef
    master = agent.master
    master.use_cost_coef(cost_coef)
    master._vec_normalize_env = units = _units(agent)
    q_networks: Any = master.policy
    linears = [layer for layer in q_networks.q_net.q_net if isinstance(layer, nn.Linear)]
    for layer in linears:
        layer.reset_parameters()
    q_networks.q_net_target.load_state_dict(q_networks.q_net.state_dict())
    q_networks.optimizer.state.clear()
    for _ in range(n_updates):
        master.train(1, master.batch_size)
        master._on_step()
    master._vec_normalize_env = None
    fitted = deployable(agent, units)
    assert fitted.master is not None
    network = fitted.master if fitted.normalization is None else fold_normalization(fitted.master, fitted.normalization)
    *layers, last = network.layers
    scale = np.float32(np.sqrt(units.ret_rms.var + units.epsilon))
    last = replace(last, weight=last.weight * scale, bias=last.bias * scale)
    copy_linears(replace(network, layers=(*layers, last)), linears)
    q_networks.q_net_target.load_state_dict(q_networks.q_net.state_dict())


def _units(agent: AsymSAC) -> VecNormalize:
    """Means and spreads of the observations, and the spread of the discounted rewards, in what was collected."""
    buffer: Any = agent.replay_buffer
    assert agent.env is not None
    space = agent.observation_space
    parts = dict(space.spaces) if isinstance(space, spaces.Dict) else {"": space}
    boxes = [key for key, part in parts.items() if isinstance(part, spaces.Box)]
    kwargs: dict[str, Any] = dict(norm_obs=bool(boxes), norm_obs_keys=boxes if isinstance(space, spaces.Dict) else None)
    units = VecNormalize(agent.env, gamma=agent.gamma, clip_obs=np.inf, clip_reward=np.inf, **kwargs)
    for key in boxes:
        values, statistics = buffer.observations, cast(Any, units.obs_rms)
        if isinstance(space, spaces.Dict):
            values, statistics = values[key], statistics[key]
        statistics.update(values[: buffer.size(), 0])
        statistics.var[statistics.var < SMALLEST_VARIANCE] = 1.0
    discounted = np.zeros(agent.n_envs)
    for reward, done in zip(buffer.rewards[: buffer.size()], buffer.dones[: buffer.size()], strict=True):
        discounted = discounted * agent.gamma + reward
        units.ret_rms.update(discounted)
        discounted *= 1 - done
    return units
