"""Evaluation of AsymSAC agents: return, cost, use of each sub-policy, and single episodes step by step."""

from sb3_asym.evaluation.env import evaluation_env
from sb3_asym.evaluation.evaluate import evaluate, n_evaluations
from sb3_asym.evaluation.report import EvaluationReport
from sb3_asym.evaluation.rollout import EpisodeRecord, record_episode

__all__ = ["EpisodeRecord", "EvaluationReport", "evaluate", "evaluation_env", "n_evaluations", "record_episode"]
