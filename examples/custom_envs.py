"""In the working directory, this makes ``python -m rl_zoo3.train --algo asym_sac …`` work: the Zoo imports it first."""

from sb3_asym.zoo import register

register()
