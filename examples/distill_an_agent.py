"""From an agent that you have, or one that is trained now, to the cheapest that keeps its return, exported to C."""

import argparse
from importlib.util import find_spec
from pathlib import Path

from stable_baselines3 import SAC

from sb3_asym.deployment import load_model, load_statistics
from sb3_asym.distillation import DistillationSettings, distill
from sb3_asym.distillation.students import Schedule
from sb3_asym.envs import find_vec_normalize, make_env
from sb3_asym.export import export_c

parser = argparse.ArgumentParser(description=__doc__)
parser.add_argument("agent", nargs="?", type=Path, help="a zip file of SAC, TD3, DDPG, TQC, PPO, A2C, DQN or QRDQN")
parser.add_argument("--env", default="Pendulum-v1", help="Gymnasium id")
parser.add_argument("--timesteps", type=int, default=5_000, help="env steps of training, where no agent is given")
parser.add_argument("--updates", type=int, default=10_000, help="gradient steps of the students; distill makes 80,000")
parser.add_argument("--switching-steps", type=int, default=4_000, help="env steps from which masters learn; 0 for none")
parser.add_argument("--episodes", type=int, default=20, help="episodes to choose by, and as many to report")
parser.add_argument("--output", type=Path, default=Path("outputs/distilled"), help="new or empty folder")
arguments = parser.parse_args()

vec_normalize = None
if arguments.agent is None:
    policy_kwargs = {"net_arch": [64, 64]}
    teacher = SAC("MlpPolicy", arguments.env, learning_rate=1e-3, policy_kwargs=policy_kwargs, seed=0, device="cpu")
    teacher.learn(arguments.timesteps, progress_bar=bool(find_spec("tqdm") and find_spec("rich")))
else:
    teacher = load_model(arguments.agent)
    statistics = find_vec_normalize(arguments.agent)
    if statistics is not None:
        vec_normalize = load_statistics(teacher, statistics)

report = distill(
    teacher,
    arguments.env,
    output=arguments.output / "agents",
    vec_normalize=vec_normalize,
    n_eval_episodes=arguments.episodes,
    settings=DistillationSettings(
        n_envs=10, schedule=Schedule(n_updates=arguments.updates), n_switching_steps=arguments.switching_steps
    ),
)
print(report)
if report.best is not None:
    chosen = load_model(arguments.output / "agents" / report.best.file)
    print(export_c(chosen, arguments.output / "robot", make_env(arguments.env), n_eval_episodes=arguments.episodes))
