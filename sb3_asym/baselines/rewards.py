"""A discriminator's reward in SB3: around the envs, in the replay buffer, and as a callback that lets it learn."""

from collections import deque
from typing import Any

import numpy as np
from gymnasium import spaces
from stable_baselines3.common.buffers import ReplayBuffer
from stable_baselines3.common.callbacks import BaseCallback
from stable_baselines3.common.type_aliases import ReplayBufferSamples
from stable_baselines3.common.vec_env import VecEnv, VecEnvWrapper, VecNormalize
from stable_baselines3.common.vec_env.base_vec_env import VecEnvObs, VecEnvStepReturn

from sb3_asym.baselines.discriminator import Discriminator


class DiscriminatorReward(VecEnvWrapper):
    """
    Replaces the env's reward with a discriminator's, and remembers the latest state-action pairs for it.

    Any SB3 algorithm may learn in it, also by ``learn(reset_num_timesteps=False)`` again and again. A ``VecNormalize`` goes
    around it, so that the discriminator sees observations as the env gives them; a ``Monitor`` inside it reports the env's own
    return as ``rollout/ep_rew_mean``.

    ```python
    env = DiscriminatorReward(make_vec_env("Pendulum-v1"), discriminator)
    buffer = dict(replay_buffer_class=RelabellingReplayBuffer, replay_buffer_kwargs=dict(discriminator=discriminator))
    SAC("MlpPolicy", env, **buffer).learn(10_000, callback=DiscriminatorCallback(env))
    ```

    :param venv: envs with Box observations, and with Discrete actions or bounded Box ones
    :param discriminator: the discriminator
    :raises ValueError: if the spaces are others, or not those of the discriminator's pairs
    """

    def __init__(self, venv: VecEnv, discriminator: Discriminator):
        super().__init__(venv)
        if not isinstance(venv.observation_space, spaces.Box):
            raise ValueError(f"A discriminator sees vectors of numbers: flatten the env's {venv.observation_space} first.")
        sizes = int(np.prod(venv.observation_space.shape)), _encoded_dim(venv.action_space)
        if sizes != (discriminator.obs_dim, discriminator.action_dim):
            raise ValueError(
                f"The discriminator knows {discriminator.obs_dim} numbers of an observation and {discriminator.action_dim} of "
                f"an action, but the env has {sizes[0]} and {sizes[1]}: was it made from a teacher of another env?"
            )
        self.discriminator = discriminator
        length = max(discriminator.settings.n_recent // venv.num_envs, 1)
        self._recent: deque[tuple[np.ndarray, np.ndarray]] = deque(maxlen=length)
        self._observations = np.zeros((venv.num_envs, sizes[0]), dtype=np.float32)
        self._actions = np.zeros((venv.num_envs, sizes[1]), dtype=np.float32)

    def reset(self) -> VecEnvObs:
        """Reset the envs."""
        observations = self.venv.reset()
        self._remember(observations)
        return observations

    def step_async(self, actions: np.ndarray) -> None:
        """
        Tell the envs to step.

        :param actions: ``(n_envs, …)`` in the env's units
        """
        self._actions = encode_actions(self.venv.action_space, actions)
        self.venv.step_async(actions)

    def step_wait(self) -> VecEnvStepReturn:
        """
        Wait for the step.

        :return: what the envs return, with the discriminator's rewards
        """
        observations, _, dones, infos = self.venv.step_wait()
        self._recent.append((self._observations, self._actions))
        rewards = self.discriminator.rewards(self._observations, self._actions)
        self._remember(observations)
        return observations, rewards, dones, infos

    def recent_pairs(self) -> tuple[np.ndarray, np.ndarray]:
        """
        The latest pairs, for the discriminator to learn from.

        :return: observations ``(n, obs_dim)`` and actions ``(n, action_dim)``
        """
        observations, actions = zip(*self._recent, strict=True)
        return np.concatenate(observations), np.concatenate(actions)

    def _remember(self, observations: Any) -> None:
        self._observations = observations.reshape(self.num_envs, -1).copy()


class RelabellingReplayBuffer(ReplayBuffer):
    """
    Replay buffer that asks the discriminator for rewards when it is sampled.

    The rewards that were stored are those of an older discriminator, under which the present student's pairs were not yet
    told from the teacher's; so an off-policy algorithm would go on to chase what has already been found out.

    :param args: arguments of :class:`stable_baselines3.common.buffers.ReplayBuffer`
    :param discriminator: the discriminator
    :param kwargs: further ones
    """

    def __init__(self, *args: Any, discriminator: Discriminator, **kwargs: Any):
        super().__init__(*args, **kwargs)
        self.discriminator = discriminator

    def _get_samples(self, batch_inds: np.ndarray, env: VecNormalize | None = None) -> ReplayBufferSamples:
        samples = super()._get_samples(batch_inds)  # as the env gives them
        observations, actions = samples.observations.cpu().numpy(), samples.actions.cpu().numpy()
        if isinstance(self.action_space, spaces.Discrete):  # Box actions are stored in [-1, 1]
            actions = encode_actions(self.action_space, actions)
        rewards = self.discriminator.rewards(observations.reshape(len(observations), -1), actions)
        following = samples.next_observations.cpu().numpy()
        return samples._replace(
            observations=self.to_torch(self._normalize_obs(observations, env)),  # type: ignore[arg-type]
            next_observations=self.to_torch(self._normalize_obs(following, env)),  # type: ignore[arg-type]
            rewards=self.to_torch(self._normalize_reward(rewards[:, None], env)),
        )


class DiscriminatorCallback(BaseCallback):
    """
    Lets the discriminator learn at the end of rollouts. Logs ``gail/loss``, ``gail/accuracy``, ``gail/accuracy_teacher`` and
    ``gail/accuracy_student``.

    :param env: the envs in which the student learns, which know the discriminator
    """

    def __init__(self, env: DiscriminatorReward):
        super().__init__()
        self.env = env
        self._n_steps = 0
        self._metrics: dict[str, float] = {}

    def _on_step(self) -> bool:
        self._n_steps += self.env.num_envs
        return True

    def _on_rollout_end(self) -> None:
        if self._n_steps >= self.env.discriminator.settings.update_every:
            self._metrics = self.env.discriminator.learn(*self.env.recent_pairs())
            self._n_steps = 0
        for name, value in self._metrics.items():  # each time, as SB3 starts a new logger with each call of learn
            self.logger.record(f"gail/{name}", value)


def encode_actions(space: spaces.Space, actions: np.ndarray) -> np.ndarray:
    """
    Actions as a discriminator sees them.

    :param space: action space of the env, Discrete or a bounded Box
    :param actions: ``(n, …)`` in the env's units
    :return: scaled to [-1, 1], ``(n, action_dim)``, or one-hot, ``(n, n_actions)``; float32
    """
    if isinstance(space, spaces.Discrete):
        return np.eye(int(space.n), dtype=np.float32)[actions.reshape(-1).astype(np.int64) - int(space.start)]
    assert isinstance(space, spaces.Box)
    low, high = space.low.ravel(), space.high.ravel()
    return (2 * (actions.reshape(len(actions), -1) - low) / (high - low) - 1).astype(np.float32)


def _encoded_dim(space: spaces.Space) -> int:
    """Numbers of an encoded action."""
    if isinstance(space, spaces.Discrete):
        return int(space.n)
    if isinstance(space, spaces.Box) and space.is_bounded():
        return int(np.prod(space.shape))
    raise ValueError(f"A discriminator sees Discrete or bounded Box actions, got {space}.")
