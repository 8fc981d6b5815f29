"""Tasks for the master whose right answers are known, and agents whose sub-policies and choices are set by hand."""

import gymnasium as gym
import numpy as np
import torch as th
from gymnasium import spaces

EXPLORING = dict(exploration_initial_eps=1.0, exploration_final_eps=1.0)
FAST = dict(learning_rate=5e-3, gamma=0.5, ent_coef=0.0, critic="option", batch_size=128, tau=0.05, master_kwargs=EXPLORING)
WORTH = 5.9 / 0.75
"""λ at which the large sub-policy is just worth its cost in ``Worth``: 5.9 a step, for 3/4 λ more."""


class RareFailures(gym.Env):
    """Negative actions earn -1, and one time in ten -100; positive ones always earn -5."""

    observation_space = spaces.Box(-1.0, 1.0, (1,))
    action_space = spaces.Box(-1.0, 1.0, (1,))

    def reset(self, *, seed=None, options=None):
        super().reset(seed=seed)
        self.steps = 0
        return np.zeros(1, np.float32), {}

    def step(self, action):
        self.steps += 1
        reward = -5.0 if action[0] > 0 else -100.0 if self.np_random.random() < 0.1 else -1.0
        return np.zeros(1, np.float32), reward, False, self.steps == 20, {}


class Worth(RareFailures):
    """Positive actions earn 5.9 more than negative ones, each time."""

    def step(self, action):
        self.steps += 1
        return np.zeros(1, np.float32), -5.0 if action[0] > 0 else -10.9, False, self.steps == 20, {}


def fix_actions(agent, actions):
    """Let each sub-policy take one action everywhere, and learn no other."""
    for actor, action in zip(agent.policy.actors, actions, strict=True):
        for head, bias in ((actor.mu, np.arctanh(action)), (actor.log_std, -20.0)):
            th.nn.init.zeros_(head.weight)
            th.nn.init.constant_(head.bias, bias)
        actor.requires_grad_(False)


def set_choice(agent, q_values):
    """Give the options these q-values in all states; those of a dial are without what λ takes from them."""
    last = agent.policy.master.q_net.q_net[-1]
    with th.no_grad():
        last.weight.zero_()
        last.bias.copy_(th.as_tensor(q_values))


def greedy_option(agent, observation):
    return int(agent.policy.greedy_options(th.as_tensor([observation], dtype=th.float32))[0])
