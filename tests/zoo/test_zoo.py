"""Every verb of the RL Zoo, for real, on tiny budgets."""

import os
import subprocess
import sys
from pathlib import Path

import gymnasium as gym
import pytest
import yaml

from sb3_asym import AsymSAC, zoo

EXAMPLES = Path(__file__).parents[2] / "examples"
TRAIN = "--algo asym_sac --env Pendulum-v1 -n 300 --eval-freq 150 --eval-episodes 2 --seed 1 --num-threads 1 --device cpu"
SHOW = "--algo asym_sac --env Pendulum-v1 -f logs -n 60 --device cpu"
TINY = "learning_starts:50 batch_size:16 fast_update:False"


@pytest.fixture(scope="module")
def workplace(tmp_path_factory):
    """A folder with a trained agent, in which the verbs run."""
    folder = tmp_path_factory.mktemp("zoo")
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(folder)
        patch.setenv("MPLBACKEND", "Agg")
        patch.setenv("TRUST_REMOTE_CODE", "True")  # load_from_hub asks for it
        patch.setattr(sys, "argv", ["pytest"])
        run("train", f"{TRAIN} -f logs --save-replay-buffer --save-freq 150 -params {TINY}")
        yield folder


def run(verb, arguments):
    zoo.run(verb, arguments.split())


def test_train_saves_what_the_zoo_saves_with_our_hyperparameters(workplace):
    folder = workplace / "logs" / "asym_sac" / "Pendulum-v1_1"
    assert {"Pendulum-v1.zip", "best_model.zip", "evaluations.npz", "replay_buffer.pkl"} <= set(os.listdir(folder))
    config = yaml.load((folder / "Pendulum-v1" / "config.yml").read_text(), yaml.UnsafeLoader)
    assert dict(config)["policy_kwargs"] == "dict(sub_net_archs=dict(small=[4], large=[64, 64]))"
    assert AsymSAC.load(folder / "Pendulum-v1.zip").policy.sub_net_archs == dict(small=[4], large=[64, 64])


def test_training_goes_on_from_a_saved_agent(workplace, capsys):
    agent = "logs/asym_sac/Pendulum-v1_1/Pendulum-v1.zip"
    run("train", f"{TRAIN} -f further -i {agent} -params {TINY}")
    assert "Loading replay buffer" in capsys.readouterr().out
    before, after = AsymSAC.load(agent), AsymSAC.load("further/asym_sac/Pendulum-v1_1/Pendulum-v1.zip")
    assert after.num_timesteps == 300
    assert after._n_updates > before._n_updates > 0


@pytest.mark.parametrize("more", ["", "--load-best --stochastic"])
def test_enjoy(workplace, capsys, more):
    run("enjoy", f"{SHOW} --no-render {more}".replace("-n 60", "-n 400"))
    assert "Mean reward" in capsys.readouterr().out


def test_record_video(workplace):
    pytest.importorskip("pygame")
    run("record_video", f"{SHOW} -o videos".replace(" --device cpu", ""))
    assert list(Path("videos").glob("*.mp4"))


def test_record_training(workplace, monkeypatch):
    """Checkpoints, the best and the final agent, joined by ffmpeg."""
    pytest.importorskip("pygame")
    ffmpeg = pytest.importorskip("imageio_ffmpeg").get_ffmpeg_exe()
    Path("programs").mkdir()
    Path("programs/ffmpeg").symlink_to(ffmpeg)
    monkeypatch.setenv("PATH", f"{Path('programs').absolute()}{os.pathsep}{os.environ['PATH']}")
    folder = Path("training").absolute()  # ffmpeg takes relative ones from another folder
    run("record_training", f"--algo asym_sac --env Pendulum-v1 -f logs -n 60 -o {folder}")
    names = {path.name.split("-asym_sac")[0] for path in folder.glob("*.mp4")}
    assert {"final-model", "best-model", "checkpoint-150"} <= names
    assert (folder / "training.mp4").stat().st_size > 1000


def test_benchmark(workplace, capfd):
    run("benchmark", "--log-dir logs --benchmark-dir measured --no-hub -n 400 --num-threads 1")
    assert "Mean reward" in capfd.readouterr().out
    assert list(Path("measured").glob("asym_sac-Pendulum-v1/*.monitor.csv"))


def test_plots(workplace):
    run("plot_train", "-a asym_sac -e Pendulum-v1 -f logs -w 1")
    run("train", f"{TRAIN} -f logs -params {TINY}")  # the next two want several runs
    run("all_plots", "-a asym_sac -e Pendulum-v1 -f logs --no-display -o results")
    run("plot_from_file", "-i results.pkl -o picture.png --format png")
    assert Path("picture.png").stat().st_size > 10_000


def test_the_hub_is_reached(workplace):
    pytest.importorskip("pygame")
    with pytest.raises(Exception, match="Connection refused"):
        run("push_to_hub", f"{SHOW} -orga nobody")
    with pytest.raises(Exception, match="check your connection"):
        run("load_from_hub", "--algo asym_sac --env Pendulum-v1 -f hub -orga nobody")


def test_weights_and_biases_tracks(workplace, monkeypatch):
    pytest.importorskip("wandb")
    monkeypatch.setenv("WANDB_MODE", "offline")
    run("train", f"{TRAIN} -f tracked --track -params {TINY}")
    assert list(Path("wandb").glob("offline-run-*"))


@pytest.mark.parametrize("storage", ["sqlite:///study.db", "study.log"])
def test_optimize(workplace, storage):
    budget = TRAIN.replace("-n 300 --eval-freq 150 --eval-episodes 2", "-n 70 --eval-freq -1 --eval-episodes 1")
    arguments = f"--n-trials 2 --n-jobs 2 --storage {storage} --study-name test --no-optim-plots --pruner none -params {TINY}"
    run("train", f"{budget} -f optimized -optimize {arguments}")
    run("train", f"{budget} -f chosen --storage {storage} --study-name test --trial-id 1 -params {TINY}")
    agent = AsymSAC.load("chosen/asym_sac/Pendulum-v1_1/Pendulum-v1.zip")
    assert set(agent.master_kwargs) == {"learning_rate", "exploration_fraction", "exploration_final_eps"}


def test_an_error_in_a_trial_is_not_counted_as_pruned(workplace, monkeypatch):
    def broken(self, *args, **kwargs):
        raise ValueError("a bug of ours")

    monkeypatch.setattr(AsymSAC, "train", broken)
    with pytest.raises(RuntimeError, match="Trial 0 failed: a bug of ours"):
        run("train", f"{TRAIN} -f broken -optimize --n-trials 1 --no-optim-plots -params {TINY}")


def test_a_trial_that_diverges_is_pruned(workplace, monkeypatch, capsys):
    def diverging(self, *args, **kwargs):
        raise FloatingPointError("The critic loss is nan")

    monkeypatch.setattr(AsymSAC, "train", diverging)
    with pytest.raises(ValueError, match="No trials are completed"):  # Optuna's, as there is no best one
        run("train", f"{TRAIN} -f diverged -optimize --n-trials 1 --no-optim-plots -params {TINY}")


def test_other_algorithms_are_the_zoos(workplace):
    run("train", f"{TRAIN} -f others".replace("asym_sac", "td3").replace("-n 300", "-n 50"))
    assert Path("others/td3/Pendulum-v1_1/Pendulum-v1.zip").exists()


@pytest.mark.parametrize("doorway", ["-m sb3_asym.zoo train", "-m sb3_asym.cli train", "-m rl_zoo3.train"])
def test_every_doorway_leads_to_the_zoos_train(tmp_path, doorway):
    (tmp_path / "custom_envs.py").write_text((EXAMPLES / "custom_envs.py").read_text())
    command = [sys.executable, *doorway.split(), "--help"]
    result = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, check=True)
    assert "asym_sac" in result.stdout
    assert "--optimize-hyperparameters" in result.stdout


@pytest.mark.parametrize(("arguments", "code"), [([], 0), (["--help"], 0), (["trian"], 2)])
def test_the_verbs_are_listed(arguments, code):
    result = subprocess.run([sys.executable, "-m", "sb3_asym.zoo", *arguments], capture_output=True, text=True)
    assert result.returncode == code
    assert "train,enjoy" in (result.stderr if code else result.stdout)


def hyperparameters():
    return yaml.safe_load(zoo.hyperparameters_path().read_text())


@pytest.mark.parametrize("env_id", [name for name in hyperparameters() if name != "default"])
def test_our_hyperparameters_train(env_id, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "argv", ["pytest", "--env", env_id])
    zoo.register()
    if env_id not in gym.registry:
        pytest.skip(f"{env_id} is not installed")
    tiny = "learning_starts:100 batch_size:8 train_freq:10 gradient_steps:2 buffer_size:1000 fast_update:False"
    run("train", f"--algo asym_sac --env {env_id} -n 120 --eval-freq -1 --seed 1 --num-threads 1 --device cpu -params {tiny}")
    assert len(list(tmp_path.glob("logs/asym_sac/*/*.zip"))) == 1
