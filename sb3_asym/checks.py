"""What is checked before an agent learns from it or is loaded from it."""

import io
from pathlib import Path
from typing import Any

import numpy as np


def check_file(path: str | Path | io.BufferedIOBase) -> None:
    """
    :param path: that SB3 will load, which tries it with ".zip" too
    :raises FileNotFoundError: if there is no such file
    """
    if isinstance(path, str | Path) and not any(Path(f"{Path(path)}{suffix}").is_file() for suffix in ("", ".zip")):
        raise FileNotFoundError(f"There is no file {path}.")


def check_finite(values: Any, what: str, rows: bool = True) -> None:
    """
    :param values: an array, or a dict of arrays
    :param what: what they are
    :param rows: whether there is a row for each env
    :raises FloatingPointError: if one is infinite or not a number
    """
    if isinstance(values, dict):
        for key, value in values.items():
            check_finite(value, key, rows)
    elif np.asarray(values).dtype.kind == "f" and not np.isfinite(values).all():
        if rows:
            env = int(np.argwhere(~np.isfinite(values))[0][0])
            values, what = values[env], f"{what} of env {env}"
        raise FloatingPointError(f"The {what} is {values}")
