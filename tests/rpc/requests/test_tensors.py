"""The codec of tensors: every array comes back as it was, and what is no tensor is a
`TensorError`.
"""

from __future__ import annotations

import math
from typing import Any

import ml_dtypes
import numpy as np
import pytest
from google.protobuf import empty_pb2, unknown_fields
from hypothesis import example, given
from hypothesis import settings as examples
from hypothesis import strategies as st
from hypothesis.extra import numpy as stn

from bilstm import tensors
from bilstm import wire as wire_parts
from bilstm.v1 import encoder_pb2 as pb
from tests.rpc.requests.by_hand import any_tensors

WIRE_DTYPES = [np.dtype(d) for d in ("<f4", "<f2", ml_dtypes.bfloat16, "<i4", "<i8")]
shapes = stn.array_shapes(min_dims=0, max_dims=4, min_side=0, max_side=4)


@st.composite
def arrays(draw: st.DrawFn) -> tensors.Array:
    """An array of any wire type, shape and layout: sliced, transposed, big-endian."""
    dtype = draw(st.sampled_from(WIRE_DTYPES))
    shape = draw(shapes)
    count = math.prod(shape)
    raw = draw(st.binary(min_size=count * dtype.itemsize, max_size=count * dtype.itemsize))
    array = np.frombuffer(raw, dtype).reshape(shape)
    layout = draw(st.sampled_from(["plain", "transposed", "reversed", "strided"]))
    if layout == "transposed":
        array = array.T
    elif layout == "reversed":
        array = array[(slice(None, None, -1),) * array.ndim]
    elif layout == "strided" and array.ndim:
        array = np.repeat(array, 2, axis=0)[::2]
    if dtype != ml_dtypes.bfloat16 and draw(st.booleans()):
        array = array.astype(dtype.newbyteorder(">"))
    return array


@given(array=arrays())
@examples(deadline=None, derandomize=True, max_examples=300)
def test_parts_of_a_tensor_are_its_message(array: tensors.Array) -> None:
    """Written in parts, a tensor's bytes are read as the message that `encode` makes."""
    read = pb.Tensor.FromString(b"".join(tensors.encode_parts(array)))
    assert read == tensors.encode(array)


@given(number=st.integers(1, 2**29 - 1), value=st.integers(0, 2**64 - 1), data=st.binary())
def test_fields_are_written_as_protobuf_reads_them(number: int, value: int, data: bytes) -> None:
    """A field's tag and length, and numbers of any size, are protobuf's."""
    written = wire_parts.number(number, value) + b"".join(wire_parts.delimited(number, [data]))
    fields: Any = unknown_fields.UnknownFieldSet(empty_pb2.Empty.FromString(written))
    assert [(f.field_number, f.data) for f in fields] == [(number, value), (number, data)]


@given(array=arrays())
@examples(deadline=None, derandomize=True, max_examples=300)
@example(array=np.float32(3).reshape(()))
@example(array=np.zeros((0, 5), ">f4"))
def test_tensors_survive_the_wire(array: tensors.Array) -> None:
    """Every array comes back with its type, shape and bits, whatever its layout in memory."""
    message = pb.Tensor.FromString(tensors.encode(array).SerializeToString())
    decoded = tensors.decode(message)
    assert decoded.shape == array.shape
    assert decoded.dtype == array.dtype.newbyteorder("<")
    assert decoded.tobytes() == array.astype(array.dtype.newbyteorder("<")).tobytes()
    assert not decoded.flags.writeable or not decoded.size


@pytest.mark.parametrize(
    ("array", "data_type", "data"),
    [
        (np.array([[1, 2], [3, 4]], "<i4").T, pb.DATA_TYPE_INT32, "01000000 03000000 02000000 04"),
        (np.array([258], ">i8"), pb.DATA_TYPE_INT64, "0201"),
        (np.array([1.5], "<f4"), pb.DATA_TYPE_FLOAT32, "0000c03f"),
        (np.array([1.5], ">f2"), pb.DATA_TYPE_FLOAT16, "003e"),
        (np.array([1.5], ml_dtypes.bfloat16), pb.DATA_TYPE_BFLOAT16, "c03f"),
    ],
    ids=["int32", "int64", "float32", "float16", "bfloat16"],
)
def test_layout_on_the_wire(array: tensors.Array, data_type: int, data: str) -> None:
    """Elements travel row by row, each little-endian."""
    message = tensors.encode(array)
    assert message.data_type == data_type
    assert message.data == bytes.fromhex(data).ljust(array.nbytes, b"\0")


@pytest.mark.parametrize("dtype", ["f8", "i2", "u4", "?", "c8", "U3", "O"])
def test_types_that_the_wire_has_not(dtype: str) -> None:
    """An array of another type is a TypeError before anything is sent."""
    with pytest.raises(TypeError):
        tensors.encode(np.zeros(2, dtype))


@given(message=any_tensors())
@examples(deadline=None, derandomize=True, max_examples=500)
@example(message=pb.Tensor(data_type=pb.DATA_TYPE_FLOAT32, shape=[0, 2**62], data=b""))
@example(message=pb.Tensor(data_type=pb.DATA_TYPE_FLOAT32, shape=[0, 2**63 - 1, 2**63 - 1]))
@example(message=pb.Tensor(data_type=pb.DATA_TYPE_INT64, shape=[1] * 65, data=bytes(8)))
def test_decode_raises_tensor_errors_only(message: pb.Tensor) -> None:
    """Any Tensor message gives an array of its shape, or a TensorError that names its field."""
    try:
        array = tensors.decode(message)
    except tensors.TensorError as error:
        refusal = error
    else:
        assert array.shape == tuple(message.shape)
        assert array.tobytes() == message.data
        return
    assert refusal.field in {"data_type", "shape", "data"}
    assert refusal.expected
