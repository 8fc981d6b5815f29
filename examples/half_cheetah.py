"""HalfCheetah with the sizes of benchmarks/switching.py; a sixth of its training takes a few minutes."""

import argparse
from importlib.util import find_spec

from stable_baselines3.common.callbacks import CheckpointCallback

from sb3_asym import AsymSAC, evaluate

parser = argparse.ArgumentParser(description=__doc__)
parser.add_argument("--env", default="HalfCheetah-v5", help="any MuJoCo env of Gymnasium")
parser.add_argument("--timesteps", type=int, default=25_000)
arguments = parser.parse_args()

model = AsymSAC(
    "MlpPolicy",
    arguments.env,
    cost_coef=0.5,
    learning_starts=min(10_000, arguments.timesteps // 5),
    policy_kwargs={"sub_net_archs": {"small": [4, 4], "large": [128, 128]}},
    tensorboard_log="outputs/tensorboard" if find_spec("tensorboard") else None,
    seed=0,
    device="cpu",
)
model.learn(arguments.timesteps, callback=CheckpointCallback(50_000, "outputs/half_cheetah"), progress_bar=True)
model.save("outputs/half_cheetah/final")
print(evaluate(model, n_eval_episodes=5))
