"""Deployable form of SB3 agents: plain layers, their runners, recorded episodes, and saved models."""

from sb3_asym.deployment.agent import DeployableAgent
from sb3_asym.deployment.from_sb3 import deployable
from sb3_asym.deployment.loading import load_model, load_statistics

__all__ = ["DeployableAgent", "deployable", "load_model", "load_statistics"]
