r"""GAIL's discriminator (Ho & Ermon 2016, arXiv 1606.03476), which tells a teacher's state-action pairs from a student's.

D(s, a) = σ(l(s, a)) is the probability that a pair is the teacher's. It minimizes the binary cross-entropy
−E_teacher[log D] − E_student[log(1 − D)], plus a gradient penalty w · E[(‖∇l‖ − 1)²] on pairs between both (Gulrajani et
al. 2017, arXiv 1704.00028), with which GAIL works off-policy (Kostrikov et al. 2018, arXiv 1809.02925).

Rewards, with l clipped to ±``LOGIT_LIMIT`` = 10 and so bounded, are one of

- ``logit``: log D − log(1 − D) = l, from −10 to 10 (Fu et al. 2018, arXiv 1710.11248). It tells a student where it is less
  wrong even if all it does is wrong;
- ``positive``: −log(1 − D) = log(1 + exp l), from 0 to 10, GAIL's usual one. It vanishes for a student that is far from the
  teacher.

They are biased where episodes end early: students that are still far from the teacher gain by ending an episode under
``logit``, and by living on under ``positive``, whatever the teacher does. So ``positive`` is for tasks whose episodes end by a
failure (a robot falls), ``logit`` for those whose episodes end by a success, or are equally long.
"""

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import torch as th
from stable_baselines3.common.torch_layers import create_mlp
from torch import nn
from torch.nn import functional as F

from sb3_asym.distillation.students import SMALLEST_SPREAD

LOGIT_LIMIT = 10.0
REWARDS: dict[str, Callable[[th.Tensor], th.Tensor]] = {"logit": lambda logits: logits, "positive": F.softplus}


@dataclass(frozen=True)
class DiscriminatorSettings:
    """
    The discriminator and how it learns.

    :param hidden: units of its hidden layers
    :param reward: one of ``REWARDS``; by default "logit", but :func:`sb3_asym.baselines.gail.gail` takes "positive" where the
        teacher's episodes are longer than those of random actions
    :param learning_rate: Adam's step size
    :param batch_size: pairs of the teacher, and as many of the student, in a batch
    :param gradient_penalty: weight w of the gradient penalty
    :param update_every: env steps of the student between two updates
    :param n_updates: gradient steps of an update
    :param n_recent: the student's latest env steps, from which batches are drawn
    """

    hidden: tuple[int, ...] = (64, 64)
    reward: str | None = None
    learning_rate: float = 1e-3
    batch_size: int = 256
    gradient_penalty: float = 10.0
    update_every: int = 100
    n_updates: int = 50
    n_recent: int = 100_000


class Discriminator:
    """
    A multilayer perceptron of standardized states and of actions.

    :param observations: the teacher's states, ``(n, obs_dim)``, by which inputs are standardized
    :param actions: its actions there, in [-1, 1] or one-hot, ``(n, action_dim)``
    :param settings: size and speed of learning
    :raises ValueError: if there is no such reward, or a setting is out of range
    """

    def __init__(self, observations: np.ndarray, actions: np.ndarray, settings: DiscriminatorSettings):
        if settings.reward is not None and settings.reward not in REWARDS:
            raise ValueError(f"reward must be one of {', '.join(REWARDS)}, got {settings.reward!r}.")
        if min(settings.batch_size, settings.update_every, settings.n_updates, settings.n_recent, *settings.hidden) < 1:
            raise ValueError(f"Numbers of units, pairs, steps and updates of a discriminator are at least 1, got {settings}.")
        self.settings = settings
        self.obs_dim, self.action_dim = observations.shape[1], actions.shape[1]
        self.mean, self.spread = observations.mean(0), observations.std(0)
        self.spread[self.spread < SMALLEST_SPREAD] = 1.0
        self.network = nn.Sequential(*create_mlp(self.obs_dim + self.action_dim, 1, list(settings.hidden), nn.Tanh))
        self.optimizer = th.optim.Adam(self.network.parameters(), lr=settings.learning_rate)
        self._teacher = self._pairs(observations, actions)

    def rewards(self, observations: np.ndarray, actions: np.ndarray) -> np.ndarray:
        """
        Rewards of a student's pairs as the discriminator sees them now.

        :param observations: ``(n, obs_dim)``
        :param actions: in [-1, 1] or one-hot, ``(n, action_dim)``
        :return: ``(n,)`` float32
        """
        with th.no_grad():
            logits = self.network(self._pairs(observations, actions))[:, 0].clamp(-LOGIT_LIMIT, LOGIT_LIMIT)
            return REWARDS[self.settings.reward or "logit"](logits).numpy()

    def learn(self, observations: np.ndarray, actions: np.ndarray) -> dict[str, float]:
        """
        Learn to tell the teacher's pairs from a student's.

        :param observations: the student's states, ``(n, obs_dim)``
        :param actions: its actions there, in [-1, 1] or one-hot, ``(n, action_dim)``
        :return: means over the updates: loss without the penalty, accuracy, and accuracy on either one's pairs
        """
        student = self._pairs(observations, actions)
        rows = []
        for _ in range(self.settings.n_updates):
            real, fake = (pairs[th.randint(len(pairs), (self.settings.batch_size,))] for pairs in (self._teacher, student))
            on_real, on_fake = self.network(real), self.network(fake)
            loss = (F.softplus(-on_real) + F.softplus(on_fake)).mean()
            self.optimizer.zero_grad()
            (loss + self.settings.gradient_penalty * self._penalty(real, fake)).backward()
            self.optimizer.step()
            rows.append((loss.item(), (on_real > 0).float().mean().item(), (on_fake < 0).float().mean().item()))
        loss_mean, on_teacher, on_student = np.mean(rows, axis=0).tolist()
        accuracy = (on_teacher + on_student) / 2
        return {"loss": loss_mean, "accuracy": accuracy, "accuracy_teacher": on_teacher, "accuracy_student": on_student}

    def _pairs(self, observations: np.ndarray, actions: np.ndarray) -> th.Tensor:
        states = (np.asarray(observations) - self.mean) / self.spread
        return th.as_tensor(np.concatenate([states, actions], axis=1, dtype=np.float32))

    def _penalty(self, real: th.Tensor, fake: th.Tensor) -> th.Tensor:
        share = th.rand(len(real), 1)
        between = (share * real + (1 - share) * fake).requires_grad_()
        (slope,) = th.autograd.grad(self.network(between).sum(), between, create_graph=True)
        return (slope.norm(dim=1) - 1).square().mean()
