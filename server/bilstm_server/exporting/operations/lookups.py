"""Rows of a table by ids: embeddings, however they are written."""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from torch import Tensor

from .. import elements
from ..elements import CONSTANT, Elements
from ..refusals import Refusal
from ..trace import Call, Trace, operation
from .movement import move


@operation("embedding")
def embedding(call: Call) -> Elements:
    """nn.Embedding"""
    if not call.trace.depends(call["indices"]):
        raise call.refusal("its weight depends on the sequence")
    return looked_up(call, call["indices"], call.fixed("weight"))


@operation("index_select", "index")
def index(call: Call) -> Elements | tuple[Elements | None, ...]:
    """Rows of a fixed table by ids; else numbers that are moved."""
    indices = call["index"] if call.name == "index_select" else call["indices"]
    indices = indices if isinstance(indices, list | tuple) else [indices]
    is_lookup = len(indices) == 1 and call.trace.depends(indices[0])
    is_rows = call.name == "index" or call["dim"] == 0
    if is_lookup and is_rows and not call.trace.depends(call["self"]):
        return looked_up(call, indices[0], call["self"])
    return move(call)


def looked_up(call: Call, indices: Tensor, table: Tensor | None) -> Elements:
    """The rows of a table: a layer for each input of ids among the indices."""
    where = call.trace.elements(indices)
    call.check_values(where)
    assert table is not None
    table = table.reshape(len(table), -1)
    return embedded(call.trace, where, table, call.place, call.result).reshape(
        tuple(call.result.shape)
    )


def embedded(trace: Trace, where: Elements, table: Tensor, place: Any, result: Tensor) -> Elements:
    """The elements [*where.shape, width] of rows of a table."""
    rows, width = table.shape
    made = np.full((*where.shape, width), CONSTANT)
    for slot in elements.slots_in(where):
        value = trace.graph.value(slot)
        if not value.ids:
            raise Refusal("takes floats for ids", place)
        if not trace.graph.slots[slot].input and value.ids > rows:
            raise Refusal(f"looks up {value.ids} ids in a table of {rows} rows", place)
        trace.ids[slot] = min(trace.ids.get(slot, rows), rows)
        like = trace.graph.like(slot, width=width)
        layer = trace.graph.add(
            "embedding", [slot], like, place, {"weight": table}, width=width
        ).slot
        mine = elements.slot_of(where) == slot
        at = elements.row_of(where)[mine]
        made[mine] = elements.make(layer, at[:, None], np.arange(width))
    return made


def one_hot(trace: Trace, ids: Tensor, classes: int, result: Tensor) -> None:
    """A table of ones and zeros."""
    place = trace.places.here()
    where = embedded(trace, trace.elements(ids), torch.eye(classes), place, result)
    trace.origins.write(result, where)
