"""The folder of an export: its manifest and the recorded steps."""

import json
from pathlib import Path
from typing import Any
from zipfile import BadZipFile

import numpy as np

from sb3_asym.deployment.recording import Recording

EPISODE, MANIFEST = "episode.npz", "export.json"


def write_manifest(folder: Path, manifest: dict[str, Any], recording: Recording) -> None:
    """
    Write the manifest of an export and its recorded steps.

    :param folder: folder of the export
    :param manifest: figures of the export as plain data, ready for JSON
    :param recording: steps of the agent in the env
    """
    np.savez_compressed(folder / EPISODE, **vars(recording))
    (folder / MANIFEST).write_text(json.dumps(manifest, indent=2) + "\n")


def read_export(folder: Path) -> tuple[dict[str, Any], Recording]:
    """
    Read the manifest of an export and the steps that were recorded when it was made.

    :param folder: folder with the export
    :return: manifest, and recorded steps
    :raises ValueError: if the folder holds no complete export
    """
    try:
        manifest = json.loads((folder / MANIFEST).read_text())
        with np.load(folder / EPISODE) as arrays:
            recording = Recording(**arrays)
        missing = {"format", "n_bytes", "n_options", "observation", "option_length", "precision"} - set(manifest)
        if missing:
            raise KeyError(f"no {', '.join(sorted(missing))} in {MANIFEST}")
    except (BadZipFile, OSError, KeyError, TypeError, ValueError, EOFError) as error:
        raise ValueError(f"{folder} holds no complete export ({error}): make one with `sb3-asym export`.") from error
    return manifest, recording
