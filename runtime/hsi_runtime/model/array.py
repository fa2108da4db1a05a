"""Pieces of a model's document: what each of them is, and small arrays."""

import base64
import math
import zlib
from typing import Annotated, Any, Literal

import msgspec
import numpy as np
from msgspec import Meta
from numpy.typing import NDArray

from hsi_runtime.errors import ModelFileError

MOST_ARRAY_BYTES = 64 * 1024**2  # of a sample; a real one has some hundred kilobytes


class Part(msgspec.Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """A piece of the document: no default, no unknown field."""


class Array(Part, frozen=True):
    """A small array.

    Attributes:
        dtype: Type of the values, little-endian, in numpy's notation.
        shape: Length of each axis; the last one changes fastest.
        data: The bytes, deflated (zlib), as base64.
    """

    dtype: Literal["<f4", "<i2", "<u2", "<i4", "<u4", "|u1", "|i1", "<f8"]
    shape: list[Annotated[int, Meta(ge=1)]]
    data: str

    @staticmethod
    def pack(values: NDArray[Any]) -> "Array":
        """Encode an array."""
        little = np.ascontiguousarray(values, dtype=values.dtype.newbyteorder("<"))
        data = base64.b64encode(zlib.compress(little.tobytes(), 9)).decode()
        return msgspec.convert(
            {"dtype": little.dtype.str, "shape": list(values.shape), "data": data},
            Array,
        )

    def __post_init__(self) -> None:
        """Refuse an array that nobody needs, before it is unpacked."""
        size = math.prod(self.shape) * np.dtype(self.dtype).itemsize
        if size > MOST_ARRAY_BYTES:
            raise ValueError(
                f"an array has {size} bytes; at most {MOST_ARRAY_BYTES} are read"
            )

    def unpack(self) -> NDArray[Any]:
        """Decode the array.

        Raises:
            ModelFileError: The bytes are not an array of that shape.
        """
        dtype = np.dtype(self.dtype)
        size = math.prod(self.shape) * dtype.itemsize
        try:
            # One byte more than promised tells a bomb from an array.
            raw = zlib.decompressobj().decompress(base64.b64decode(self.data), size + 1)
            return np.frombuffer(raw, dtype).reshape(self.shape)
        except (ValueError, OverflowError, zlib.error) as error:
            raise ModelFileError(f"The stored sample is damaged: {error}.") from error
