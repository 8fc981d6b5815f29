"""ActorQ: actors that run a quantized policy, and a learner in full precision (Krishnan et al. 2019, arXiv 1910.01055)."""

from sb3_asym.actorq.actorq import ActorQ
from sb3_asym.actorq.report import ActorQReport

__all__ = ["ActorQ", "ActorQReport"]
