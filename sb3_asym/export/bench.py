"""
What an exported agent takes on this machine and on a Cortex-M4: time, instructions, memory, energy.

:func:`bench` measures a folder that an export wrote; on the command line: ``sb3-asym bench-export``.
"""

import json
import platform
import subprocess
import tempfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any
from zipfile import BadZipFile

import numpy as np
import torch as th
from stable_baselines3.common.base_class import BaseAlgorithm
from stable_baselines3.common.vec_env import VecNormalize

from sb3_asym.costs import mean_flops
from sb3_asym.export import EPISODE, MANIFEST, N_SELFTEST_STEPS, cortex_m4, energy
from sb3_asym.export.agent import DeployableAgent, ObservationPart, deployable
from sb3_asym.export.bench_report import CORTEX_M4, BenchReport, Measurement
from sb3_asym.export.drivers import ModelDriver, TorchScriptDriver, c_compiler
from sb3_asym.export.footprint import footprint
from sb3_asym.export.formats import CFormat, Format, OnnxFormat, driver_latencies
from sb3_asym.export.instructions import PORTABLE_FLAGS, instructions_per_step, over_predicted
from sb3_asym.export.quantization import quantize
from sb3_asym.export.recording import Recording
from sb3_asym.export.report import errors, versions
from sb3_asym.policies import AsymSACPolicy

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
    Measure an export over the first episode that was recorded when it was made: batch 1, one thread.

    Without the model, what is in the folder is measured, and the steps are told apart by the sub-policy that drove. With
    it, each sub-policy is also exported alone, in the other format too, and TorchScript and ``predict`` are measured.

    :param folder: that ``export_c`` or ``export_onnx`` wrote
    :param model: that it was made from
    :param vec_normalize: the statistics that were folded in; those of the model's own env by default
    :param on_measured: called after each measurement
    :return: the figures, and what could not be measured here
    :raises ValueError: if the folder holds no export, or the model is not the one that was exported
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

    :param folder: with the export
    :param scratch: for what is exported to be compared
    :param on_measured: called after each measurement
    """

    def __init__(self, folder: Path, scratch: Path, on_measured: Callable[[], Any] | None):
        self.folder, self.scratch, self.on_measured = folder, scratch, on_measured
        self.manifest, recording = _read(folder)
        self.episode = recording.first_episode()
        self.measurements: list[Measurement] = []
        self.not_measured: list[str] = []
        self.names: list[str] = list(self.manifest["n_bytes"])[: self.manifest["n_options"]]
        self.target: Format = CFormat(self.manifest["prefix"]) if self.manifest["format"] == "c" else OnnxFormat()

    def run(self, model: BaseAlgorithm | None, vec_normalize: VecNormalize | None) -> BenchReport:
        """Measure everything that can be measured here."""
        use = np.bincount(self.episode.options, minlength=len(self.names))
        report = BenchReport(
            format=self.target.name,
            precision=self.manifest["precision"],
            n_steps=len(self.episode.options),
            option_use=dict(zip(self.names, (use / use.sum()).tolist(), strict=True)),
            versions=versions(),
        )
        if model is None:
            self._exported(_interface(self.manifest, self.episode), self.target, AGENT, self.folder)
            self.not_measured.append("each sub-policy alone, the other runtimes: these need the model that was exported.")
        else:
            report = replace(report, **self._compare(model, vec_normalize, use))
        if isinstance(self.target, CFormat):
            report = replace(report, **self._on_target(self.target))
        return replace(report, measurements=tuple(self.measurements), not_measured=tuple(self.not_measured))

    def _compare(self, model: BaseAlgorithm, vec_normalize: VecNormalize | None, use: np.ndarray) -> dict[str, Any]:
        """The agent and each sub-policy alone, in all runtimes."""
        vec_normalize = vec_normalize or model.get_vec_normalize_env()
        fp32 = deployable(model, vec_normalize)
        if tuple(fp32.n_bytes) != tuple(self.manifest["n_bytes"]) or errors(fp32, self.episode)["mean_action_error"] > 0.05:
            raise ValueError(f"{self.folder} was not exported from this model (or not with these statistics).")
        agent = quantize(fp32, self.manifest["precision"], self.episode.observations)
        drivers = {AGENT: agent}
        if agent.master is not None:
            drivers |= {f"{name} alone": agent.alone(option) for option, name in enumerate(self.names)}
        formats: list[Format] = [CFormat(), OnnxFormat()]
        for target in (self.target if self.target.name == other.name else other for other in formats):
            for name, driver in drivers.items():
                self._exported(driver, target, name)
        options = dict(zip(drivers, [None, *range(len(self.names))], strict=False))
        for name, option in options.items():
            traced = TorchScriptDriver(fp32 if option is None else fp32.alone(option))
            self._timed("TorchScript", name, driver_latencies(traced, fp32, self.episode.observations))
        for name, option in options.items():
            predict = ModelDriver(model, vec_normalize, option)
            self._timed("predict", name, driver_latencies(predict, fp32, self.episode.observations))
        if not isinstance(model.policy, AsymSACPolicy):
            return {}
        flops = mean_flops(model.policy, use, len(self.episode.choices(agent.option_length)))
        return {"flops_per_inference": flops, "instructions_over_predicted": self._over_predicted(model.policy, flops)}

    def _exported(self, agent: DeployableAgent, target: Format, name: str, folder: Path | None = None) -> None:
        """Latencies and, in C, instructions of an exported agent, which is exported first unless a folder has it."""
        runtime = RUNTIMES[target.name]
        with self._or_say(f"{runtime}, {name}"):
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
        """Note latencies, also by the option in force."""
        rounds = latencies.reshape(-1, len(self.episode.options))
        columns = {name: np.ones(rounds.shape[1], dtype=bool)}
        if by_option and len(self.names) > 1:
            columns |= {f"{option} in force": self.episode.options == i for i, option in enumerate(self.names)}
        for label, steps in columns.items():
            if steps.any():
                median, p99 = np.percentile(rounds[:, steps], (50, 99))
                self.measurements.append(Measurement(runtime, label, float(median), float(p99)))
        self._measured()

    def _count(self, target: CFormat, folder: Path, name: str) -> None:
        """Add the instructions to what was just noted."""
        counts: dict[str, float] = {}
        with self._or_say(f"instructions of {name}"):
            counts[platform.machine()] = instructions_per_step(target, folder, self.episode.observations)
        with self._or_say(f"instructions of {name} on {CORTEX_M4}"):
            counts[CORTEX_M4] = float(cortex_m4.instructions(target, folder, self.episode.observations).mean())
        index = next(i for i, m in enumerate(self.measurements) if (m.runtime, m.driver) == (RUNTIMES[target.name], name))
        self.measurements[index] = replace(self.measurements[index], instructions=counts)
        self._measured()

    def _over_predicted(self, policy: AsymSACPolicy, flops: float) -> dict[str, float]:
        """Instructions of the agent ÷ what a line through those of its sub-policies alone says at its FLOPs."""
        counts = {m.driver: m.instructions for m in self.measurements if m.instructions}
        agent, alone = counts.get(AGENT, {}), [counts.get(f"{name} alone", {}) for name in self.names]
        alone_flops = [cost.flops for cost in policy.option_costs]
        return {
            processor: over_predicted(count, flops, list(zip(alone_flops, [c[processor] for c in alone], strict=True)))
            for processor, count in agent.items()
            if all(processor in c for c in alone)
        }

    def _on_target(self, target: CFormat) -> dict[str, Any]:
        """Memory, self-test and energy of the C code in the folder."""
        n_weight_bytes, action_dim = sum(self.manifest["n_bytes"].values()), self.episode.actions.shape[1]
        arguments = (target.source(self.folder), n_weight_bytes, action_dim)
        figures: dict[str, Any] = {"footprint": {}}
        with self._or_say("memory"):
            figures["footprint"][platform.machine()] = footprint(*arguments, (c_compiler(), *PORTABLE_FLAGS))
        with self._or_say(f"memory on {CORTEX_M4}"):
            figures["footprint"][CORTEX_M4] = footprint(*arguments, cortex_m4.COMPILER, cortex_m4.SIZE)
        with self._or_say(f"self-test on {CORTEX_M4}"):
            figures["cortex_m4_selftest"] = cortex_m4.passes_selftest(target, self.folder)
        with self._or_say("energy"):
            figures["energy"] = self._energy(target)._asdict()
        self._measured()
        return figures

    def _energy(self, target: CFormat) -> energy.Energy:
        meter = energy.find_meter()
        observations = self.episode.observations
        agent = _interface(self.manifest, self.episode)
        step_ns = target.latencies(agent, self.folder, observations).mean()
        n_rounds = int(1e9 * ENERGY_SECONDS / (step_ns * len(observations))) + 1
        with tempfile.TemporaryDirectory() as build:
            command = target.replay_command(self.folder, Path(build), observations, n_rounds)
            return energy.measure(meter, [*command, "untimed"], n_rounds * len(observations))

    @contextmanager
    def _or_say(self, what: str) -> Iterator[None]:
        """What this machine lacks is said, and the rest is measured."""
        try:
            yield
        except (ImportError, OSError, ValueError) as error:  # the other format may not take this agent
            program = error.filename if isinstance(error, FileNotFoundError) else None
            self.not_measured.append(f"{what}: {error if program is None else f'{program} is not installed.'}")
        except subprocess.CalledProcessError as error:
            self.not_measured.append(f"{what}: {Path(error.cmd[0]).name} failed with exit code {error.returncode}.")

    def _measured(self) -> None:
        if self.on_measured is not None:
            self.on_measured()


def _read(folder: Path) -> tuple[dict[str, Any], Recording]:
    """What an export says of itself, and the steps that it recorded."""
    try:
        manifest = json.loads((folder / MANIFEST).read_text())
        with np.load(folder / EPISODE) as arrays:
            recording = Recording(**arrays)
        missing = {"format", "n_bytes", "n_options", "observation", "option_length", "precision"} - set(manifest)
        if missing:
            raise KeyError(f"no {', '.join(sorted(missing))} in {MANIFEST}")
    except (BadZipFile, OSError, KeyError, TypeError, ValueError, EOFError) as error:
        raise ValueError(f"{folder} holds no complete export ({error}): make one with `sb3-asym export`.") from error
    return manifest, recording


def _interface(manifest: dict[str, Any], episode: Recording) -> DeployableAgent:
    """The agent without its networks: what is needed to give it observations."""
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
