"""What settings of a study are refused."""

import gymnasium as gym
import pytest

from sb3_asym.tune.settings import parse_hyperparams


@pytest.mark.parametrize(
    ("kwargs", "message"),
    [
        (dict(cost_coef=(0.0, 1.0)), "λ needs a range of positive numbers"),
        (dict(option_length=(5, 2)), "The option length needs a range"),
        (dict(budget=1.5), "A budget is a share"),
        (dict(n_trials=0), "must be at least 1"),
        (dict(hyperparams=dict(cost_coef=1.0)), "The study searches cost_coef"),
        (dict(hyperparams=dict(cost_coef="dial")), "leaves no λ to search: search the option length or the sizes"),
        (dict(hyperparams=dict(cost_coef="dail"), sizes=True), "cost_coef .* must be"),
        (dict(device="cudo"), "There is no device 'cudo'"),
        (dict(config="nope.yml"), "There is no file nope.yml"),
        (dict(config="nope_module"), "cannot be read from nope_module .*No module named 'nope_module'"),
        (dict(env="Nowhere-v0"), "`Nowhere` doesn't exist"),
        (dict(env="nope_module:Nowhere-v0"), "There is no module 'nope_module' that registers the env"),
    ],
)
def test_bad_settings(tmp_path, make_settings, kwargs, message):
    with pytest.raises((ValueError, FileNotFoundError, gym.error.Error), match=message):
        make_settings(tmp_path, **kwargs)


def test_a_dial_in_the_file_is_not_searched_over(tmp_path, make_settings):
    """A λ in the file is: the study replaces it."""
    for cost_coef, is_searched in (("dial", False), ("auto_0.3", False), ("[0.01, 1.0]", False), ("0.2", True)):
        config = tmp_path / f"{cost_coef}.yml"
        config.write_text(f"Pendulum-v1: {{cost_coef: {cost_coef}}}")
        settings = make_settings(tmp_path, config=str(config), sizes=True)
        assert settings.searches_cost_coef is is_searched
        assert ("cost_coef" in settings.fixed) is is_searched
        assert ("cost_coef" in settings.fixed["hyperparams"]) is not is_searched
    with pytest.raises(ValueError, match="leaves no λ to search"):
        make_settings(tmp_path, config=str(tmp_path / "dial.yml"))


@pytest.mark.parametrize(
    ("name", "text"),
    [
        ("bad.yml", "a: [b"),
        ("list.yml", "- a"),
        ("other.yml", "Other-v0: {}"),
        ("bad.py", "hyperparams ="),
        ("no.py", "x = 1"),
    ],
)
def test_bad_files_of_hyperparameters(tmp_path, make_settings, name, text):
    path = tmp_path / name
    path.write_text(text)
    with pytest.raises(ValueError, match=f"The hyperparameters for Pendulum-v1 cannot be read from .*{name}"):
        make_settings(tmp_path, config=str(path))


def test_hyperparameters_are_read_as_the_zoo_does():
    found = parse_hyperparams(["gamma:0.9", "policy:MlpPolicy", "policy_kwargs:dict(net_arch=[64, 64])"])
    assert found == dict(gamma=0.9, policy="MlpPolicy", policy_kwargs=dict(net_arch=[64, 64]))


@pytest.mark.parametrize(
    ("argument", "message"), [("gamma", "name:value, got 'gamma'"), ("gamma:1/0", "'gamma:1/0' cannot be evaluated")]
)
def test_bad_hyperparameters(argument, message):
    with pytest.raises(ValueError, match=message):
        parse_hyperparams([argument])
