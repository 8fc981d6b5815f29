"""Quantization of deployable agents to fp16 and to 2 to 8 bits, after training and in training."""

from sb3_asym.quantization.ptq import as_trained, quantize
from sb3_asym.quantization.qat import QuantizedTraining
from sb3_asym.quantization.schemes import Scheme

__all__ = ["QuantizedTraining", "Scheme", "as_trained", "quantize"]
