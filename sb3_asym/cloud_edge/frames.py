"""
What travels between edge and cloud: typed, versioned frames.

A frame is a header of 16 bytes (magic, schema version, kind, length, CRC32 of all the rest) and a body in MessagePack that
msgspec decodes into the types below and nothing else; arrays are raw little-endian bytes with type and shape. So no peer can
make the other run code, and whatever was cut, mixed up or made by another version is refused with its reason. Needs the
extra ``cloud`` (msgspec).
"""

import struct
import zlib
from collections import Counter
from collections.abc import Callable
from math import prod
from typing import Annotated, Any, TypeVar

import msgspec
import numpy as np

MAGIC = b"s3ce"
SCHEMA = 1
HEADER = struct.Struct("<4sHHII")
BATCH, POLICY, ROBOT_STATUS, LEARNER_STATUS = 1, 2, 3, 4
MAX_BYTES = {BATCH: 8 << 20, POLICY: 64 << 20, ROBOT_STATUS: 64 << 10, LEARNER_STATUS: 64 << 10}
DTYPES = ("|b1", "|i1", "|u1", "<i2", "<u2", "<i4", "<u4", "<i8", "<f2", "<f4", "<f8")

Name = Annotated[str, msgspec.Meta(pattern=r"^[A-Za-z0-9][A-Za-z0-9_.\-]{0,63}\Z")]
Count = Annotated[int, msgspec.Meta(ge=0, le=1 << 62)]
Wire = TypeVar("Wire")


class FrameError(ValueError):
    """
    A frame was refused.

    :param reason: one of a few words, to be counted: "magic", "version", "kind", "length", "checksum", "type", "shape",
        "not finite", "spaces", "number"
    :param message: what is wrong
    """

    def __init__(self, reason: str, message: str):
        super().__init__(message)
        self.reason = reason


class Array(msgspec.Struct, frozen=True, forbid_unknown_fields=True, array_like=True):
    """
    An array on the wire.

    :param dtype: type in NumPy's notation, one of :data:`DTYPES`
    :param shape: shape
    :param data: values, little-endian, in C order
    """

    dtype: str
    shape: Annotated[tuple[Annotated[int, msgspec.Meta(ge=0, lt=1 << 32)], ...], msgspec.Meta(max_length=8)]
    data: bytes

    @classmethod
    def of(cls, values: np.ndarray) -> "Array":
        """
        The array on the wire.

        :param values: values
        :return: their form on the wire
        :raises FrameError: if the values are of another type than :data:`DTYPES`, or not finite
        """
        values = np.asarray(values)
        little = values.astype(values.dtype.newbyteorder("<"), copy=False)
        array = cls(little.dtype.str, values.shape, little.tobytes())
        array.values()
        return array

    def values(self) -> np.ndarray:
        """
        The values.

        :return: read-only array
        :raises FrameError: if type, shape and bytes do not agree, or a number is not finite
        """
        if self.dtype not in DTYPES:
            raise FrameError("type", f"Arrays of {self.dtype!r} are not known; known: {', '.join(DTYPES)}.")
        dtype = np.dtype(self.dtype)
        if prod(self.shape) * dtype.itemsize != len(self.data):
            raise FrameError("shape", f"An array of {self.shape} {self.dtype} has {len(self.data)} bytes.")
        if dtype.kind == "b" and self.data.translate(None, b"\0\1"):
            raise FrameError("type", "A truth value is neither 0 nor 1.")
        try:
            values = np.frombuffer(self.data, dtype).reshape(self.shape)
        except ValueError as error:  # no numbers in more dimensions than there can be
            raise FrameError("shape", f"There is no array of {self.shape}.") from error
        if dtype.kind == "f" and not np.isfinite(values).all():
            raise FrameError("not finite", "A number is infinite or not a number.")
        return values


def encode(kind: int, body: msgspec.Struct) -> bytes:
    """
    Write a frame.

    :param kind: kind of the frame
    :param body: what it holds
    :return: the frame
    :raises FrameError: if it is too long
    """
    data = msgspec.msgpack.encode(body)
    if len(data) > MAX_BYTES[kind]:
        raise FrameError("length", f"A frame of {len(data)} bytes is too long; at most {MAX_BYTES[kind]} are sent.")
    return HEADER.pack(MAGIC, SCHEMA, kind, len(data), _checksum(kind, data)) + data


def decode(kind: int, frame: bytes, wire: type[Wire]) -> Wire:
    """
    Read a frame.

    :param kind: kind that it must be
    :param frame: the frame
    :param wire: type of what it holds
    :return: what it holds
    :raises FrameError: if it is anything else
    """
    if len(frame) < HEADER.size or frame[:4] != MAGIC:
        raise FrameError("magic", "These bytes are no frame of sb3-asym.")
    _, schema, found, length, checksum = HEADER.unpack_from(frame)
    if schema != SCHEMA:
        raise FrameError(
            "version", f"The frame has version {schema} of the schema, this sb3-asym has {SCHEMA}: update one of both."
        )
    if found != kind:
        raise FrameError("kind", f"The frame is of kind {found} where {kind} is expected.")
    data = memoryview(frame)[HEADER.size :]
    if length != len(data) or length > MAX_BYTES[kind]:
        raise FrameError("length", f"The frame says {length} bytes and has {len(data)}; at most {MAX_BYTES[kind]} are read.")
    if _checksum(kind, data) != checksum:
        raise FrameError("checksum", "The frame was damaged: its checksum differs.")
    try:
        return msgspec.msgpack.decode(data, type=wire)
    except (msgspec.MsgspecError, ValueError, RecursionError) as error:  # also UnicodeDecodeError
        raise FrameError("type", f"The frame's body is not what its kind should hold ({error}).") from error


class Gate:
    """
    Counts the frames that were refused, by reason.

    :param refused: number of refused frames by reason
    :param last: why the last one was refused, or None
    """

    def __init__(self) -> None:
        self.refused: Counter[str] = Counter()
        self.last: FrameError | None = None

    def __call__(self, decoder: Callable[..., Wire], *args: Any) -> Wire | None:
        """
        Read a frame.

        :param decoder: one of the functions ``decode_…``
        :param args: its arguments, the frame first
        :return: what it returns, or None where the frame is refused
        """
        try:
            return decoder(*args)
        except FrameError as error:
            self.refused[error.reason] += 1
            self.last = error
            return None


def _checksum(kind: int, data: bytes | memoryview) -> int:
    return zlib.crc32(data, zlib.crc32(HEADER.pack(MAGIC, SCHEMA, kind, len(data), 0)))
