"""Exported ONNX in ONNX Runtime. Needs the extra ``export`` (onnx, onnxruntime)."""

import json
from pathlib import Path

import numpy as np

from sb3_asym.deployment.agent import DeployableAgent
from sb3_asym.deployment.recording import Recording
from sb3_asym.deployment.runners import Observation, Runner, step_latencies
from sb3_asym.export.onnx import network_bytes, open_session, write_onnx


class OnnxFormat:
    """ONNX as a :class:`sb3_asym.export.format.Format`."""

    name = "onnx"

    def n_bytes(self, agent: DeployableAgent) -> dict[str, int]:
        """Bytes of each network's numbers in ONNX, by the name of the network."""
        return {network.name: network_bytes(network) for network in agent.networks}

    def write(self, agent: DeployableAgent, recording: Recording, folder: Path) -> None:
        """Write the ONNX files; they hold no self-test."""
        write_onnx(agent, folder)

    def runner(self, agent: DeployableAgent, folder: Path) -> Runner:
        """Runner of the ``policy.onnx`` in a folder."""
        return OnnxRunner(agent, folder)

    def latencies(self, agent: DeployableAgent, folder: Path, observations: np.ndarray) -> np.ndarray:
        """Time of each step of the ``policy.onnx`` in a folder, ns, over several rounds."""
        return step_latencies(OnnxRunner(agent, folder), agent, observations)


class OnnxRunner:
    """
    Runner of the exported ``policy.onnx`` in ONNX Runtime, on one thread.

    Inputs and outputs are bound to arrays once, which takes a third off the time of a step.

    :param agent: the agent that was exported
    :param folder: folder with ``policy.onnx``
    """

    def __init__(self, agent: DeployableAgent, folder: Path):
        self.agent = agent
        self._session = open_session(folder / "policy.onnx")
        self._binding = self._session.io_binding()
        self._arrays: dict[str, np.ndarray] = {}
        for bind, values in (
            (self._binding.bind_input, self._session.get_inputs()),
            (self._binding.bind_output, self._session.get_outputs()),
        ):
            for value in values:
                array = np.zeros(value.shape, dtype=np.int64 if value.type == "tensor(int64)" else np.float32)
                bind(value.name, "cpu", 0, array.dtype, array.shape, array.ctypes.data)
                self._arrays[value.name] = array
        dial = json.loads(self._session.get_modelmeta().custom_metadata_map.get("dial", "null"))
        self._cost_coef = None if dial is None else dial["cost_coef"]
        self.set_cost_coef(None)
        self.reset()

    def set_cost_coef(self, cost_coef: float | None) -> None:
        """
        Choose under another λ from now on.

        :param cost_coef: λ, return per env step of the most expensive sub-policy; None for the one that was exported
        """
        if "cost_coef" in self._arrays:
            self._arrays["cost_coef"][:] = self._cost_coef if cost_coef is None else cost_coef

    def reset(self) -> None:
        """Start an episode."""
        self._arrays["option_in"][:] = self._arrays["steps_left_in"][:] = 0

    def step(self, observation: Observation) -> tuple[int, np.ndarray]:
        """Option in force and action for an observation."""
        for part in self.agent.observations:
            self._arrays[part.name][0] = observation[part.name] if isinstance(observation, dict) else observation
        self._session.run_with_iobinding(self._binding)
        for name in ("option", "steps_left"):
            self._arrays[f"{name}_in"][:] = self._arrays[name]
        return int(self._arrays["option"][0]), self._arrays["action"][0].copy()
