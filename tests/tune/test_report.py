"""What is read out of a study's trials."""

import csv
import shlex

import optuna
import pytest
import torch.nn as nn
import yaml

from sb3_asym.tune import TrialResult, open_study
from sb3_asym.tune.report import chosen, training_command, trial_results, write_csv


def result(number, reward, flops, best=True, params=None, alone=None):
    return TrialResult(number, params or {}, 0.1, reward, 0.0, flops, 0.5, alone or {}, best, "")


def test_the_chosen_trial_gives_up_little_return_for_less_cost():
    results = [
        result(0, -200.0, 100.0),
        result(1, -102.0, 500.0),
        result(2, -100.0, 900.0),
        result(3, -90.0, 2000.0, best=False),
    ]
    assert chosen(results).number == 1
    with pytest.raises(ValueError, match="No finished trial is within the budget"):
        chosen([result(0, -200.0, 100.0, best=False)])


def test_a_budget_keeps_to_the_trials_that_cost_no_more(tmp_path, make_settings):
    settings = make_settings(tmp_path, budget=0.4)
    study = open_study(settings)
    for reward, share in ((-100.0, 0.9), (-150.0, 0.3), (-120.0, 0.35)):
        attributes = dict(rewards=[reward], flops=[share], flops_share=share, alone={}, cost_coefs=[0.1])
        constraints = dict(budget=share - settings.budget)
        study.add_trial(optuna.trial.create_trial(value=reward, user_attrs=attributes, constraints=constraints))
    assert [result.mean_reward for result in trial_results(study, settings) if result.best] == [-120.0]


def test_none_is_best_where_all_cost_more_than_the_budget(tmp_path, make_settings):
    settings = make_settings(tmp_path, budget=0.4)
    study = open_study(settings)
    attributes = dict(rewards=[-100.0], flops=[0.9], flops_share=0.9, alone={}, cost_coefs=[0.1])
    study.add_trial(optuna.trial.create_trial(value=-100.0, user_attrs=attributes, constraints=dict(budget=0.5)))
    assert not any(result.best for result in trial_results(study, settings))


def test_the_command_says_what_the_trial_used_in_words_that_the_zoo_knows(tmp_path, make_settings, capsys):
    config = tmp_path / "my config.yml"
    values = dict(n_timesteps=10, policy="MlpPolicy", policy_kwargs="dict(net_arch=[8], activation_fn=nn.ELU)")
    config.write_text(yaml.dump({"Pendulum-v1": values}))
    settings = make_settings(tmp_path, config=str(config), sizes=True, hyperparams=dict(optimizer=[nn.ReLU, 1]))
    command = training_command(result(0, 0.0, 1.0, params=dict(cost_coef=0.25, small=4, large=64)), settings)
    assert shlex.split(command) == [
        *("sb3-asym", "train", "--algo", "asym_sac", "--env", "Pendulum-v1", "-conf", str(config), "-params"),
        "optimizer:[nn.ReLU, 1]",
        "cost_coef:0.25",
        "policy_kwargs:{'activation_fn': nn.ELU, 'sub_net_archs': {'small': [4, 4], 'large': [64, 64]}}",
    ]
    assert capsys.readouterr().out == ""


def test_the_table_has_a_row_for_each_trial(tmp_path):
    results = [result(0, 1.0, 2.0, params=dict(cost_coef=0.1), alone=dict(größe=(3.0, 4.0)))]
    write_csv(results, tmp_path / "trials.csv")
    with (tmp_path / "trials.csv").open(encoding="utf-8") as file:
        rows = list(csv.DictReader(file))
    assert [(row["number"], row["cost_coef"], row["größe_alone_reward"], row["größe_alone_flops"]) for row in rows] == [
        ("0", "0.1", "3.0", "4.0")
    ]
