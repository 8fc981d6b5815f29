"""``python -m sb3_asym.cli``."""

from sb3_asym.cli.main import main

main()
