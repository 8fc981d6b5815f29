"""Measurement of an exported agent: time, instructions, memory, energy."""

import platform
import subprocess
import tempfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import torch as th
from stable_baselines3.common.base_class import BaseAlgorithm
from stable_baselines3.common.vec_env import VecNormalize

from sb3_asym.bench_export import cortex_m4, energy
from sb3_asym.bench_export.footprint import footprint
from sb3_asym.bench_export.instructions import PORTABLE_FLAGS, instructions_per_step, over_predicted
from sb3_asym.bench_export.report import CORTEX_M4, BenchReport, Measurement
from sb3_asym.bench_export.torchscript import TorchScriptRunner
from sb3_asym.deployment.agent import DeployableAgent, ObservationPart
from sb3_asym.deployment.from_sb3 import deployable
from sb3_asym.deployment.recording import Recording, errors
from sb3_asym.deployment.runners import ModelRunner, step_latencies
from sb3_asym.export.c_runner import CFormat, c_compiler
from sb3_asym.export.export import N_SELFTEST_STEPS
from sb3_asym.export.folder import read_export
from sb3_asym.export.format import Format
from sb3_asym.policies import AsymSACPolicy
from sb3_asym.quantization.ptq import quantize
from sb3_asym.quantization.schemes import EXPORTED
from sb3_asym.versions import versions

AGENT = "agent"
ENERGY_SECONDS = 2.0
RUNTIMES = {"c": "C", "onnx": "ONNX Runtime"}


def bench(
    folder: str | Path,
    model: BaseAlgorithm | None = None,
    vec_normalize: VecNormalize | None = None,
    on_measured: Callable[[], Any] | None = None,
) -> BenchReport:
    """
    Measure an export over the first episode of its recorded steps, at batch size 1 and on one thread.

    Without the model, the agent in the folder is measured, as a whole and by the sub-policy in force. With the model, the
    other format, each sub-policy alone, TorchScript and ``predict`` are measured too.

    :param folder: folder that ``export_c`` or ``export_onnx`` wrote
    :param model: model from which the export was made
    :param vec_normalize: normalization that was folded into the export; that of the model's own env by default
    :param on_measured: function to call after each measurement
    :return: figures, and the reasons for those that could not be measured on this machine
    :raises ValueError: if the folder holds no export, or the export was not made from the model
    """
    n_threads = th.get_num_threads()
    th.set_num_threads(1)
    try:
        with tempfile.TemporaryDirectory() as scratch:
            return _Bench(Path(folder), Path(scratch), on_measured).run(model, vec_normalize)
    finally:
        th.set_num_threads(n_threads)


class _Bench:
    """
    One run of :func:`bench`.

    :param folder: folder with the export
    :param scratch: folder for the other exports, of the comparison
    :param on_measured: function to call after each measurement
    """

    def __init__(self, folder: Path, scratch: Path, on_measured: Callable[[], Any] | None):
        self.folder, self.scratch, self.on_measured = folder, scratch, on_measured
        self.manifest, recording = read_export(folder)
        self.episode = recording.first_episode()
        self.measurements: list[Measurement] = []
        self.not_measured: list[str] = []
        self.names: list[str] = list(self.manifest["n_bytes"])[: self.manifest["n_options"]]
        self.target: Format = _format(self.manifest)

    def run(self, model: BaseAlgorithm | None, vec_normalize: VecNormalize | None) -> BenchReport:
        """Measure everything that can be measured on this machine."""
        use = np.bincount(self.episode.options, minlength=len(self.names))
        shares = (use / use.sum()).tolist()
        report = BenchReport(
            format=self.target.name,
            precision=self.manifest["precision"],
            n_steps=len(self.episode.options),
            option_use=dict(zip(self.names, shares, strict=True)),
            versions=versions(),
        )
        if model is None:
            self._measure_export(_interface(self.manifest, self.episode), self.target, AGENT, self.folder)
            self.not_measured.append("each sub-policy alone, the other runtimes: these need the model that was exported.")
        else:
            report = replace(report, **self._compare(model, vec_normalize, use))
        if isinstance(self.target, CFormat):
            report = replace(report, **self._measure_c(self.target))
        return replace(report, measurements=tuple(self.measurements), not_measured=tuple(self.not_measured))

    def _compare(self, model: BaseAlgorithm, vec_normalize: VecNormalize | None, use: np.ndarray) -> dict[str, Any]:
        """Measure the agent and each sub-policy alone, in all runtimes."""
        vec_normalize = vec_normalize or model.get_vec_normalize_env()
        fp32 = deployable(model, vec_normalize)
        shapes = {part.name: list(part.shape) for part in fp32.observations}
        same_spaces = shapes == self.manifest["observation"] and fp32.action_dim == self.episode.actions.shape[1]
        if (
            not same_spaces
            or tuple(fp32.n_bytes) != tuple(self.manifest["n_bytes"])
            or errors(fp32, self.episode)["mean_action_error"] > 0.05
        ):
            raise ValueError(f"{self.folder} was not exported from this model (or not with these statistics).")
        schemes = {name: EXPORTED[precision] for name, precision in self.manifest["precision"].items()}
        agent = quantize(fp32, schemes, self.episode.observations)
        options: dict[str, int | None] = {AGENT: None}
        if agent.master is not None:
            options |= {f"{name} alone": option for option, name in enumerate(self.names)}
        for format_name, runtime in RUNTIMES.items():
            with self._noting_failure(runtime):
                target = self.target if self.target.name == format_name else _format({"format": format_name})
                for name, option in options.items():
                    self._measure_export(agent if option is None else agent.alone(option), target, name)
        for name, option in options.items():
            traced = TorchScriptRunner(fp32 if option is None else fp32.alone(option))
            self._timed("TorchScript", name, step_latencies(traced, fp32, self.episode.observations))
        for name, option in options.items():
            predict = ModelRunner(model, vec_normalize, option)
            self._timed("predict", name, step_latencies(predict, fp32, self.episode.observations))
        if not isinstance(model.policy, AsymSACPolicy):
            return {}
        flops = model.policy.mean_flops(use, len(self.episode.choices(agent.option_length)))
        return {"flops_per_inference": flops, "instructions_over_predicted": self._over_predicted(model.policy, flops)}

    def _measure_export(self, agent: DeployableAgent, target: Format, name: str, folder: Path | None = None) -> None:
        """Measure time and, in C, instructions of an agent, which is exported first unless a folder holds the export."""
        runtime = RUNTIMES[target.name]
        with self._noting_failure(f"{runtime}, {name}"):
            if folder is None and name == AGENT and target is self.target:
                folder = self.folder
            if folder is None:
                folder = self.scratch / f"{target.name}_{name}"
                folder.mkdir()
                target.write(agent, self.episode.head(N_SELFTEST_STEPS), folder)
            latencies = target.latencies(agent, folder, self.episode.observations)
            self._timed(runtime, name, latencies, by_option=name == AGENT)
            if isinstance(target, CFormat):
                self._count(target, folder, name)

    def _timed(self, runtime: str, name: str, latencies: np.ndarray, by_option: bool = False) -> None:
        """Add the latencies of a subject to the measurements, on request also by the option in force."""
        rounds = latencies.reshape(-1, len(self.episode.options))
        columns = {name: np.ones(rounds.shape[1], dtype=bool)}
        if by_option and len(self.names) > 1:
            columns |= {f"{option} in force": self.episode.options == i for i, option in enumerate(self.names)}
        for label, steps in columns.items():
            if steps.any():
                median, p99 = np.percentile(rounds[:, steps], (50, 99))
                self.measurements.append(Measurement(runtime, label, float(median), float(p99)))
        self._report_progress()

    def _count(self, target: CFormat, folder: Path, name: str) -> None:
        """Count the instructions of a step and add them to the measurement of the same subject."""
        counts: dict[str, float] = {}
        with self._noting_failure(f"instructions of {name}"):
            counts[platform.machine()] = instructions_per_step(target, folder, self.episode.observations)
        with self._noting_failure(f"instructions of {name} on {CORTEX_M4}"):
            counts[CORTEX_M4] = float(cortex_m4.instructions(target, folder, self.episode.observations).mean())
        for index, measurement in enumerate(self.measurements):
            if (measurement.runtime, measurement.subject) == (RUNTIMES[target.name], name):
                self.measurements[index] = replace(measurement, instructions=counts)
        self._report_progress()

    def _over_predicted(self, policy: AsymSACPolicy, flops: float) -> dict[str, float]:
        """Instructions of the agent ÷ those that its FLOPs predict, by processor."""
        counts = {m.subject: m.instructions for m in self.measurements if m.instructions}
        alone = [counts.get(f"{name} alone", {}) for name in self.names]
        ratios: dict[str, float] = {}
        for processor, instructions in counts.get(AGENT, {}).items():
            if not all(processor in alone_counts for alone_counts in alone):
                continue
            points = []
            for cost, alone_counts in zip(policy.option_costs, alone, strict=True):
                points.append((cost.flops, alone_counts[processor]))
            ratios[processor] = over_predicted(instructions, flops, points)
        return ratios

    def _measure_c(self, target: CFormat) -> dict[str, Any]:
        """Measure memory, self-test and energy of the C code in the folder."""
        arguments = (target.source(self.folder), sum(self.manifest["n_bytes"].values()))
        figures: dict[str, Any] = {"footprint": {}}
        with self._noting_failure("memory"):
            figures["footprint"][platform.machine()] = footprint(*arguments, (c_compiler(), *PORTABLE_FLAGS))
        with self._noting_failure(f"memory on {CORTEX_M4}"):
            figures["footprint"][CORTEX_M4] = footprint(*arguments, cortex_m4.COMPILER, cortex_m4.SIZE)
        with self._noting_failure(f"self-test on {CORTEX_M4}"):
            figures["cortex_m4_selftest"] = cortex_m4.passes_selftest(target, self.folder)
        with self._noting_failure("energy"):
            figures["energy"] = self._energy(target)._asdict()
        self._report_progress()
        return figures

    def _energy(self, target: CFormat) -> energy.Energy:
        """Measure the energy of a step, over about ``ENERGY_SECONDS`` of steps."""
        meter = energy.find_meter()
        observations = self.episode.observations
        agent = _interface(self.manifest, self.episode)
        step_ns = target.latencies(agent, self.folder, observations).mean()
        n_rounds = int(1e9 * ENERGY_SECONDS / (step_ns * len(observations))) + 1
        with tempfile.TemporaryDirectory() as build:
            command = target.replay_command(self.folder, Path(build), observations, n_rounds)
            return energy.measure(meter, [*command, "untimed"], n_rounds * len(observations))

    @contextmanager
    def _noting_failure(self, what: str) -> Iterator[None]:
        """Add a failed measurement and its reason to ``not_measured``, and go on with the rest."""
        try:
            yield
        except (ImportError, OSError, ValueError) as error:  # a ValueError, where the other format cannot hold this agent
            program = error.filename if isinstance(error, FileNotFoundError) else None
            self.not_measured.append(f"{what}: {error if program is None else f'{program} is not installed.'}")
        except subprocess.CalledProcessError as error:
            self.not_measured.append(f"{what}: {Path(error.cmd[0]).name} failed with exit code {error.returncode}.")

    def _report_progress(self) -> None:
        if self.on_measured is not None:
            self.on_measured()


def _format(manifest: dict[str, Any]) -> Format:
    """Format of an export; the one for ONNX needs an extra."""
    if manifest["format"] == "c":
        return CFormat(manifest.get("prefix", "asym"))
    from sb3_asym.export.onnx_runner import OnnxFormat

    return OnnxFormat()


def _interface(manifest: dict[str, Any], episode: Recording) -> DeployableAgent:
    """The agent without its networks, which suffices to pass observations to the export."""
    parts: list[ObservationPart] = []
    for name, shape in manifest["observation"].items():
        offset = parts[-1].offset + parts[-1].size if parts else 0
        parts.append(ObservationPart(name, tuple(shape), offset, int(np.prod(shape))))
    unbounded = np.full(episode.actions.shape[1], np.inf, dtype=np.float32)
    return DeployableAgent(
        algorithm="",
        sub_policies=(),
        master=None,
        option_length=manifest["option_length"],
        observations=tuple(parts),
        is_dict=True,
        normalization=None,
        output="clip",
        low=-unbounded,
        high=unbounded,
    )
