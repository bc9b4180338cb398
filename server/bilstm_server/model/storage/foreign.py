"""Files of other frameworks, by their suffixes. Their libraries are loaded when one is read."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

from ...errors import ModelError
from .drafts import ForeignModel

_KERAS = (".h5", ".hdf5", ".keras")
_ONNX = (".onnx",)


def is_foreign(path: Path) -> bool:
    """Whether a file's name says that another framework wrote it."""
    return path.suffix.lower() in (*_KERAS, *_ONNX)


def read_foreign(path: Path) -> ForeignModel:
    """Read a file for which `is_foreign` holds. See `read_keras` and `read_onnx`."""
    try:
        read = _reader(path)
    except ModuleNotFoundError as error:
        extra = "onnx" if path.suffix.lower() in _ONNX else "keras"
        raise ModelError(
            f"{path}: reading it needs {error.name}: pip install 'bilstm[{extra}]'"
        ) from error
    return read(path)


def _reader(path: Path) -> Callable[[Path], ForeignModel]:
    if path.suffix.lower() in _ONNX:
        from .from_onnx import read_onnx

        return read_onnx
    from .from_keras import read_keras

    return read_keras
