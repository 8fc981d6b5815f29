"""Trained RL agents that cost less to run: SAC with sub-policies of several sizes and a master that picks between them."""

from sb3_asym.asym_sac import AsymSAC
from sb3_asym.evaluation import EvaluationReport, evaluate
from sb3_asym.option_wrapper import OptionWrapper
from sb3_asym.versions import __version__

__all__ = ["AsymSAC", "EvaluationReport", "OptionWrapper", "__version__", "evaluate"]
