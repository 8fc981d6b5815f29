"""Four sub-policies by name, cheapest first, and λ that grows with training progress."""

import argparse

from sb3_asym import AsymSAC, evaluate

parser = argparse.ArgumentParser(description=__doc__)
parser.add_argument("--timesteps", type=int, default=8_000)
arguments = parser.parse_args()


def cost_coef(progress_remaining: float) -> float:
    """From 0 at the start to 0.1 at the end."""
    return 0.1 * (1 - progress_remaining)


model = AsymSAC(
    "MlpPolicy",
    "Pendulum-v1",
    option_length=4,
    cost_coef=cost_coef,
    learning_rate=1e-3,
    policy_kwargs={"sub_net_archs": {"linear": [], "tiny": [8, 8], "medium": [32, 32], "large": [64, 64]}},
    seed=0,
    device="cpu",
)
model.learn(arguments.timesteps, progress_bar=True)
print(evaluate(model, n_eval_episodes=10))
