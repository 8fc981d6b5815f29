"""The study of some settings, in its storage."""

from typing import Any

import optuna
from optuna.storages import BaseStorage
from optuna.trial import TrialState

from sb3_asym.tune.liveness import fail_dead_trials
from sb3_asym.tune.settings import TuneSettings
from sb3_asym.tune.storage import clear_errors, open_storage, without_password

FINISHED = (TrialState.COMPLETE, TrialState.PRUNED)
COUNTED = (*FINISHED, TrialState.RUNNING)
"""States of the trials that count towards ``n_trials``."""


def open_study(settings: TuneSettings) -> optuna.Study:
    """
    The study, new or as it is in its storage. Trials whose process is gone are marked as failed.

    :param settings: settings of the study
    :return: the study
    :raises ValueError: if there is one of that name with other settings, or the storage's address is none
    :raises OSError: if the storage or the output folder cannot be written
    :raises ImportError: if the driver of the storage is missing
    """
    try:
        settings.output.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise OSError(
            f"The folder {settings.output} cannot be made ({error.strerror}): give another for the output."
        ) from error
    fixed = settings.fixed
    address = _address(settings)
    storage = open_storage(settings.storage, settings.output)
    with clear_errors(address):
        study = optuna.create_study(
            storage=storage,
            study_name=_name(settings),
            sampler=_sampler(),
            directions=["maximize", "minimize"] if settings.budget is None else ["maximize"],
            load_if_exists=True,
        )
        note_settings(study, fixed, address)
        fail_dead_trials(study)
    return study


def load_study(settings: TuneSettings, storage: BaseStorage) -> optuna.Study:
    """
    The study that :func:`open_study` has made, for one of its processes.

    :param settings: settings of the study
    :param storage: its storage
    :return: the study
    """
    return optuna.load_study(study_name=_name(settings), storage=storage, sampler=_sampler())


def note_settings(study: optuna.Study, settings: dict[str, Any], address: str) -> None:
    """
    Note the settings in a new study, or compare them with those that it has.

    :param study: the study
    :param settings: what all its trials have in common, as JSON values by name
    :param address: address of its storage
    :raises ValueError: if the study has others
    """
    noted = study.user_attrs.get("settings")
    if noted is None and study.get_trials(deepcopy=False):
        what = "is not of sb3-asym tune"
        raise ValueError(_refusal(study, address, what))
    # Version 0.1.0 noted fewer settings: its studies go on, as they did, because what it did not note cannot be compared.
    changes = _changes({} if noted is None else noted, settings)
    if changes:
        raise ValueError(_refusal(study, address, f"tunes something else ({', '.join(changes)})"))
    merged = {**(noted or {}), **settings}
    if merged != noted:
        study.set_user_attr("settings", merged)


def count_trials(study: optuna.Study, states: tuple[TrialState, ...]) -> int:
    """
    Number of trials in some states.

    :param study: the study
    :param states: the states
    :return: number of trials, those of other processes and machines included
    """
    return len(study.get_trials(deepcopy=False, states=states))


def is_surplus(study: optuna.Study, number: int, n_trials: int) -> bool:
    """
    Whether a trial that has just begun is one too many, which happens where machines claim the last one at the same time.
    The storage numbers trials, so all machines agree on which of them it is.

    :param study: the study
    :param number: number of the trial
    :param n_trials: trials of the study as a whole
    :return: True if there are enough without it
    """
    before = [trial for trial in study.get_trials(deepcopy=False, states=COUNTED) if trial.number < number]
    return len(before) >= n_trials


def _changes(noted: dict[str, Any], settings: dict[str, Any]) -> list[str]:
    """A phrase for each setting that both have, and that differs; hyperparameters one by one."""
    changes = []
    for name in noted:
        if name not in settings or noted[name] == settings[name]:
            continue
        if name != "hyperparams":
            changes.append(f"{name} was {noted[name]}, now {settings[name]}")
            continue
        for key in sorted({*noted[name], *settings[name]}):
            was, now = (values.get(key, "not given") for values in (noted[name], settings[name]))
            if was != now:
                changes.append(f"{key} was {was}, now {now}")
    return changes


def _refusal(study: optuna.Study, address: str, what: str) -> str:
    where = without_password(address)
    return f"Study {study.study_name!r} in {where} {what}: give another study name, and another output folder for it."


def _address(settings: TuneSettings) -> str:
    return settings.storage or str(settings.output / "study.db")


def _name(settings: TuneSettings) -> str:
    return settings.study_name or settings.env


def _sampler() -> optuna.samplers.BaseSampler:
    return optuna.samplers.TPESampler(constant_liar=True)
