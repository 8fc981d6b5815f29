"""The cloud: a model goes on learning from robots, which run what it publishes."""

import io
import time
from contextlib import suppress
from pathlib import Path
from typing import Any

from stable_baselines3.common.callbacks import BaseCallback
from stable_baselines3.common.off_policy_algorithm import OffPolicyAlgorithm
from stable_baselines3.common.type_aliases import GymEnv, MaybeCallback
from stable_baselines3.common.vec_env import DummyVecEnv, VecEnv, VecNormalize

from sb3_asym.cloud_edge.form import ALGORITHMS
from sb3_asym.cloud_edge.frames import Gate
from sb3_asym.cloud_edge.heart import Heart, Rates
from sb3_asym.cloud_edge.journal import Journal, SavedAgent
from sb3_asym.cloud_edge.layout import Layout
from sb3_asym.cloud_edge.link import LinkError, learner_link, local_folder
from sb3_asym.cloud_edge.policy_frames import encode_policy
from sb3_asym.cloud_edge.reader import Reader
from sb3_asym.cloud_edge.statuses import LearnerStatus, RobotStatus, decode_learner_status, decode_robot_status
from sb3_asym.cloud_edge.trainer import Trainer, is_finite
from sb3_asym.deployment import load_model
from sb3_asym.deployment.recording import SampledObservations
from sb3_asym.envs import make_env
from sb3_asym.fitted_master import check_no_budget

STATUS_EVERY = 1.0
POLL = 0.005
RETRY_AFTER = 0.5


class CloudLearner:
    """
    Lets a model that was trained in simulation go on learning from robots.

    Robots run :class:`sb3_asym.cloud_edge.EdgeRunner`. All that comes from them is stored, with how far each was read, before
    they are told that they may forget it; a learner that is started again goes on from there, whatever happened to it.

    :param model: an AsymSAC, SAC, TD3 or DDPG model; it learns in place
    :param url: address of the link: a folder on this machine, or that of a broker, see
        :func:`sb3_asym.cloud_edge.link.learner_link`
    :param folder: folder of the checkpoint; by default ``cloud`` in the link's folder, or ``outputs/cloud`` with a broker
    :param ratio: gradient steps per env step; by default the model's own (``gradient_steps`` ÷ ``train_freq``)
    :param prefill: env steps before the first gradient step
    :param freeze_actor: env steps after that for which only critics learn
    :param push_period: time between two policies, s
    :param checkpoint_period: time between two checkpoints of the agent, s; transitions are stored as they come
    :param join: whether robots may begin in the middle, because another learner had their former transitions
    :raises ValueError: if an argument is out of range, the model cannot learn so, or there is a checkpoint of an agent already
    """

    def __init__(
        self,
        model: OffPolicyAlgorithm,
        url: str,
        folder: str | Path | None = None,
        ratio: float | None = None,
        prefill: int = 1000,
        freeze_actor: int = 0,
        push_period: float = 1.0,
        checkpoint_period: float = 30.0,
        join: bool = False,
        _goes_on: bool = False,
    ):
        check_model(model)
        if push_period <= 0 or checkpoint_period <= 0:
            raise ValueError(f"Periods must be above 0 s, got {push_period} and {checkpoint_period}.")
        self.model, self.url, self.push_period, self.checkpoint_period = model, url, push_period, checkpoint_period
        self.layout = Layout.of(model.observation_space, model.action_space)
        self.trainer = Trainer(model, ratio, prefill, freeze_actor)
        self.link = learner_link(url)
        self.folder = checkpoint_folder(url, folder)
        self.journal = Journal(self.folder / "journal.sqlite", self.layout, type(model).__name__, model.buffer_size)
        self.reader = Reader(self.link, self.layout, self.journal.cursors(), join)
        self.robots: dict[str, RobotStatus] = {}
        self._gate = Gate()
        self._rates = Rates()
        self._pushed = self._saved = self._looked = 0.0
        self._link_down = ""
        self._n_refused = 0
        self._has_to_confirm = bool(self.reader.cursors)
        saved = self.journal.saved_agent()
        if saved is not None and not _goes_on:
            self.close()
            raise ValueError(
                f"{self.folder} has the checkpoint of an agent: CloudLearner.load goes on with it; or give another folder."
            )
        for batch in self.journal.batches():
            self.trainer.restore(batch.robot, batch.transitions)
        model.num_timesteps = self.journal.received
        self.trainer.trained_steps = 0 if saved is None else saved.trained_steps

    @classmethod
    def load(
        cls,
        path: str | Path,
        url: str,
        env: GymEnv | str | None = None,
        folder: str | Path | None = None,
        vec_normalize: str | Path | None = None,
        device: str = "auto",
        model_kwargs: dict[str, Any] | None = None,
        **kwargs: Any,
    ) -> "CloudLearner":
        """
        Load a model from simulation; or go on from the checkpoint, where there is one.

        :param path: file that the model's ``save`` wrote
        :param url: address of the link
        :param env: env for callbacks that ask for one, and for hindsight goals; by default one with the model's spaces
        :param folder: folder of the checkpoint
        :param vec_normalize: file that ``VecNormalize.save`` wrote, if the model learned on normalized observations; its
            statistics stay as they are
        :param device: torch device
        :param model_kwargs: attributes of the model to replace, such as ``buffer_size`` or ``learning_rate``
        :param kwargs: further arguments of :class:`CloudLearner`
        :return: the learner
        :raises ValueError: if the file is no such model, or the checkpoint is of another agent
        :raises FileNotFoundError: if there is no such file
        """
        template = load_model(path)
        algorithm = type(template)
        check_algorithm(template)
        journal = checkpoint_folder(url, folder) / "journal.sqlite"
        source: Any = path
        if journal.is_file():
            layout = Layout.of(template.observation_space, template.action_space)
            opened = Journal(journal, layout, algorithm.__name__, 1)
            saved = opened.saved_agent()
            opened.close()
            source = path if saved is None else saved.file
        vec_env = _vec_env(template, env, vec_normalize)
        model = algorithm.load(source, env=vec_env, device=device, **(model_kwargs or {}))
        return cls(model, url, folder, _goes_on=True, **kwargs)  # type: ignore[arg-type]

    def learn(
        self,
        total_timesteps: int,
        callback: MaybeCallback = None,
        log_interval: int = 4,
        tb_log_name: str = "cloud",
        progress_bar: bool = False,
    ) -> "CloudLearner":
        """
        Learn until so many env steps of the robots, of all runs together, were received and trained for.

        :param total_timesteps: env steps over all robots, those before a restart included
        :param callback: callbacks, as for the model; they are called at each env step that comes
        :param log_interval: episodes between two logs
        :param tb_log_name: name of the run in TensorBoard
        :param progress_bar: whether to show a progress bar
        :return: this
        :raises ValueError: if the model has a budget by now
        :raises GapError: if transitions of a robot are missing
        :raises FloatingPointError: if weights are not finite any more; the last checkpoint is from before
        """
        model, trainer = self.model, self.trainer
        check_no_budget(model)
        self._total = total_timesteps
        ahead = max(total_timesteps - model.num_timesteps, 0)
        _, callbacks = model._setup_learn(ahead, callback, model.num_timesteps == 0, tb_log_name, progress_bar)
        model._total_timesteps = total_timesteps
        callbacks.on_training_start(locals(), globals())
        heart = Heart(self.url, self._status)
        goes_on = True
        try:
            self._push()
            heart.start()
            while goes_on and (model.num_timesteps < total_timesteps or trainer.steps_due):
                n_before = model.num_timesteps
                if n_before < total_timesteps:
                    goes_on = self._receive(callbacks, log_interval)
                n_trained = trainer.train_due()
                self._rates.count(model.num_timesteps - n_before, n_trained)
                self._keep_up()
                if n_trained == 0 and model.num_timesteps == n_before:
                    time.sleep(POLL)
            self._push()
        finally:
            heart.stop()
            if is_finite(model):
                self.checkpoint()
        callbacks.on_training_end()
        return self

    def checkpoint(self) -> None:
        """Store the agent. Transitions and cursors are stored as they come."""
        self._check_finite()
        file = io.BytesIO()
        self.model.save(file)
        self.journal.save_agent(SavedAgent(self.model.num_timesteps, self.trainer.trained_steps, file.getvalue()))
        self._saved = time.monotonic()

    def close(self) -> None:
        """Close the checkpoint and the link."""
        self.journal.close()
        self.link.close()

    def status(self) -> dict[str, float]:
        """
        What is logged as ``cloud/…``.

        :return: numbers by name
        """
        lags = {f"lag_of_{robot}": float(self._lag(robot)) for robot in dict(self.robots)}
        known = self._rates.per_second()
        return {
            **lags,
            "robots": float(len(self.robots)),
            "steps_per_second": known[0],
            "trained_steps_per_second": known[1],
            "steps_due": float(self.trainer.steps_due),
            "lag": sum(lags.values()),
            "policy_version": float(self.journal.version),
            "policy_age": max((robot.policy_age for robot in self.robots.values()), default=0.0),
            "versions_behind": float(max((self.journal.version - r.policy_version for r in self.robots.values()), default=0)),
            "missed_deadlines": sum(robot.values.get("missed", 0.0) for robot in self.robots.values()),
            "refused_batches": float(sum(self.reader.refused.values())),
        }

    def _status(self, beat: int) -> LearnerStatus:
        return LearnerStatus(
            beat=beat,
            time=time.time(),
            policy_version=self.journal.version,
            num_timesteps=self.model.num_timesteps,
            values=self.status(),
        )

    def _receive(self, callback: BaseCallback, log_interval: int) -> bool:
        """Take what came; False where the callback wants to stop."""
        model, goes_on = self.model, True
        try:
            batches = self.reader.read()
        except LinkError as error:
            self._wait_for_link(error)
            return True
        if batches or self.reader.refused.total() > self._n_refused:
            self._n_refused = self.reader.refused.total()
            self.journal.store(batches, self.reader.cursors)
            self._has_to_confirm = True
        for batch in batches:
            episodes = model._episode_num
            goes_on = self.trainer.add(batch.robot, batch.transitions, self._total, callback) and goes_on
            if log_interval and model._episode_num // log_interval > episodes // log_interval:
                self._log()
        if self._has_to_confirm:  # also what an earlier call, or a learner that was killed, could not
            try:
                self.reader.confirm()
            except LinkError as error:
                self._wait_for_link(error)
                return goes_on
            self._has_to_confirm = False
        self._say("")
        return goes_on

    def _wait_for_link(self, error: LinkError) -> None:
        self._say(str(error))
        time.sleep(RETRY_AFTER)

    def _keep_up(self) -> None:
        """Publish, store and look after the robots as it is due."""
        now = time.monotonic()
        if now >= self._pushed + self.push_period:
            self._push()
        if now >= self._saved + self.checkpoint_period:
            self.checkpoint()
        if now >= self._looked + STATUS_EVERY:
            self._looked = now
            with suppress(LinkError):
                found = {name: self._gate(decode_robot_status, frame) for name, frame in self.link.statuses().items()}
                self.robots = {name: status for name, status in found.items() if status is not None}

    def _push(self) -> None:
        """Publish the present policy."""
        self._check_finite()
        try:
            known = self.link.learner() if self._pushed == 0.0 else None
            told = None if known is None else self._gate(decode_learner_status, known)
            version = self.journal.next_version(0 if told is None else told.policy_version)
            self.link.publish(version, encode_policy(self.trainer.policy(version, time.time()), self.layout))
            self._pushed = time.monotonic()
        except LinkError as error:
            self._say(str(error))
            self._pushed = time.monotonic() - self.push_period + RETRY_AFTER

    def _check_finite(self) -> None:
        if not is_finite(self.model):
            raise FloatingPointError(
                f"Weights are not finite after {self.trainer.trained_steps} env steps of training: nothing was published or "
                f"stored since. Start again from the checkpoint in {self.folder}, with a lower learning rate."
            )

    def _lag(self, robot: str) -> int:
        """Transitions that a robot has stored and that were not received."""
        cursor = self.reader.cursors.get(robot)
        received = 0 if cursor is None or cursor.next_transition is None else cursor.next_transition
        return max(self.robots[robot].next_transition - received, 0)

    def _log(self) -> None:
        for name, value in self.status().items():
            self.model.logger.record(f"cloud/{name}", value)
        self.model.dump_logs()

    def _say(self, message: str) -> None:
        """Print a message once."""
        if message and message != self._link_down:
            print(f"cloud: {message}", flush=True)
        self._link_down = message


def check_algorithm(model: Any) -> None:
    """
    Refuse a model of an algorithm that cannot go on learning so.

    :param model: the model
    :raises ValueError: if it is of another algorithm than AsymSAC, SAC, TD3 and DDPG
    """
    if type(model).__name__ not in ALGORITHMS:
        raise ValueError(f"{type(model).__name__} does not learn from robots: {', '.join(ALGORITHMS)} do.")


def check_model(model: OffPolicyAlgorithm) -> None:
    """
    Refuse a model that cannot learn from robots.

    :param model: the model
    :raises ValueError: if it is of another algorithm, has several envs or none, a budget, or explores with gSDE
    """
    check_algorithm(model)
    if model.env is None or model.n_envs != 1:
        raise ValueError(f"The model must have a single env, as each robot is one; it has {model.n_envs}: load it with env=.")
    check_no_budget(model)
    if model.use_sde:
        raise ValueError("Robots do not explore with gSDE: make the model without use_sde.")


def checkpoint_folder(url: str, folder: str | Path | None) -> Path:
    """
    The folder of a learner's checkpoint.

    :param url: address of the link
    :param folder: the folder, if one was given
    :return: the folder
    """
    if folder is not None:
        return Path(folder)
    local = local_folder(url)
    return Path("outputs") / "cloud" if local is None else local / "cloud"


def _vec_env(model: Any, env: GymEnv | str | None, vec_normalize: str | Path | None) -> VecEnv:
    """An env with a model's spaces, and frozen normalization as in its training."""
    if isinstance(env, str):
        env = make_env(env)
    made: Any = SampledObservations(model) if env is None else env
    vec_env = made if isinstance(made, VecEnv) else DummyVecEnv([lambda: made])
    if vec_normalize is not None:
        if not Path(vec_normalize).is_file():
            raise FileNotFoundError(f"There is no file {vec_normalize} with statistics of VecNormalize.")
        vec_env = VecNormalize.load(str(vec_normalize), vec_env)
        vec_env.training = False
    return vec_env
