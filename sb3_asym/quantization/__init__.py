"""Quantization of deployable agents to fp16 and int8."""
