"""
Cost of an exported agent on this machine and on a Cortex-M4: time, instructions, memory, energy.

:func:`bench` measures a folder that an export wrote; on the command line: ``sb3-asym bench-export``.
"""

from sb3_asym.bench_export.bench import bench
from sb3_asym.bench_export.report import BenchReport, Measurement

__all__ = ["BenchReport", "Measurement", "bench"]
