"""ActorQ: actors that run a quantized policy, and a learner in full precision (Krishnan et al. 2019, arXiv 1910.01055)."""
