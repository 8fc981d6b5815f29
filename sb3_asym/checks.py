"""What is checked before an agent learns from it or is loaded from it."""

import io
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import torch as th
from stable_baselines3.common.base_class import BaseAlgorithm
from stable_baselines3.common.save_util import load_from_zip_file
from stable_baselines3.common.utils import get_device


def check_file(path: str | Path | io.BufferedIOBase) -> None:
    """
    Refuse a path at which SB3 will find no model, which it looks for with ".zip" too.

    :param path: path to the file, or a file-like
    :raises FileNotFoundError: if there is no such file
    """
    if isinstance(path, str | Path) and not any(Path(f"{Path(path)}{suffix}").is_file() for suffix in ("", ".zip")):
        raise FileNotFoundError(f"There is no file {path}.")


def check_device(device: th.device | str) -> None:
    """
    Refuse a device that torch does not know.

    :param device: torch device, or "auto"
    :raises ValueError: if there is no such device
    """
    try:
        get_device(device)
    except RuntimeError as error:
        raise ValueError(f"There is no device {device!r} here: choose cpu, cuda or auto.") from error


def check_model_file(
    path: str | Path | io.BufferedIOBase, policy_class: type, algorithm: str, custom_objects: dict[str, Any] | None
) -> None:
    """
    Refuse a file that holds no model of an algorithm.

    :param path: path to the file, or a file-like
    :param policy_class: base class of the algorithm's policies
    :param algorithm: name of the algorithm
    :param custom_objects: objects in place of those that the file names
    :raises FileNotFoundError: if there is no such file
    :raises ValueError: if the file is damaged, or holds another model
    """
    data = read_model_data(path, custom_objects)
    saved = saved_policy_class(data)
    if not isinstance(saved, type) or not issubclass(saved, policy_class):
        name = f"{saved.__module__}.{saved.__qualname__}" if isinstance(saved, type) else "none"
        raise ValueError(f"{path} is not a model that {algorithm} saved: its policy is {name}.")


def read_model_data(path: str | Path | io.BufferedIOBase, custom_objects: dict[str, Any] | None = None) -> dict[str, Any]:
    """
    The attributes of a saved model.

    :param path: path to the file, or a file-like
    :param custom_objects: objects in place of those that the file names
    :return: attributes by name
    :raises FileNotFoundError: if there is no such file
    :raises ValueError: if the file is no model of SB3, or damaged
    """
    check_file(path)
    try:
        data, params, _ = load_from_zip_file(path, device="cpu", custom_objects=custom_objects)
    except Exception as error:  # zip, JSON, pickle and torch have many
        raise ValueError(f"{path} is not a model that SB3 or sb3-asym saved, or it is damaged ({error}).") from error
    finally:
        if isinstance(path, io.BufferedIOBase):
            path.seek(0)
    if not data or not params:
        raise ValueError(f"{path} is not a model that SB3 or sb3-asym saved, or it is damaged (it has no weights).")
    return data


def saved_policy_class(data: dict[str, Any]) -> Any:
    """
    The policy class of a saved model, also where the policy learned quantized and its class is wrapped for that.

    :param data: attributes of the model
    :return: the class, or None
    """
    given = data.get("policy_class")
    return getattr(given, "policy_class", given)


def check_finite(values: Any, what: str, rows: bool = True) -> None:
    """
    Refuse numbers that are infinite or not a number.

    :param values: an array, or a dict of arrays
    :param what: name of the values, for the message
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


@contextmanager
def stop_where_not_finite(agent: BaseAlgorithm) -> Iterator[None]:
    """
    Save an agent before an error on a number that is not finite is passed on.

    :param agent: the agent in training; it is saved beside its log, or in the working directory
    :return: context in which such errors get the timestep and the path added
    :raises FloatingPointError: if the block raises one, or torch finds invalid values
    """
    try:
        yield
    except (FloatingPointError, ValueError) as error:
        reason = str(error)
        if isinstance(error, ValueError):
            if "invalid values" not in reason:
                raise
            reason = "The output of an actor is not finite"  # found by torch.distributions
        path = Path(agent.logger.dir or ".") / f"asym_sac_stopped_at_{agent.num_timesteps}.zip"
        try:
            agent.save(path)
            saved = f"the agent is saved as {path}"
        except Exception as save_error:  # a full disk, or anything that a user gave the agent and pickle refuses
            saved = f"the agent could not be saved as {path} ({save_error})"
        raise FloatingPointError(f"{reason} at timestep {agent.num_timesteps}. Training stopped; {saved}.") from error
