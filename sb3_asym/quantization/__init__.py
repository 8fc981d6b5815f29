"""Policies in fewer bits: schemes, post-training quantization, and ``sb3-asym quantize sweep``."""

from sb3_asym.quantization.ptq import quantize
from sb3_asym.quantization.report import Form, SweepReport
from sb3_asym.quantization.schemes import Scheme
from sb3_asym.quantization.sweep import sweep

__all__ = ["Form", "Scheme", "SweepReport", "quantize", "sweep"]
