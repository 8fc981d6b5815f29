"""Commands of the RL Zoo for AsymSAC: ``python -m sb3_asym.zoo VERB …`` is ``python -m rl_zoo3.VERB …`` with ``asym_sac``.

The Zoo has no plugin entry point, but its tables of algorithms are shared dictionaries, which :func:`register` extends. The
Zoo's own commands know ``asym_sac`` too if a ``custom_envs.py`` in the working directory calls :func:`register`, as the Zoo
imports that file before it parses its arguments (see ``examples/custom_envs.py``).
"""

import runpy
import subprocess
import sys
import warnings
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from importlib import import_module
from importlib.util import find_spec
from itertools import pairwise
from pathlib import Path
from typing import Any

from sb3_asym.envs import find_envs

ALGO = "asym_sac"
VERBS = {
    "train": "rl_zoo3.train",
    "enjoy": "rl_zoo3.enjoy",
    "record_video": "rl_zoo3.record_video",
    "record_training": "rl_zoo3.record_training",
    "benchmark": "rl_zoo3.benchmark",
    "plot_train": "rl_zoo3.plots.plot_train",
    "all_plots": "rl_zoo3.plots.all_plots",
    "plot_from_file": "rl_zoo3.plots.plot_from_file",
    "push_to_hub": "rl_zoo3.push_to_hub",
    "load_from_hub": "rl_zoo3.load_from_hub",
}
"""Module of each of the Zoo's commands."""


def register() -> None:
    """
    Add ``asym_sac`` to the RL Zoo: the algorithm, its search space, and its default hyperparameters.

    Envs on the command line that are not registered yet are searched for too (:func:`sb3_asym.envs.find_envs`).

    :raises ImportError: if the Zoo is not installed
    """
    if find_spec("rl_zoo3") is None:
        raise ImportError("This needs the RL Zoo: pip install 'sb3-asym[zoo]'")
    found = [env for flag, env in pairwise(sys.argv) if flag in ("--env", "-e")]
    find_envs([*found, *(argument.removeprefix("--env=") for argument in sys.argv if argument.startswith("--env="))])
    import rl_zoo3.exp_manager
    from rl_zoo3.hyperparams_opt import HYPERPARAMS_CONVERTER, HYPERPARAMS_SAMPLER
    from rl_zoo3.utils import ALGOS

    from sb3_asym.asym_sac import AsymSAC
    from sb3_asym.zoo.experiment import AsymExperimentManager
    from sb3_asym.zoo.search_space import convert_asym_sac_params, sample_asym_sac_params

    ALGOS[ALGO] = AsymSAC
    HYPERPARAMS_SAMPLER[ALGO] = sample_asym_sac_params
    HYPERPARAMS_CONVERTER[ALGO] = convert_asym_sac_params
    rl_zoo3.exp_manager.ExperimentManager = AsymExperimentManager  # type: ignore[misc]


def run(verb: str, arguments: Sequence[str]) -> None:
    """
    Run a command of the Zoo.

    :param verb: name of the command, one of ``VERBS``
    :param arguments: arguments of the command, as the Zoo takes them
    :raises ValueError: if there is no such command
    :raises ImportError: if the Zoo is not installed
    """
    if verb not in VERBS:
        raise ValueError(f"The RL Zoo has no command {verb!r}: choose one of {', '.join(VERBS)}.")
    sys.argv = [verb, *arguments]
    register()
    if verb == "push_to_hub":
        _patch_push_to_hub()
    # The Zoo's plots import each other, so the one to run may be imported already, which does no harm.
    warnings.filterwarnings("ignore", ".*found in sys.modules", RuntimeWarning, "runpy")
    with _calls_of_ours():
        runpy.run_module(VERBS[verb], run_name="__main__", alter_sys=True)


@contextmanager
def _calls_of_ours() -> Iterator[None]:
    """``benchmark`` and ``record_training`` call other commands: now ours, which know ``asym_sac``."""
    call = subprocess.call

    def call_ours(command: Any, *args: Any, **kwargs: Any) -> int:
        if command[:2] == ["python", "enjoy.py"]:
            command = [sys.executable, "-m", "sb3_asym.zoo", "enjoy", *command[2:]]
        elif command[:2] == ["python", "-m"]:
            command = [sys.executable, "-m", "sb3_asym.zoo", command[2].removeprefix("rl_zoo3."), *command[3:]]
        return call(command, *args, **kwargs)

    subprocess.call = call_ours  # type: ignore[assignment]
    try:
        yield
    finally:
        subprocess.call = call


def _patch_push_to_hub() -> None:
    """Restore the name of a function that the Zoo (2.9.2) imports and its Hugging Face package (3.2) has renamed."""
    hub: Any = import_module("huggingface_sb3.push_to_hub")
    if not hasattr(hub, "generate_metadata"):
        hub.generate_metadata = hub._generate_metadata


def hyperparameters_path() -> Path:
    """
    Find the default hyperparameters, in an installed package or in a source tree.

    :return: path to ``asym_sac.yml``
    """
    package = Path(__file__).parents[1]
    inside = package / "hyperparams" / f"{ALGO}.yml"
    return inside if inside.exists() else package.parent / "hyperparams" / f"{ALGO}.yml"
