"""Report on the cost of an exported agent, for people and as plain data."""

from dataclasses import asdict, dataclass, field
from typing import Any

from sb3_asym.bench_export.footprint import Footprint
from sb3_asym.text_table import text_table

CORTEX_M4 = "Cortex-M4"


@dataclass(frozen=True)
class Measurement:
    """
    Cost of a step for one runtime and one subject.

    :param runtime: "C", "ONNX Runtime", "TorchScript" or "predict"
    :param subject: "agent", "<sub-policy> alone", or "<sub-policy> in force" for the agent's steps with that sub-policy
    :param median_ns: median time of a step, ns
    :param p99_ns: 99th percentile of the time of a step, ns
    :param instructions: mean instructions of a step by processor, where they were counted
    """

    runtime: str
    subject: str
    median_ns: float
    p99_ns: float
    instructions: dict[str, float] = field(default_factory=dict)


@dataclass(frozen=True)
class BenchReport:
    """
    Cost of an exported agent over a recorded episode. ``str(report)`` is a table for people.

    :param format: format of the export, "c" or "onnx"
    :param precision: precision by network; TorchScript and ``predict`` are always in fp32
    :param n_steps: number of steps of the episode
    :param option_use: share of the steps in which each sub-policy acted
    :param versions: version by package
    :param flops_per_inference: mean FLOPs of a step, the master's share included; None without the model
    :param measurements: time and instructions by runtime and subject
    :param instructions_over_predicted: instructions of the agent in C ÷ value at ``flops_per_inference`` of a straight line
        through those of its sub-policies alone, by processor
    :param footprint: memory of the agent in C, by processor
    :param cortex_m4_selftest: True if the exported self-test passes on a Cortex-M4; None if it was not run
    :param energy: fields of :class:`sb3_asym.bench_export.energy.Energy`; None if it was not measured
    :param not_measured: figures that could not be measured on this machine, with the reasons
    """

    format: str
    precision: dict[str, str]
    n_steps: int
    option_use: dict[str, float]
    versions: dict[str, str]
    flops_per_inference: float | None = None
    measurements: tuple[Measurement, ...] = ()
    instructions_over_predicted: dict[str, float] = field(default_factory=dict)
    footprint: dict[str, Footprint] = field(default_factory=dict)
    cortex_m4_selftest: bool | None = None
    energy: dict[str, Any] | None = None
    not_measured: tuple[str, ...] = ()

    def find(self, runtime: str, subject: str = "agent") -> Measurement:
        """
        Find a measurement.

        :param runtime: runtime of the measurement
        :param subject: subject of the measurement
        :return: the measurement
        :raises KeyError: if there is no such measurement
        """
        for measurement in self.measurements:
            if (measurement.runtime, measurement.subject) == (runtime, subject):
                return measurement
        raise KeyError(f"{runtime}, {subject}")

    def to_dict(self) -> dict[str, Any]:
        """
        The report as plain data.

        :return: all fields by name, ready for JSON
        """
        return asdict(self)

    def __str__(self) -> str:
        processors = list(dict.fromkeys(name for m in self.measurements for name in m.instructions))
        header = ["", "", "p50 µs", "p99 µs", *(f"instructions, {name}" for name in processors)]
        rows = []
        for m in self.measurements:
            counts = [f"{m.instructions[name]:,.0f}" if name in m.instructions else "" for name in processors]
            rows.append([m.runtime, m.subject, f"{m.median_ns / 1e3:.2f}", f"{m.p99_ns / 1e3:.2f}", *counts])
        use = ", ".join(f"{name} acts in {share:.0%}" for name, share in self.option_use.items())
        return "\n".join([text_table(header, rows, n_left=2), f"{self.n_steps} steps: {use}.", *self._notes()])

    def _notes(self) -> list[str]:
        """Lines below the table."""
        notes = [
            f"{name}: {memory.flash:,} bytes of flash ({memory.code:,} beyond the networks' numbers), {memory.ram:,} of RAM"
            for name, memory in self.footprint.items()
        ]
        notes += [
            f"{name}: {ratio:.2f} times the instructions that the FLOPs predict from the sub-policies alone"
            for name, ratio in self.instructions_over_predicted.items()
        ]
        if self.cortex_m4_selftest is not None:
            notes.append(f"self-test on {CORTEX_M4}: {'ok' if self.cortex_m4_selftest else 'FAILED'}")
        if self.energy is not None:
            joules, watts = self.energy["joules_per_step"], self.energy["watts"]
            idle = f"{watts:.1f} W, idle {self.energy['idle_watts']:.1f} W"
            notes.append(f"energy of a step, by {self.energy['meter']}: {1e6 * joules:.2f} µJ ({idle})")
        return [*notes, *(f"not measured: {reason}" for reason in self.not_measured)]
