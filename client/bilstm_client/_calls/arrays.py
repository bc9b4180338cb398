"""What a caller may give as a sequence, made an array that the wire can carry. Knows no model,
message or limit.
"""

from __future__ import annotations

from typing import Any

import numpy as np

from bilstm import tensors

from ..types import Array, State

_MAX_INT64 = np.iinfo(np.int64).max
_FLOAT32 = np.dtype(np.float32)


def to_array(x: Any, name: str) -> Array:
    """`x` as numbers: floats that the wire can carry, or integers of any shape; see `as_sent`.

    Takes an ndarray, a torch tensor (on any device, also one that requires grad or is bfloat16),
    or nested lists. float16 and bfloat16 stay; other floats become float32, and inf where they
    are beyond its range. `TypeError`s call it `name`.
    """
    array = _ndarray(x, name)
    carried = tensors.data_type_of(array.dtype) is not None
    if array.dtype.kind in "iub":
        return array if carried or array.ndim != 1 else _int64(array, name)
    if not carried and array.dtype.kind != "f":
        raise TypeError(f"{name}: must be an array of numbers, got {array.dtype}")
    return array if carried else _float32(array)


def as_sent(array: Array) -> Array:
    """The array as the wire carries it: [T] integers are token ids, all others are features, and
    so floats."""
    return _float32(array) if are_features(array) else array


def are_features(array: Array) -> bool:
    """Whether the array holds integers that are features: token ids are [T], one dimension."""
    return array.dtype.kind in "iub" and array.ndim != 1


def sent_bytes(array: Array) -> int:
    """The size of `as_sent(array)` in bytes."""
    return array.size * _FLOAT32.itemsize if are_features(array) else array.nbytes


def to_state(state: Any, name: str) -> tuple[Array, Array]:
    """Hidden and cell of a `State`, or of a plain pair as torch.nn.LSTM takes it."""
    if isinstance(state, State):
        state = (state.hidden, state.cell)
    if not isinstance(state, tuple | list) or len(state) != 2:
        raise TypeError(
            f"{name}: must be a State or a (hidden, cell) pair, got {type(state).__name__}"
        )
    hidden, cell = state
    parts = to_array(hidden, f"{name}.hidden"), to_array(cell, f"{name}.cell")
    return as_sent(parts[0]), as_sent(parts[1])


def is_tensor(x: Any) -> bool:
    """Whether `x` seems to be a torch tensor; torch itself is not needed to say so."""
    return hasattr(x, "detach") and hasattr(x, "dtype")


def check_has_numbers(x: Any, name: str) -> None:
    """Raises `TypeError` for a masked array, and for a tensor without numbers of its own."""
    if isinstance(x, np.ma.MaskedArray):
        raise TypeError(f"{name}: must be an array without a mask; fill it first")
    if not is_tensor(x):
        return
    if getattr(x, "is_meta", False) or hasattr(x, "fake_mode"):
        raise TypeError(f"{name}: must be an array of numbers, got a tensor without data")
    if getattr(x, "is_nested", False):
        raise TypeError(f"{name}: must be one sequence, got a nested tensor; give each of its own")
    if getattr(x, "is_quantized", False):
        raise TypeError(f"{name}: must not be quantised; give x.dequantize()")
    if str(getattr(x, "layout", "torch.strided")) != "torch.strided":
        raise TypeError(f"{name}: must be dense, got {x.layout}; give x.to_dense()")


def _ndarray(x: Any, name: str) -> Array:
    check_has_numbers(x, name)
    try:
        if is_tensor(x):
            # Forced: from any device, also what is only marked as negative or conjugate.
            x = x.detach()
            x = (x.float() if str(x.dtype) == "torch.bfloat16" else x).numpy(force=True)
        return np.asarray(x)
    # Such as rows that differ in length, tensors in lists that require grad or have no numbers, and
    # what only seems to be a tensor.
    except (TypeError, ValueError, AttributeError, RuntimeError) as error:
        raise TypeError(f"{name}: must be an array of numbers: {error}") from error


def _float32(array: Array) -> Array:
    with np.errstate(over="ignore"):
        return array.astype(_FLOAT32)


def _int64(array: Array, name: str) -> Array:
    if array.dtype.kind == "u" and array.size and array.max() > _MAX_INT64:
        raise TypeError(f"{name}: must be integers that int64 holds, got {array.max()}")
    return array.astype(np.int64)
