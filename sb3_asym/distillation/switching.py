"""Agents that switch between distilled students and the teacher: frozen actors, and a master that learns which one to use."""

from collections.abc import Callable, Sequence
from copy import deepcopy
from typing import Any

import gymnasium as gym
import numpy as np
import torch as th
from stable_baselines3.common.base_class import BaseAlgorithm
from stable_baselines3.common.vec_env import DummyVecEnv
from torch import nn

from sb3_asym.asym_sac import AsymSAC
from sb3_asym.cost_coef import CostCoefSchedule
from sb3_asym.deployment import DeployableAgent, deployable
from sb3_asym.deployment.agent import Network
from sb3_asym.distillation.entries import Entry
from sb3_asym.distillation.report import kept_share
from sb3_asym.distillation.to_sb3 import activation_of, copy_actor

OPTION_LENGTH = 4
N_MASTER_UPDATES = 4_000
RELATIVE_COST_COEFS = (0.01, 0.03, 0.1)
"""λ, in units of the size of the teacher's mean return per env step."""


def add_switching_agents(
    entries: list[Entry],
    model: BaseAlgorithm,
    make_env: Callable[[], gym.Env],
    keep: float,
    n_steps: int,
    seed: int,
    on_progress: Callable[[str, float], Any],
) -> None:
    """
    Add agents that switch between the chosen fixed student and its cheaper neighbour, and between that and the teacher; and,
    for each, random switching with the same actors at the same use.

    :param entries: students and teacher, with their selection episodes; the new agents are added
    :param model: the teacher
    :param make_env: function that makes one env
    :param keep: share of the teacher's return to keep
    :param n_steps: env steps from which the masters of a pair learn
    :param seed: seed
    :param on_progress: called with the stage and the share of it that is done
    """
    pairs = _pairs(entries, keep)
    total, done = len(pairs) * len(RELATIVE_COST_COEFS), 0
    for pair in pairs:
        names = [_size_name(entry) for entry in pair]
        agent = switching_agent([entry.agent for entry in pair], names, model, make_env, seed)
        agent.learn(n_steps)
        teacher = next(entry.selection for entry in entries if entry.kind == "teacher")
        assert teacher is not None
        reward_per_step = abs(float(teacher.returns.sum())) / float(teacher.option_steps.sum())
        for relative in RELATIVE_COST_COEFS:
            fit_master(agent, relative * reward_per_step, seed)
            entries.append(_switching_entry(agent, names, relative))
            done += 1
            on_progress("learning to switch", done / total)


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


def _pairs(entries: list[Entry], keep: float) -> list[list[Entry]]:
    """Neighbours around the point at which students keep the return, as far as they can be sub-policies of one agent."""
    students = [entry for entry in entries if entry.kind == "student"]
    teacher = next(entry for entry in entries if entry.kind == "teacher")
    rewards = [_reward(entry) for entry in students]
    enough = [i for i, reward in enumerate(rewards) if kept_share(reward, _reward(teacher)) >= keep]
    middle = enough[0] if enough else len(students) - 1
    found = []
    if middle > 0:
        found += [[students[middle - 1], students[middle]], [students[middle - 1], teacher]]
    return [pair for pair in found if can_switch([entry.agent for entry in pair])]


def _reward(entry: Entry) -> float:
    assert entry.selection is not None
    return float(entry.selection.returns.mean())


def _size_name(entry: Entry) -> str:
    """Name of a sub-policy."""
    return entry.name.replace(", ", "x")


def _switching_entry(agent: AsymSAC, names: Sequence[str], relative: float) -> Entry:
    """The agent as it is now, in a copy of its own."""
    name = f"switching {' / '.join(names)}, λ = {relative:g}"
    return Entry(name, "switching", deployable(agent), model=deepcopy(agent))


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
    agents: Sequence[DeployableAgent], names: Sequence[str], model: BaseAlgorithm, make_env: Callable[[], gym.Env], seed: int
) -> AsymSAC:
    """
    An AsymSAC agent whose sub-policies are given and frozen; its master has learned nothing yet.

    :param agents: the sub-policies, cheapest first; see :func:`can_switch`
    :param names: their names
    :param model: teacher, which has the spaces
    :param make_env: function that makes one env
    :param seed: seed
    :return: the agent, which chooses its options at random while it collects
    """
    networks: list[Network] = [agent.sub_policies[0] for agent in agents]
    archs = {name: [len(layer.bias) for layer in network.layers[:-1]] for name, network in zip(names, networks, strict=True)}
    agent = AsymSAC(
        "MultiInputPolicy" if isinstance(model.observation_space, gym.spaces.Dict) else "MlpPolicy",
        DummyVecEnv([make_env]),
        option_length=OPTION_LENGTH,
        gamma=model.gamma,  # type: ignore[attr-defined]
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


def fit_master(agent: AsymSAC, cost_coef: float, seed: int, n_updates: int = N_MASTER_UPDATES) -> None:
    """
    Fit the master to the option transitions that were collected.

    :param agent: the agent, with transitions of options that were chosen at random
    :param cost_coef: λ, return per env step
    :param seed: seed of the master's first weights
    :param n_updates: gradient steps
    """
    th.manual_seed(seed)
    np.random.seed(seed)
    agent.cost_coef = cost_coef
    master = agent.master
    master.cost_coef_schedule = CostCoefSchedule(cost_coef)
    q_networks: Any = master.policy
    for layer in q_networks.q_net.modules():
        if isinstance(layer, nn.Linear):
            layer.reset_parameters()
    q_networks.q_net_target.load_state_dict(q_networks.q_net.state_dict())
    q_networks.optimizer.state.clear()
    for _ in range(n_updates):
        master.train(1, master.batch_size)
        master._on_step()
