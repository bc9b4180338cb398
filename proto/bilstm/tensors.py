"""ndarray <-> Tensor message. Nothing else in the project touches tensor bytes.

Knows the wire's layout (row-major, little-endian) and no model, limit or service.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Protocol

import ml_dtypes
import numpy as np
from numpy.typing import NDArray

from bilstm import wire
from bilstm.v1 import encoder_pb2 as pb

Array = NDArray[np.generic]

# The one place where a wire type meets a numpy type.
_DTYPES: dict[int, np.dtype[np.generic]] = {
    pb.DATA_TYPE_FLOAT32: np.dtype("<f4"),
    pb.DATA_TYPE_FLOAT16: np.dtype("<f2"),
    pb.DATA_TYPE_BFLOAT16: np.dtype(ml_dtypes.bfloat16),
    pb.DATA_TYPE_INT32: np.dtype("<i4"),
    pb.DATA_TYPE_INT64: np.dtype("<i8"),
}
_MAX_RANK = 8
_DATA_TYPES = {dtype: pb.DataType.ValueType(number) for number, dtype in _DTYPES.items()}

FLOATS = frozenset({pb.DATA_TYPE_FLOAT32, pb.DATA_TYPE_FLOAT16, pb.DATA_TYPE_BFLOAT16})
INTEGERS = frozenset({pb.DATA_TYPE_INT32, pb.DATA_TYPE_INT64})


class TensorMessage(Protocol):
    """What is read of a `Tensor` message, whether protobuf has decoded it or somebody else."""

    @property
    def data_type(self) -> int:
        """The number of its `DataType`."""
        ...

    @property
    def shape(self) -> Sequence[int]:
        """Its sizes, the slowest first."""
        ...

    @property
    def data(self) -> bytes | memoryview:
        """Its elements, row by row, each little-endian."""
        ...


class TensorError(ValueError):
    """A `Tensor` message that contradicts itself. `field` is the one at fault: `data_type`, `shape`
    or `data`."""

    def __init__(self, field: str, expected: str):
        super().__init__(f"{field}: {expected}")
        self.field = field
        self.expected = expected


def dtype_of(data_type: int) -> np.dtype[np.generic]:
    """Return the numpy type of a wire type. Raises `TensorError` for one that does not exist."""
    try:
        return _DTYPES[data_type]
    except KeyError:
        known = ", ".join(pb.DataType.Name(number) for number in _DATA_TYPES.values())
        raise TensorError(
            "data_type", f"must be one of {known}, got {data_type_name(data_type)}"
        ) from None


def data_type_of(dtype: np.dtype[np.generic]) -> pb.DataType.ValueType | None:
    """Return the wire type of a numpy type, or None if the wire has none."""
    return _DATA_TYPES.get(dtype.newbyteorder("<"))


def encode(array: Array) -> pb.Tensor:
    """Return `array` as a message. Its type must be one of the wire's, or it is a `TypeError`."""
    return pb.Tensor(data_type=_data_type(array), shape=array.shape, data=_little(array).tobytes())


def encode_parts(array: Array) -> list[wire.Part]:
    """Return parts of bytes that, joined, are read as `encode(array)`. The array is not copied if
    it is contiguous and little-endian. Raises `TypeError` for a type that the wire has not."""
    flat = np.ascontiguousarray(_little(array)).reshape(-1)
    shape = b"".join(map(wire.varint, array.shape))
    return [
        wire.number(pb.Tensor.DATA_TYPE_FIELD_NUMBER, _data_type(array)),
        *wire.delimited(pb.Tensor.SHAPE_FIELD_NUMBER, [shape]),
        *wire.delimited(pb.Tensor.DATA_FIELD_NUMBER, [flat.view(np.uint8).data]),
    ]


def decode(tensor: TensorMessage) -> Array:
    """Return the message's array, read-only, over its bytes without a copy.

    Type, shape and byte count are checked against each other before anything is made. Raises
    `TensorError`.
    """
    dtype = dtype_of(tensor.data_type)
    if len(tensor.shape) > _MAX_RANK:
        raise TensorError("shape", f"must have at most {_MAX_RANK} sizes, got {len(tensor.shape)}")
    shape = tuple(tensor.shape)
    if any(size < 0 for size in shape):
        raise TensorError("shape", f"must not be negative, got {_list(shape)}")
    data = tensor.data  # read once: each access copies
    expected = math.prod(shape) * dtype.itemsize  # Python's integers don't overflow
    if len(data) != expected:
        raise TensorError(
            "data",
            f"must be {expected} bytes for shape {_list(shape)} of "
            f"{data_type_name(tensor.data_type)}, got {len(data)}",
        )
    try:
        return np.frombuffer(data, dtype).reshape(shape)
    except ValueError:  # without elements, but with a size that no array can have
        raise TensorError("shape", f"is no array's shape: {_list(shape)}") from None


def _data_type(array: Array) -> pb.DataType.ValueType:
    data_type = data_type_of(array.dtype)
    if data_type is None:
        raise TypeError(f"the wire has no type for {array.dtype}")
    return data_type


def _little(array: Array) -> Array:
    return array.astype(array.dtype.newbyteorder("<"), copy=False)


def data_type_name(data_type: int) -> str:
    """Return the wire's name of a type, or the number of one that does not exist."""
    try:
        return pb.DataType.Name(pb.DataType.ValueType(data_type))
    except ValueError:
        return str(data_type)


def _list(shape: tuple[int, ...]) -> str:
    return f"[{', '.join(str(size) for size in shape)}]"
