"""Studies keep to the settings of their trials."""

from pathlib import Path

import optuna
import pytest
import torch.nn as nn

import sb3_asym.zoo.experiment
from sb3_asym.tune import open_study
from sb3_asym.zoo import hyperparameters_path

NOTED_BY_0_1_0 = ("env", "n_timesteps", "n_seeds", "budget", "sizes", "cost_coef", "option_length")


@pytest.fixture
def make(tmp_path, make_settings):
    """Builds settings of a study in ``tmp_path``; keyword arguments replace them."""
    return lambda **kwargs: make_settings(tmp_path, **kwargs)


@pytest.fixture
def write_config(tmp_path):
    """Writes hyperparameters of two envs and returns the path; keyword arguments replace those of Pendulum-v1."""

    def write(name="config.yml", other=0.5, **kwargs):
        values = dict(n_timesteps=100, policy="MlpPolicy", gamma=0.9, option_length=4, cost_coef=0.1)
        path = tmp_path / name
        path.write_text(f"Pendulum-v1: { {**values, **kwargs} }\nOther-v0: {dict(gamma=other)}\n".replace("None", "null"))
        return str(path)

    return write


@pytest.mark.parametrize("storage", [None, "study.log"], ids=["sqlite", "journal"])
@pytest.mark.parametrize(
    ("kwargs", "message"),
    [
        (dict(cost_coef=(0.5, 0.6)), r"cost_coef was \[0.001, 1.0\], now \[0.5, 0.6\]"),
        (dict(n_eval_episodes=2), "n_eval_episodes was 1, now 2"),
        (dict(n_seeds=2), "n_seeds was 1, now 2"),
        (dict(n_timesteps=50), "n_timesteps was 40, now 50"),
        (dict(option_length=(1, 2)), r"option_length was None, now \[1, 2\]"),
        (dict(sizes=True), "sizes was False, now True"),
        (dict(budget=0.5), "budget was None, now 0.5"),
        (dict(env="MountainCarContinuous-v0"), "env was Pendulum-v1, now MountainCarContinuous-v0"),
        (dict(hyperparams=dict(learning_starts=30)), "batch_size was 8, now not given"),
        (dict(hyperparams=dict(batch_size=9)), "batch_size was 8, now 9"),
    ],
)
def test_a_study_of_something_else_is_refused(make, tmp_path, storage, kwargs, message):
    kwargs = dict(kwargs, study_name="mine", storage=None if storage is None else str(tmp_path / storage))
    open_study(make(study_name="mine", storage=kwargs["storage"]))
    with pytest.raises(ValueError, match=rf"Study 'mine' in .* tunes something else \(.*{message}.*give another study name"):
        open_study(make(**kwargs))
    open_study(make(**dict(kwargs, study_name="another")))


def test_what_does_not_change_a_trial_may_change(make, tmp_path):
    storage = str(tmp_path / "study.log")
    study = open_study(make(storage=storage))
    other = open_study(make(storage=storage, n_trials=7, device="auto", output=tmp_path / "elsewhere"))
    assert other.study_name == study.study_name


@pytest.mark.parametrize(
    ("changed", "message"),
    [(dict(gamma=0.8), "gamma was 0.9, now 0.8"), (dict(tau=0.1), "tau was not given, now 0.1")],
)
def test_other_content_of_the_configuration_is_noticed(make, write_config, changed, message):
    open_study(make(config=write_config()))
    with pytest.raises(ValueError, match=message):
        open_study(make(config=write_config(**changed)))


def test_of_the_configuration_only_what_trials_use_counts(make, write_config):
    open_study(make(config=write_config(), option_length=(2, 3)))
    # Another file; another env's values; and what the study sets itself.
    open_study(make(config=write_config("moved.yml", other=0.7, n_timesteps=5, option_length=9), option_length=(2, 3)))
    open_study(make(config=write_config(cost_coef=3.0), option_length=(2, 3)))


def test_other_sizes_count_unless_they_are_searched(make, write_config):
    small, large = ("dict(net_arch=[8], share_features_extractor=True)", "dict(net_arch=[9], share_features_extractor=True)")
    open_study(make(config=write_config(policy_kwargs=small), sizes=True))
    open_study(make(config=write_config(policy_kwargs=large), sizes=True))
    open_study(make(config=write_config(policy_kwargs=small), study_name="fixed"))
    with pytest.raises(ValueError, match="policy_kwargs was"):
        open_study(make(config=write_config(policy_kwargs=large), study_name="fixed"))


def test_other_defaults_of_a_new_version_are_noticed(make, tmp_path, monkeypatch):
    open_study(make())
    text = hyperparameters_path().read_text(encoding="utf-8")
    changed = tmp_path / "asym_sac.yml"
    changed.write_text(text.replace("Pendulum-v1:", "Pendulum-v1:\n  gamma: 0.123", 1), encoding="utf-8")
    monkeypatch.setattr(sb3_asym.zoo.experiment, "hyperparameters_path", lambda: changed)
    with pytest.raises(ValueError, match=r"gamma was not given, now 0\.123"):
        open_study(make())


def test_values_that_json_lacks_are_compared_too(make, tmp_path):
    config = tmp_path / "config.py"
    config.write_text("hyperparams = {'Pendulum-v1': dict(learning_rate=lambda progress: 1e-3, policy='MlpPolicy')}")
    relu = dict(policy_kwargs=dict(activation_fn=nn.ReLU, net_arch=(8, 8)))
    for _ in range(2):  # the lambda is another object each time
        open_study(make(config=str(config), hyperparams=relu))
    with pytest.raises(ValueError, match=r"policy_kwargs was .*ReLU.*, now .*ELU"):
        open_study(make(config=str(config), hyperparams=dict(policy_kwargs=dict(activation_fn=nn.ELU, net_arch=(8, 8)))))


def study_of_0_1_0(settings):
    study = optuna.create_study(
        storage=f"sqlite:///{settings.output / 'study.db'}", study_name=settings.env, directions=["maximize", "minimize"]
    )
    study.set_user_attr("settings", {name: settings.fixed[name] for name in NOTED_BY_0_1_0})
    study.add_trial(optuna.trial.create_trial(values=[0.0, 1.0]))


def test_a_study_of_the_version_before_goes_on_and_is_fixed_from_then_on(make):
    study_of_0_1_0(make())
    assert len(open_study(make()).trials) == 1
    with pytest.raises(ValueError, match="n_eval_episodes was 1, now 2"):
        open_study(make(n_eval_episodes=2))


def test_a_study_of_the_version_before_with_other_settings_is_refused(make):
    study_of_0_1_0(make())
    with pytest.raises(ValueError, match="n_seeds was 1, now 2"):
        open_study(make(n_seeds=2))


def test_a_study_of_a_version_after_is_compared_by_what_both_know(make):
    study = open_study(make())
    study.set_user_attr("settings", {**study.user_attrs["settings"], "unknown": 1})
    assert open_study(make()).user_attrs["settings"]["unknown"] == 1


def test_a_study_that_is_not_ours_is_refused(make, tmp_path):
    study = optuna.create_study(storage=f"sqlite:///{tmp_path / 'study.db'}", study_name="Pendulum-v1")
    study.add_trial(optuna.trial.create_trial(value=1.0))
    with pytest.raises(ValueError, match=r"Study 'Pendulum-v1' in .* is not of sb3-asym tune: give another study name"):
        open_study(make())
    assert not Path(tmp_path / "trials").exists()
