"""Output folders."""

import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path


@contextmanager
def atomic_folder(folder: Path) -> Iterator[Path]:
    """
    Fill a folder as a whole when the block ends without an exception; otherwise leave it as it was.

    :param folder: new or empty folder to fill
    :return: context whose value is the temporary folder to write to
    :raises FileExistsError: if the folder is not empty
    """
    if folder.exists() and (not folder.is_dir() or any(folder.iterdir())):
        raise FileExistsError(f"{folder} is there and not empty: name a new folder.")
    # An existing folder may be the working directory or a mount point, so it is filled and not replaced.
    base = folder if folder.exists() else folder.parent
    base.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=base, prefix=".export_") as scratch:
        written = Path(scratch) / "written"
        written.mkdir()
        yield written
        if base is folder:
            for file in written.iterdir():
                file.rename(folder / file.name)
        else:
            written.rename(folder)
