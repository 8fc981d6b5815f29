"""
Export of a trained model to the robot: C99 without dependencies, or ONNX.

:func:`export_c` and :func:`export_onnx` write a folder; on the command line: ``sb3-asym export``.
"""

from sb3_asym.deployment import DeployableAgent, deployable
from sb3_asym.export.export import export_c, export_onnx
from sb3_asym.export.report import ExportReport

__all__ = ["DeployableAgent", "ExportReport", "deployable", "export_c", "export_onnx"]
