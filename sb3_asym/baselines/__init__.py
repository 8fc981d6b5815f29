"""Other ways from a trained agent to small ones, to compare :mod:`sb3_asym.distillation` with."""

from sb3_asym.baselines.bc import behavioural_cloning
from sb3_asym.baselines.discriminator import DiscriminatorSettings
from sb3_asym.baselines.gail import gail

__all__ = ["DiscriminatorSettings", "behavioural_cloning", "gail"]
