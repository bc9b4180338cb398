"""Operations that move numbers and compute none: done to where the numbers come from instead."""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from torch import Tensor

from .. import elements
from ..elements import CONSTANT, Elements
from ..trace import Call, operation
from .comparisons import compared

# Operations, and those of their arguments whose numbers are moved.
_MOVED = {
    "cat": ("tensors",),
    "stack": ("tensors",),
    "clone": ("self",),
    "contiguous": ("self",),
    "view_copy": ("self",),
    "flip": ("self",),
    "roll": ("self",),
    "repeat": ("self",),
    "repeat_interleave": ("self",),
    "index_select": ("self",),
    "index": ("self",),
    "gather": ("self",),
    "constant_pad_nd": ("self", "value"),
    "masked_fill": ("self", "value"),
    "masked_select": ("self",),
    "masked_scatter": ("self", "source"),
    "where": ("self", "other"),
    "index_put": ("self", "values"),
    "_index_put_impl": ("self", "values"),
    "index_copy": ("self", "source"),
    "index_fill": ("self", "value"),
    "scatter": ("self", "src", "value"),
    "slice_scatter": ("self", "src"),
    "select_scatter": ("self", "src"),
    "tril": ("self",),
    "triu": ("self",),
    "reflection_pad1d": ("self",),
    "replication_pad1d": ("self",),
    "_pack_padded_sequence": ("input",),
    "unfold_copy": ("self",),
    "im2col": ("self",),
    "block_diag": ("tensors",),
    "take_along_dim": ("self",),
}


def move(call: Call) -> Elements | tuple[Elements | None, ...]:
    """Run the operation on the elements."""
    moved = _MOVED[call.name]
    for name, value in call.arguments.items():
        if name not in moved and any(map(call.trace.depends, _tensors(value))):
            raise call.refusal(
                f"its {name} depends on the sequence: numbers are chosen by numbers, which has no "
                "layer; leave it to the client"
            )
    arguments = {
        name: _moved(call, value) if name in moved else _on_cpu(value)
        for name, value in call.arguments.items()
        if name not in ("dtype", "layout", "device", "pin_memory")
    }
    with torch.no_grad():
        result = call.function(**arguments)
    if call.name == "_pack_padded_sequence":
        return result[0].numpy(), None  # the other are sizes of batches
    results = result if isinstance(result, tuple | list) else (result,)
    return tuple(r.numpy() for r in results)


def _moved(call: Call, value: Any) -> Any:
    if isinstance(value, list | tuple):
        return [_moved(call, part) for part in value]
    if isinstance(value, Tensor):
        return call.trace.origins.tensor(value)
    return value if value is None else CONSTANT


def _on_cpu(value: Any) -> Any:
    if isinstance(value, list | tuple):
        return [_on_cpu(part) for part in value]
    return value.cpu() if isinstance(value, Tensor) else value


def _tensors(value: Any) -> list[Tensor]:
    parts = value if isinstance(value, list | tuple) else [value]
    return [part for part in parts if isinstance(part, Tensor)]


operation(*_MOVED)(move)


@operation("unique_consecutive", "unique_dim_consecutive")
def without_repeats(call: Call) -> tuple[Elements | None, ...]:
    """The first of each run of equal labels, which may be a part of CTC's greedy decoding."""
    where, labels = call.elements("self").reshape(-1), call["self"].reshape(-1).tolist()
    call.check_values(where)
    if not all(call.graph.value(slot).ids for slot in elements.slots_in(where)):
        raise call.refusal("chooses numbers by numbers, which has no layer")
    first = [i for i, label in enumerate(labels) if i == 0 or labels[i - 1] != label]
    return where[first].reshape(tuple(call.result[0].shape)), None, None


@operation("copy")
def copy(call: Call) -> Elements:
    """Numbers of one tensor written into another."""
    return np.broadcast_to(
        converted(call, call.elements("src"), call["self"].dtype, call["src"].dtype),
        tuple(call["self"].shape),
    )


@operation("_to_copy")
def to_copy(call: Call) -> Elements:
    """The same numbers in another dtype."""
    return converted(call, call.elements("self"), call.result.dtype, call["self"].dtype)


@operation(
    "fill",
    "zero",
    "zeros_like",
    "ones_like",
    "full_like",
    "empty_like",
    "new_zeros",
    "new_ones",
    "new_full",
    "new_empty",
    "new_empty_strided",
    "resize",
)
def fixed(call: Call) -> Elements:
    """Numbers that are given in the code. Of the tensors only the form matters."""
    value = call.get("value")
    if call.trace.depends(value):
        return np.broadcast_to(call.elements("value"), tuple(call["self"].shape))
    return np.array(CONSTANT)


def converted(call: Call, where: Elements, to: torch.dtype, of: torch.dtype) -> Elements:
    """The elements after a change of dtype: floats stay floats, and ids stay ids."""
    is_ids = any(call.graph.value(slot).ids for slot in elements.slots_in(where))
    if to.is_floating_point and not is_ids:
        return where
    if not to.is_floating_point and not of.is_floating_point and to != torch.bool:
        return where
    if to == torch.bool and is_ids:
        return compared(call, where, numbers_of(call), 0, "ne")
    call.check_all()
    if to.is_floating_point:
        raise call.refusal("takes ids for numbers; give the model floats instead")
    raise call.refusal("rounds numbers, which has no layer; leave it to the client")


def numbers_of(call: Call) -> Any:
    """The result of this call as it came out."""
    return call.result.detach().cpu().numpy()
