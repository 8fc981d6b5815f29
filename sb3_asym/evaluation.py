"""What an agent returns, what it costs, and what its master is worth: measured over seeded episodes."""

from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass, replace
from typing import Any, NamedTuple

import gymnasium as gym
import numpy as np
from stable_baselines3.common.env_util import make_vec_env
from stable_baselines3.common.type_aliases import GymEnv
from stable_baselines3.common.utils import check_for_correct_spaces
from stable_baselines3.common.vec_env import VecEnv, VecNormalize, sync_envs_normalization

from sb3_asym.asym_sac import AsymSAC
from sb3_asym.costs import mean_flops
from sb3_asym.options import OptionStatistics
from sb3_asym.policies import Chooser
from sb3_asym.text_table import text_table


@dataclass(frozen=True)
class EvaluationReport:
    """
    One way of driving the env, measured over episodes. ``str(report)`` is a table with all that it was compared to.

    :param name: who drives: "agent", "random switching" or "<sub-policy> alone"
    :param mean_reward: mean return of an episode
    :param std_reward: its standard deviation over the episodes
    :param n_episodes: episodes measured
    :param mean_length: mean env steps of an episode
    :param option_use: share of env steps that each sub-policy drove
    :param flops_per_inference: mean FLOPs per env step, the master's share included
    :param flops_reduction: 1 − those FLOPs ÷ the FLOPs of the most expensive sub-policy alone
    :param mean_option_length: mean env steps between two choices
    :param switches_per_episode: mean number of changes of the sub-policy in an episode
    :param episode_rewards: return of each episode
    :param comparisons: reports of the other ways to drive, over episodes with the same seeds
    """

    name: str
    mean_reward: float
    std_reward: float
    n_episodes: int
    mean_length: float
    option_use: dict[str, float]
    flops_per_inference: float
    flops_reduction: float
    mean_option_length: float
    switches_per_episode: float
    episode_rewards: tuple[float, ...]
    comparisons: tuple["EvaluationReport", ...] = ()

    @property
    def macs_per_inference(self) -> float:
        """Mean multiply-accumulates per env step."""
        return self.flops_per_inference / 2

    def to_dict(self) -> dict[str, Any]:
        """
        :return: everything as plain data, ready for JSON
        """
        comparisons = [report.to_dict() for report in self.comparisons]
        own = {**asdict(replace(self, comparisons=())), "macs_per_inference": self.macs_per_inference}
        return {**own, "comparisons": comparisons}

    def __str__(self) -> str:
        names = list(self.option_use)
        header = ["", "return", "± std", *(f"{name} use" for name in names), "FLOPs", "MACs", "reduction", "switches"]
        rows = []
        for report in (self, *self.comparisons):
            numbers = [
                report.name,
                f"{report.mean_reward:.1f}",
                f"{report.std_reward:.1f}",
                *(f"{report.option_use[name]:.1%}" for name in names),
                f"{report.flops_per_inference:,.0f}",
                f"{report.macs_per_inference:,.0f}",
                f"{report.flops_reduction:.1%}",
                f"{report.switches_per_episode:.1f}",
            ]
            rows.append(numbers)
        note = f"{self.n_episodes} episodes each; FLOPs and MACs per inference, switches per episode."
        return f"{text_table(header, rows)}\n{note}"


class Step(NamedTuple):
    """One step of all envs. Arrays have one row per env."""

    observations: np.ndarray | dict[str, np.ndarray]
    options: np.ndarray
    started: np.ndarray
    rewards: np.ndarray
    dones: np.ndarray
    infos: list[dict[str, Any]]


def drive(model: AsymSAC, env: VecEnv, seed: int, choose: Chooser | None = None, deterministic: bool = True) -> Iterator[Step]:
    """
    Step the env for ever with an agent that holds its options.

    :param model: the agent
    :param env: where to drive; it is seeded and reset
    :param seed: of the env
    :param choose: who picks the options, the master by default
    :param deterministic: whether the sub-policies act deterministically
    :return: yields each step
    """
    env.seed(seed)
    observations: Any = env.reset()
    state, episode_start = None, np.ones(env.num_envs, dtype=bool)
    while True:
        action, state = model.policy.predict(observations, state, episode_start, deterministic, choose)
        options, steps_left = state  # type: ignore[misc]
        new_observations, rewards, dones, infos = env.step(action)
        yield Step(observations, options, steps_left == model.option_length - 1, rewards, dones, infos)
        observations, episode_start = new_observations, dones


def evaluate(
    model: AsymSAC,
    env: GymEnv | None = None,
    n_eval_episodes: int = 10,
    deterministic: bool = True,
    seed: int = 0,
    compare: bool = True,
    on_episode: Callable[[], Any] | None = None,
) -> EvaluationReport:
    """
    Measure return and cost of an agent. To show what its master is worth, the same is measured for each sub-policy alone
    and for switching at random with the same use of each sub-policy.

    :param model: the agent
    :param env: where to evaluate; by default an env like the one that the model was trained on, made anew
    :param n_eval_episodes: episodes for each way to drive
    :param deterministic: whether the sub-policies act deterministically
    :param seed: of the envs; every way to drive starts from it
    :param compare: whether to measure the sub-policies alone and random switching too
    :param on_episode: called after each episode, for a progress bar; there are ``n_evaluations(model)`` times
        ``n_eval_episodes`` of them
    :return: the report
    :raises ValueError: if there is no env to evaluate on, its spaces differ from the model's, or there is no episode
    """
    if n_eval_episodes < 1:
        raise ValueError(f"n_eval_episodes must be at least 1, got {n_eval_episodes}.")
    vec_env = _prepare(model, env)
    arguments = (model, vec_env, n_eval_episodes, deterministic, seed, on_episode)
    report = _measure("agent", None, *arguments)
    if compare:
        use = list(report.option_use.values())
        rng = np.random.default_rng(seed)
        others = {f"{name} alone": _always(option) for option, name in enumerate(model.option_names)}
        others["random switching"] = lambda _, n_obs: rng.choice(len(use), size=n_obs, p=use)
        comparisons = tuple(_measure(name, choose, *arguments) for name, choose in others.items())
        report = replace(report, comparisons=comparisons)
    if env is None:
        vec_env.close()
    return report


def n_evaluations(model: AsymSAC) -> int:
    """
    :param model: the agent
    :return: how many ways to drive ``evaluate(compare=True)`` measures
    """
    return len(model.option_names) + 2


def _prepare(model: AsymSAC, env: GymEnv | None) -> VecEnv:
    """The given env or one made anew, with the model's spaces."""
    if not isinstance(model, AsymSAC):
        raise TypeError(f"An AsymSAC agent is needed, got {type(model).__name__}: SB3's evaluate_policy measures others.")
    vec_env = evaluation_env(model) if env is None else model._wrap_env(env, verbose=0)
    check_for_correct_spaces(vec_env, model.observation_space, model.action_space)
    return vec_env


def _always(option: int) -> Chooser:
    return lambda _, n_obs: np.full(n_obs, option)


def _measure(
    name: str,
    choose: Chooser | None,
    model: AsymSAC,
    env: VecEnv,
    n_eval_episodes: int,
    deterministic: bool,
    seed: int,
    on_episode: Callable[[], Any] | None,
) -> EvaluationReport:
    """One way to drive. As in SB3's ``evaluate_policy``, each env contributes its share of the episodes."""
    n_envs = env.num_envs
    shares = np.array([(n_eval_episodes + i) // n_envs for i in range(n_envs)])
    finished, returns = np.zeros(n_envs, dtype=int), np.zeros(n_envs)
    statistics = OptionStatistics(len(model.option_names), n_envs)
    episode_rewards: list[float] = []
    for step in drive(model, env, seed, choose, deterministic):
        counted = finished < shares
        statistics.count(step.options, step.started, step.dones, counted)
        returns += step.rewards
        for i in np.flatnonzero(step.dones):
            if counted[i]:
                # Monitor knows the return without normalization.
                episode_rewards.append(float(step.infos[i].get("episode", {"r": returns[i]})["r"]))
                if on_episode:
                    on_episode()
            finished[i] += 1
            returns[i] = 0.0
        if (finished >= shares).all():
            break
    n_steps = int(statistics.steps.sum())
    flops = mean_flops(model.policy, statistics.steps, statistics.n_choices if choose is None else 0)
    return EvaluationReport(
        name=name,
        mean_reward=float(np.mean(episode_rewards)),
        std_reward=float(np.std(episode_rewards)),
        n_episodes=len(episode_rewards),
        mean_length=n_steps / len(episode_rewards),
        option_use={name: float(steps / n_steps) for name, steps in zip(model.option_names, statistics.steps, strict=True)},
        flops_per_inference=flops,
        flops_reduction=1 - flops / model.policy.option_costs[-1].flops,
        mean_option_length=n_steps / statistics.n_choices,
        switches_per_episode=statistics.n_switches / len(episode_rewards),
        episode_rewards=tuple(episode_rewards),
    )


def evaluation_env(model: AsymSAC, **env_kwargs: Any) -> VecEnv:
    """
    An env like the one that the model was trained on, made anew, so that training is not disturbed.

    :param model: the agent, with an env
    :param env_kwargs: overrides of the env's arguments, such as ``render_mode``
    :return: the env, normalized with the training env's statistics if that one was
    :raises ValueError: if the model has no env, or it cannot be made anew
    """
    training_env = model.get_env()
    if training_env is None:
        raise ValueError("The model has no env: pass one to evaluate on.")
    spec = training_env.get_attr("spec")[0]
    if spec is None:
        raise ValueError("The training env is not registered with Gymnasium and cannot be made anew: pass an env.")
    # SB3's Monitor cannot be made from a spec; make_vec_env adds it again.
    wrappers = tuple(wrapper for wrapper in spec.additional_wrappers if wrapper.name != "Monitor")
    spec = replace(spec, additional_wrappers=wrappers)
    env: VecEnv = make_vec_env(lambda: gym.make(spec, **env_kwargs))
    normalization = model.get_vec_normalize_env()
    if normalization is not None:
        env = VecNormalize(
            env,
            training=False,
            norm_obs=normalization.norm_obs,
            norm_reward=False,
            clip_obs=normalization.clip_obs,
            norm_obs_keys=normalization.norm_obs_keys,
        )
        sync_envs_normalization(training_env, env)
    return model._wrap_env(env, verbose=0)


@dataclass(frozen=True)
class EpisodeRecord:
    """
    One episode, step by step, of an agent that switches.

    :param option_names: cheapest first
    :param options: ``(n_steps,)`` option in force
    :param rewards: ``(n_steps,)``
    :param observations: ``(n_steps, obs_dim)``, flattened where they are images or dicts
    :param frames: pictures of the env by step, where it can render
    """

    option_names: tuple[str, ...]
    options: np.ndarray
    rewards: np.ndarray
    observations: np.ndarray
    frames: dict[int, np.ndarray]


def record_episode(model: AsymSAC, env: GymEnv | None = None, seed: int = 0, n_frames: int = 10) -> EpisodeRecord:
    """
    :param model: the agent
    :param env: where to drive, by default as for :func:`evaluate`; the first of its envs is recorded, and pictures are
        taken if its ``render_mode`` is "rgb_array"
    :param seed: of the env
    :param n_frames: about how many pictures to keep, evenly spaced; with 0, the env is not rendered
    :return: one episode
    """
    vec_env = _prepare(model, env)
    options, rewards, observations = [], [], []
    frames: dict[int, np.ndarray] = {}
    stride = 1
    for index, step in enumerate(drive(model, vec_env, seed)):
        first = (
            {k: v[0] for k, v in step.observations.items()} if isinstance(step.observations, dict) else step.observations[0]
        )
        options.append(int(step.options[0]))
        rewards.append(float(step.rewards[0]))
        observations.append(gym.spaces.flatten(model.observation_space, first))
        if step.dones[0]:
            break
        if n_frames > 0 and vec_env.render_mode == "rgb_array" and (index + 1) % stride == 0:
            frame = vec_env.render()
            if frame is not None:
                frames[index + 1] = frame
        if len(frames) > 2 * n_frames:
            stride *= 2
            frames = {i: frame for i, frame in frames.items() if i % stride == 0}
    if env is None:
        vec_env.close()
    return EpisodeRecord(model.option_names, np.array(options), np.array(rewards), np.array(observations), frames)
