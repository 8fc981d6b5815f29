"""RLtools' SAC in a process of its own: its MKL and torch's do not go together."""

import argparse
import os
import subprocess
import sys
from collections.abc import Callable


def make_learner(task: str, units: int, batch_size: int, n_warm_up: int) -> Callable[[int], None]:
    """
    :param task: a Gymnasium env
    :param units: of each of the two hidden layers of actor and critics
    :param batch_size: of each update; there is one per env step
    :param n_warm_up: env steps to train at once
    :return: what trains the agent for a number of env steps
    """
    command = [sys.executable, __file__, task, str(units), str(batch_size)]
    environment = {**os.environ, "MKL_NUM_THREADS": "1"}
    process = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, env=environment)

    def learn(n_steps: int) -> None:
        print(n_steps, file=process.stdin, flush=True)
        while (line := process.stdout.readline()) != "done\n":
            if not line:
                raise RuntimeError("The process of RLtools has ended.")

    learn(n_warm_up)
    return learn


def main() -> None:
    """Read numbers of env steps from standard input, train for so many, and say so."""
    import gymnasium as gym
    from gymnasium.wrappers import RescaleAction
    from rltools import SAC

    parser = argparse.ArgumentParser(description=main.__doc__)
    parser.add_argument("task")
    parser.add_argument("units", type=int)
    parser.add_argument("batch_size", type=int)
    arguments = parser.parse_args()
    sac = SAC(
        lambda: RescaleAction(gym.make(arguments.task), -1, 1),
        enable_evaluation=False,
        interface_name=f"units_{arguments.units}",
        ACTOR_BATCH_SIZE=arguments.batch_size,
        CRITIC_BATCH_SIZE=arguments.batch_size,
        ACTOR_HIDDEN_DIM=arguments.units,
        CRITIC_HIDDEN_DIM=arguments.units,
        STEP_LIMIT=10_000_000,
        REPLAY_BUFFER_CAP=100_000,
    )
    state = sac.State(0)
    for line in sys.stdin:
        for _ in range(int(line)):
            state.step()
        print("done", flush=True)


if __name__ == "__main__":
    main()
