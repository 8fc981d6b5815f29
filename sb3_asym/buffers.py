"""The options behind the primitive transitions of a replay buffer, from which the master samples option transitions.

SB3's replay buffers stay as they are, whichever class the user asked for: :class:`OptionMemory` stands beside one and
remembers, for each primitive transition, which option was in force. So each transition is stored once, and the
sub-policies sample it from the buffer while the master samples whole options from the memory.
"""

from typing import Any

import numpy as np
from stable_baselines3 import HerReplayBuffer
from stable_baselines3.common.buffers import ReplayBuffer
from stable_baselines3.common.type_aliases import ReplayBufferSamples
from stable_baselines3.common.vec_env import VecNormalize

from sb3_asym.options import NO_OPTION, option_return


class OptionMemory:
    """
    Samples option transitions (SMDP transitions) from the primitive ones in a replay buffer.

    Rewards and costs meet only when a batch is sampled, so λ can change at any time.

    :param replay_buffer: the buffer that holds the primitive transitions; its class may be any of SB3's or a subclass
    :param option_length: the most env steps that an option runs
    :param gamma: discount factor of one env step
    :param recent_steps: sample only options that started within this many of the latest env steps (over all envs)
    """

    def __init__(self, replay_buffer: ReplayBuffer, option_length: int, gamma: float, recent_steps: int | None = None):
        self.replay_buffer = replay_buffer
        self.option_length = option_length
        self.gamma = gamma
        self.recent_steps = recent_steps
        shape = (replay_buffer.buffer_size, replay_buffer.n_envs)
        self.options = np.full(shape, NO_OPTION, dtype=np.int8)
        # Where an option started: the steps it ran, known once it has ended. Zero everywhere else.
        self.lengths = np.zeros(shape, dtype=np.int32)
        self._running = np.zeros(replay_buffer.n_envs, dtype=np.int64)
        self._n_complete = 0

    def add(self, options: np.ndarray, started: np.ndarray, ended: np.ndarray) -> None:
        """
        Remember the options of the transition that the replay buffer stores next. Call it before ``replay_buffer.add``.

        :param options: ``(n_envs,)`` option in force, ``NO_OPTION`` where none was
        :param started: ``(n_envs,)`` True where this is the option's first step
        :param ended: ``(n_envs,)`` True where this is its last step: it ran its full length, or the episode ended
        """
        pos, size = self.replay_buffer.pos, self.replay_buffer.buffer_size
        self.options[pos] = options
        # With optimize_memory_usage, the next observation overwrites the row that follows.
        for row in (pos, (pos + 1) % size) if self.replay_buffer.optimize_memory_usage else (pos,):
            self._n_complete -= int(np.count_nonzero(self.lengths[row]))
            self.lengths[row] = 0
        self._running = np.where(started, 1, np.where(self._running > 0, self._running + 1, 0))
        # An option as long as the whole buffer has overwritten its own start.
        complete = np.flatnonzero(ended & (self._running > 0) & (self._running < size) & (options != NO_OPTION))
        self.lengths[(pos - self._running[complete] + 1) % size, complete] = self._running[complete]
        self._n_complete += len(complete)
        self._running[ended] = 0

    def size(self) -> int:
        """
        :return: number of option transitions that can be sampled
        """
        return int(np.count_nonzero(self._valid(*self._indices(np.arange(self._n_recent())))))

    def can_sample(self) -> bool:
        """
        :return: whether there is a complete option transition
        """
        return self._n_complete > 0 and (self.recent_steps is None or self._any_valid())

    def _any_valid(self) -> bool:
        """Looks from the latest transitions back, so that it need not go far."""
        n_recent = self._n_recent()
        chunks = (np.arange(start, min(start + 4096, n_recent)) for start in range(0, n_recent, 4096))
        return any(self._valid(*self._indices(chunk)).any() for chunk in chunks)

    def sample(self, batch_size: int, env: VecNormalize | None = None, costs: np.ndarray | None = None) -> ReplayBufferSamples:
        """
        Sample option transitions uniformly.

        :param batch_size: how many
        :param env: normalizes observations and rewards, the latter after λ·cost was subtracted
        :param costs: ``(n_options,)`` λ·c, return per step that each option pays; nothing by default
        :return: observations where the options started, options ``(batch_size, 1)`` as actions, observations where they
            ended, whether the episode terminated there, discounted net rewards, and discounts γ^k
        :raises RuntimeError: if there is no complete option yet
        """
        starts, envs = self._draw(batch_size)
        lengths = self.lengths[starts, envs]
        last = (starts + lengths - 1) % self.replay_buffer.buffer_size
        # What follows the end of an option may belong to another episode: repeat its last step instead.
        steps = np.minimum(np.arange(self.option_length), lengths[:, None] - 1)
        steps = (starts[:, None] + steps) % self.replay_buffer.buffer_size
        goals = self._sample_goals(starts, envs)
        options = self.options[starts, envs].astype(np.int64)
        rewards = self._rewards(steps, envs, goals)
        net_rewards = rewards if costs is None else rewards - costs[options][:, None]
        normalized = self.replay_buffer._normalize_reward(net_rewards, env)
        returns, discounts = option_return(normalized, lengths, self.gamma)
        # Truncated episodes bootstrap where the buffer tells them from terminated ones.
        dones = self.replay_buffer.dones[last, envs] * (1 - self.replay_buffer.timeouts[last, envs])
        return ReplayBufferSamples(
            observations=self._observations(starts, envs, goals, env),
            actions=self.replay_buffer.to_torch(options.reshape(-1, 1)),
            next_observations=self._observations(last, envs, goals, env, after=True),
            dones=self.replay_buffer.to_torch(dones.reshape(-1, 1)),
            rewards=self.replay_buffer.to_torch(returns.astype(np.float32).reshape(-1, 1)),
            discounts=self.replay_buffer.to_torch(discounts.astype(np.float32).reshape(-1, 1)),
        )

    def _indices(self, ages: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Row and env indices of the transitions that are so many steps old."""
        rows = (self.replay_buffer.pos - 1 - ages) % self.replay_buffer.buffer_size
        grid = np.meshgrid(rows, np.arange(self.replay_buffer.n_envs), indexing="ij")
        return grid[0].ravel(), grid[1].ravel()

    def _n_recent(self) -> int:
        """Number of latest rows of the buffer that may be sampled."""
        size = self.replay_buffer.size()
        if self.recent_steps is None:
            return size
        return min(size, max(self.recent_steps // self.replay_buffer.n_envs, 1))

    def _valid(self, rows: np.ndarray, envs: np.ndarray) -> np.ndarray:
        """True where a complete option started."""
        return self.lengths[rows, envs] > 0

    def _draw(self, batch_size: int) -> tuple[np.ndarray, np.ndarray]:
        """Rows and envs of ``batch_size`` uniformly drawn option starts: by rejection, as one in ``option_length`` is one."""
        rows_found, envs_found, missing = [], [], batch_size
        for _ in range(16):
            n_draws = 2 * missing * self.option_length
            rows = (
                self.replay_buffer.pos - 1 - np.random.randint(0, self._n_recent(), n_draws)
            ) % self.replay_buffer.buffer_size
            envs = np.random.randint(0, self.replay_buffer.n_envs, n_draws)
            accepted = np.flatnonzero(self._valid(rows, envs))[:missing]
            rows_found.append(rows[accepted])
            envs_found.append(envs[accepted])
            missing -= len(accepted)
            if missing == 0:
                return np.concatenate(rows_found), np.concatenate(envs_found)
        # So few options that rejection is slow: list them all.
        rows, envs = self._indices(np.arange(self._n_recent()))
        candidates = np.flatnonzero(self._valid(rows, envs))
        if len(candidates) == 0:
            raise RuntimeError("There is no complete option to sample yet: let more steps pass before learning starts.")
        drawn = np.random.choice(candidates, missing)
        return np.concatenate([*rows_found, rows[drawn]]), np.concatenate([*envs_found, envs[drawn]])

    def _sample_goals(self, starts: np.ndarray, envs: np.ndarray) -> np.ndarray | None:
        """Goals that replace the desired ones, if any."""
        return None

    def _rewards(self, steps: np.ndarray, envs: np.ndarray, goals: np.ndarray | None) -> np.ndarray:
        """Rewards of the primitive steps, ``(batch, option_length)``, in the env's own scale."""
        return self.replay_buffer.rewards[steps, envs[:, None]]

    def _observations(
        self, rows: np.ndarray, envs: np.ndarray, goals: np.ndarray | None, env: VecNormalize | None, after: bool = False
    ) -> Any:
        """Observations before (or ``after``) the given primitive steps, normalized, as tensors."""
        buffer = self.replay_buffer
        if after and buffer.optimize_memory_usage and isinstance(buffer.observations, np.ndarray):
            source, rows = buffer.observations, (rows + 1) % buffer.buffer_size
        else:
            source = buffer.next_observations if after else buffer.observations
        obs: Any = (
            {key: value[rows, envs] for key, value in source.items()} if isinstance(source, dict) else source[rows, envs]
        )
        if goals is not None:
            obs["desired_goal"] = goals
        obs = buffer._normalize_obs(obs, env)
        return {key: buffer.to_torch(value) for key, value in obs.items()} if isinstance(obs, dict) else buffer.to_torch(obs)


class HerOptionMemory(OptionMemory):
    """
    Option transitions with goals relabelled as HER does (Andrychowicz et al., 2017): one new goal for the whole option,
    for which every primitive reward in it is computed anew.
    """

    replay_buffer: HerReplayBuffer

    def _valid(self, rows: np.ndarray, envs: np.ndarray) -> np.ndarray:
        """As HER, sample only from episodes that have ended."""
        return super()._valid(rows, envs) & (self.replay_buffer.ep_length[rows, envs] > 0)

    def can_sample(self) -> bool:
        return super().can_sample() and self._any_valid()

    def _sample_goals(self, starts: np.ndarray, envs: np.ndarray) -> np.ndarray:
        """HER's share of the batch gets a goal that the episode achieved later, the rest keeps its own."""
        goals = self.replay_buffer.observations["desired_goal"][starts, envs]
        n_virtual = int(self.replay_buffer.her_ratio * len(starts))
        if n_virtual > 0:
            goals[:n_virtual] = self.replay_buffer._sample_goals(starts[:n_virtual], envs[:n_virtual])
        return goals

    def _rewards(self, steps: np.ndarray, envs: np.ndarray, goals: np.ndarray | None) -> np.ndarray:
        assert goals is not None
        assert self.replay_buffer.env is not None
        rewards = self.replay_buffer.rewards[steps, envs[:, None]]
        n_virtual = int(self.replay_buffer.her_ratio * len(steps))
        if n_virtual == 0:
            return rewards
        virtual, envs = steps[:n_virtual].ravel(), np.repeat(envs[:n_virtual], self.option_length)
        infos = self.replay_buffer.infos[virtual, envs] if self.replay_buffer.copy_info_dict else [{}] * len(virtual)
        relabelled = self.replay_buffer.env.env_method(
            "compute_reward",
            self.replay_buffer.next_observations["achieved_goal"][virtual, envs],
            np.repeat(goals[:n_virtual], self.option_length, axis=0),
            infos,
            indices=[0],
        )
        rewards[:n_virtual] = relabelled[0].reshape(n_virtual, self.option_length)
        return rewards


def make_option_memory(replay_buffer: ReplayBuffer, **kwargs: Any) -> OptionMemory:
    """
    :param replay_buffer: the buffer of primitive transitions
    :param kwargs: arguments of ``OptionMemory``
    :return: the kind of memory that fits the buffer
    """
    return (HerOptionMemory if isinstance(replay_buffer, HerReplayBuffer) else OptionMemory)(replay_buffer, **kwargs)
