"""The version of this package, and of those that a result depends on."""

from contextlib import suppress
from importlib.metadata import PackageNotFoundError, version

__version__ = "0.2.0"


def versions() -> dict[str, str]:
    """
    Versions that a measured figure or an exported agent depends on.

    :return: version by package, of those that are installed
    """
    found = {"sb3-asym": __version__}
    for package in ("stable-baselines3", "torch", "gymnasium", "mujoco", "onnx", "onnxruntime"):
        with suppress(PackageNotFoundError):
            found[package] = version(package)
    return found
