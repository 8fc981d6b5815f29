"""
Runs an exported agent in an env that has continuous actions. Needs numpy, onnxruntime and gymnasium only:

sb3-asym export outputs/half_cheetah/final.zip --format onnx -o outputs/half_cheetah/onnx
python examples/onnx_control_loop.py outputs/half_cheetah/onnx HalfCheetah-v5
"""

import argparse
import json

import gymnasium as gym
import numpy as np
import onnxruntime

parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
parser.add_argument("folder", help="what sb3-asym export --format onnx wrote")
parser.add_argument("env", help="Gymnasium id, such as HalfCheetah-v5")
parser.add_argument("--env-kwargs", type=json.loads, default={}, help="arguments of the env as JSON")
parser.add_argument("--budget", type=float, help="share of the largest sub-policy's FLOPs, by default the agent's own, if any")
parser.add_argument("--seed", type=int, default=0)
arguments = parser.parse_args()

options = onnxruntime.SessionOptions()
options.intra_op_num_threads = 1
options.add_session_config_entry("session.x64quantprecision", "1")  # int8 exact on x86 processors without VNNI, too
session = onnxruntime.InferenceSession(f"{arguments.folder}/policy.onnx", options)
metadata = session.get_modelmeta().custom_metadata_map
names, dial = json.loads(metadata["option_names"]), json.loads(metadata["dial"])
if arguments.budget is not None and (dial is None or not 0 < arguments.budget <= 1):
    parser.error("--budget is a share, above 0 and up to 1, for an agent with a dial")
env = gym.make(arguments.env, **arguments.env_kwargs)

observation, _ = env.reset(seed=arguments.seed)
option, steps_left = np.zeros(1, dtype=np.int64), np.zeros(1, dtype=np.int64)  # an episode starts
if dial is not None:  # λ is an input
    cost_coef, budget = dial["cost_coef"], arguments.budget or dial["budget"]
total, uses, done = 0.0, [0] * len(names), False
while not done:
    parts = observation if isinstance(observation, dict) else {"observation": observation}
    feeds = {name: np.asarray(part, dtype=np.float32)[None] for name, part in parts.items()}
    if dial is not None:
        feeds["cost_coef"] = np.float32([cost_coef])
    action, option, steps_left = session.run(None, {**feeds, "option_in": option, "steps_left_in": steps_left})
    if dial is not None and budget:  # λ is steered by what the step has cost
        excess = dial["cost_shares"][option[0]] - budget
        cost_coef = np.clip(cost_coef * np.exp(dial["steering_rate"] * excess), dial["low"], dial["high"])
    observation, reward, terminated, truncated, _ = env.step(action[0].reshape(env.action_space.shape))
    total, done = total + float(reward), terminated or truncated
    uses[option[0]] += 1
print(f"return {total:.3f} in {sum(uses)} steps")
for name, use in zip(names, uses, strict=True):
    print(f"{name}: {use / sum(uses):.1%} of the steps")
