"""Train, measure, save, load. So short a run is not compiled, so its steps take longer."""

from sb3_asym import AsymSAC, evaluate

model = AsymSAC("MlpPolicy", "Pendulum-v1", cost_coef=0.1, learning_rate=1e-3, policy_kwargs={"net_arch": [64, 64]}, seed=0)
model.learn(5_000, progress_bar=True)
print(evaluate(model, n_eval_episodes=10))
model.save("outputs/quick_start")
model = AsymSAC.load("outputs/quick_start")
