"""ONNX files: what is read of one, and how much.

A file may keep its tensors in others beside it. Those are read from its own folder only, within
its size; nothing in a file is executed.
"""

from __future__ import annotations

import os
from math import prod
from pathlib import Path, PurePosixPath

import numpy as np
import onnx
from onnx import numpy_helper

from ....errors import ModelError
from ..drafts import Array
from ..files import memory_bytes, open_regular, read_whole

_MOST_BYTES = 2**31  # of a protobuf message
_EXPORT = "export the model again"


def read_model(path: Path) -> onnx.ModelProto:
    """Read a file without its tensors elsewhere."""
    content, _ = read_whole(path, _MOST_BYTES)
    try:
        model = onnx.load_model_from_string(content)
    except Exception as error:  # of protobuf's types, whatever the damage
        raise ModelError(f"{path}: is no readable ONNX model; {_EXPORT}") from error
    if not model.graph.node:
        raise ModelError(f"{path}: is an ONNX model without nodes; {_EXPORT}")
    return model


def read_tensor(tensor: onnx.TensorProto, folder: Path) -> Array:
    """A tensor's numbers. Raises `ValueError` if it has none, or of a kind that is not served."""
    if tensor.data_type not in _KINDS:
        raise ValueError(f"tensor {tensor.name} is of no numbers that are served")
    if tensor.data_location == onnx.TensorProto.EXTERNAL:
        tensor = _with_data(tensor, folder)
    array: Array = numpy_helper.to_array(tensor)
    if tensor.data_type in (onnx.TensorProto.FLOAT16, onnx.TensorProto.BFLOAT16):
        return array.astype(np.float32)
    return array


def _with_data(tensor: onnx.TensorProto, folder: Path) -> onnx.TensorProto:
    """The same tensor with its bytes from the file that it names."""
    entries = {entry.key: entry.value for entry in tensor.external_data}
    location = PurePosixPath(entries.get("location", ""))
    path = folder / location
    if (
        not location.parts
        or location.is_absolute()
        or not path.resolve().is_relative_to(folder.resolve())
    ):
        raise ValueError(f"tensor {tensor.name} is in {location}, outside of the model's folder")
    size, offset = prod(tensor.dims) * _KINDS[tensor.data_type], entries.get("offset", "0")
    if not offset.isdecimal() or size < 0:
        raise ValueError(f"tensor {tensor.name} is in no place of {location}")
    with open_regular(path, memory_bytes()) as file:
        file.seek(min(int(offset), os.fstat(file.fileno()).st_size))
        data = file.read(min(size, os.fstat(file.fileno()).st_size))
    if len(data) != size:
        raise ValueError(f"tensor {tensor.name} has {size:,} bytes, and {location} ends before")
    return onnx.TensorProto(
        name=tensor.name, dims=tensor.dims, data_type=tensor.data_type, raw_data=data
    )


_KINDS = {  # and their bytes
    onnx.TensorProto.FLOAT: 4,
    onnx.TensorProto.DOUBLE: 8,
    onnx.TensorProto.FLOAT16: 2,
    onnx.TensorProto.BFLOAT16: 2,
    onnx.TensorProto.INT32: 4,
    onnx.TensorProto.INT64: 8,
    onnx.TensorProto.BOOL: 1,
}
