"""The command line ``sb3-asym``, one module per command. Needs the extra ``cli`` (typer, tqdm)."""

import sys

try:
    import tqdm  # noqa: F401
    import typer  # noqa: F401
except ImportError:  # pragma: no cover
    sys.exit("The command line needs typer and tqdm: pip install 'sb3-asym[cli]'")

from sb3_asym.cli.main import main

__all__ = ["main"]
