"""What a caller may give, as arrays that the wire can carry. Knows no model, message or limit."""

from __future__ import annotations

from typing import Any

import numpy as np

from bilstm import tensors

from .types import Array, State

_MAX_INT64 = np.iinfo(np.int64).max


def to_array(x: Any, name: str) -> Array:
    """`x` as the wire can carry it: [T, D] floats, or [T] integers for token ids.

    Takes an ndarray, a torch tensor (on any device, also one that requires grad or is bfloat16),
    or nested lists. float16 and bfloat16 stay; other floats become float32, and inf where they
    are beyond its range. `TypeError`s call it `name`.
    """
    array = _ndarray(x, name)
    carried = tensors.data_type_of(array.dtype) is not None
    if array.dtype.kind in "iub" and array.ndim == 1:
        return array if carried else _int64(array, name)
    if not carried and array.dtype.kind not in "iubf":
        raise TypeError(f"{name}: must be an array of numbers, got {array.dtype}")
    if carried and array.dtype.kind not in "iu":
        return array
    with np.errstate(over="ignore"):
        return array.astype(np.float32)


def to_state(state: Any, name: str) -> tuple[Array, Array]:
    """Hidden and cell of a `State`, or of a plain pair as torch.nn.LSTM takes it."""
    if isinstance(state, State):
        state = (state.hidden, state.cell)
    if not isinstance(state, tuple | list) or len(state) != 2:
        raise TypeError(
            f"{name}: must be a State or a (hidden, cell) pair, got {type(state).__name__}"
        )
    hidden, cell = state
    return to_array(hidden, f"{name}.hidden"), to_array(cell, f"{name}.cell")


def is_tensor(x: Any) -> bool:
    """Whether it seems to be a torch tensor; torch itself is not needed to say so."""
    return hasattr(x, "detach") and hasattr(x, "dtype")


def _ndarray(x: Any, name: str) -> Array:
    if isinstance(x, np.ma.MaskedArray):
        raise TypeError(f"{name}: must be an array without a mask; fill it first")
    try:
        if is_tensor(x):
            x = x.detach().cpu()
            x = (x.float() if str(x.dtype) == "torch.bfloat16" else x).numpy()
        return np.asarray(x)
    # Such as rows that differ in length, and what only seems to be a tensor.
    except (TypeError, ValueError, AttributeError) as error:
        raise TypeError(f"{name}: must be an array of numbers: {error}") from error


def _int64(array: Array, name: str) -> Array:
    if array.dtype.kind == "u" and array.size and array.max() > _MAX_INT64:
        raise TypeError(f"{name}: must be integers that int64 holds, got {array.max()}")
    return array.astype(np.int64)
