"""TorchScript, for comparison with the exports."""

import warnings

import numpy as np
import torch as th

from sb3_asym.deployment.agent import DeployableAgent
from sb3_asym.deployment.runners import Observation, ReferenceRunner


class TorchScriptRunner(ReferenceRunner):
    """
    Runner of networks that TorchScript has traced; Python holds the options.

    :param agent: agent in fp32
    """

    def __init__(self, agent: DeployableAgent):
        super().__init__(agent)
        example = th.zeros(1, agent.obs_dim)
        with warnings.catch_warnings():  # about weights that become constants, as they should
            warnings.simplefilter("ignore", th.jit.TracerWarning)
            self._networks = [th.jit.trace(network.forward, example) for network in agent.networks]

    def step(self, observation: Observation) -> tuple[int, np.ndarray]:
        """Option in force and action for an observation."""
        x = self.agent.normalize(self.agent.flatten(observation)[None])
        with th.inference_mode():
            if self.steps_left == 0:
                self.option = 0 if self.agent.master is None else int(self._networks[-1](x).argmax())
                self.steps_left = self.agent.option_length
            output = self._networks[self.option](x).numpy()
        self.steps_left -= 1
        return self.option, self.agent.as_actions(output)[0]
