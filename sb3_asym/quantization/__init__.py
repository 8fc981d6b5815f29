"""Policies in fewer bits: schemes, quantization after and in training, and ``sb3-asym quantize sweep``."""

from sb3_asym.quantization.ptq import as_trained, quantize
from sb3_asym.quantization.qat import QuantizedTraining
from sb3_asym.quantization.report import Form, SweepReport
from sb3_asym.quantization.schemes import Scheme
from sb3_asym.quantization.sweep import sweep

__all__ = ["Form", "QuantizedTraining", "Scheme", "SweepReport", "as_trained", "quantize", "sweep"]
