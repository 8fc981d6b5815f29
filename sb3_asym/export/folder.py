"""The folder of an export: written as a whole or not at all, and read again."""

import json
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
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
    :param manifest: plain data
    :param recording: steps
    """
    np.savez_compressed(folder / EPISODE, **vars(recording))
    (folder / MANIFEST).write_text(json.dumps(manifest, indent=2) + "\n")


def read_export(folder: Path) -> tuple[dict[str, Any], Recording]:
    """
    The manifest of an export, and the steps that were recorded when it was made.

    :param folder: folder with the export
    :return: manifest and recording
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


@contextmanager
def atomic_folder(folder: Path) -> Iterator[Path]:
    """
    A folder that is filled when the block ends well, and else stays as it was.

    :param folder: folder to fill: a new or an empty one
    :return: yields the folder to write to meanwhile
    :raises FileExistsError: if the folder is not empty
    """
    if folder.exists() and (not folder.is_dir() or any(folder.iterdir())):
        raise FileExistsError(f"{folder} is there and not empty: name a new folder.")
    # A folder that is there may be the current one, or a mounted one, so it stays.
    home = folder if folder.exists() else folder.parent
    home.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=home, prefix=".export_") as parent:
        written = Path(parent) / "written"
        written.mkdir()
        yield written
        if home is folder:
            for file in written.iterdir():
                file.rename(folder / file.name)
        else:
            written.rename(folder)
