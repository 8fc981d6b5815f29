"""From a trained agent to the cheapest one that keeps its return; on the command line: ``sb3-asym distill``."""

from sb3_asym.distillation.distill import DistillationSettings, distill
from sb3_asym.distillation.report import Candidate, DistillationReport

__all__ = ["Candidate", "DistillationReport", "DistillationSettings", "distill"]
