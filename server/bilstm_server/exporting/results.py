"""What the module returns: named outputs, as values of the graph and as plain tensors."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from . import elements
from .columns import value_of, with_numbers
from .ctc import greedy
from .elements import CONSTANT, Elements
from .example.structure import Path, leaves
from .kept import Change, as_before
from .refusals import BY_NUMPY, ExportError, Place, Refusal
from .rows import align, raise_refusal
from .splicing import reversed_steps, steps_of
from .steps import covers, end, is_stepwise, trimmed
from .symbols import SymbolicArray, where_of
from .trace import Numbers, Trace, numbers

Outputs = Sequence[str | None] | Callable[[nn.Module, tuple[Any, ...]], Mapping[str, Any]] | None


def returned(
    module: nn.Module, arguments: Any, outputs: Outputs, changed: list[Change] | None = None
) -> Any:
    """What the module, or the owner's function, returns. What it changed of itself is put back; it
    comes to be in `changed`."""
    with as_before(module) as before:
        if callable(outputs):
            result = dict(outputs(module, arguments.args))
        else:
            result = module(*arguments.args, **arguments.kwargs)
    if changed is not None:
        changed += before.changed
    return result


def named(result: Any, outputs: Outputs) -> Iterator[tuple[Path, Any]]:
    """Each tensor or list of numbers in a result, by the names that lead to it."""
    if outputs is None or callable(outputs):
        yield from _walk(result)
        return
    parts = list(result.values()) if isinstance(result, Mapping) else result
    parts = list(parts) if isinstance(parts, list | tuple) else [parts]
    if len(outputs) != len(parts):
        raise ExportError(
            f"outputs: expected a name or None for each of {len(parts)} results, got {len(outputs)}"
        )
    for name, part in zip(outputs, parts, strict=True):
        if name is not None:
            yield from _walk(part, (name,))


def _walk(result: Any, path: Path = ()) -> Iterator[tuple[Path, Any]]:
    for name, leaf in leaves(_lists_as_tensors(result), path):
        if isinstance(leaf, Tensor | _Listed):
            yield name, leaf


def is_number(leaf: Any) -> bool:
    """Whether a leaf of the results is one number of Python's."""
    return isinstance(leaf, _Listed) and leaf.tensor.dim() == 0


class _Listed:
    """Numbers, lists of them and arrays, as a tensor."""

    def __init__(self, tensor: Tensor, where: Elements | None):
        self.tensor = tensor
        self.where = where


def _lists_as_tensors(value: Any) -> Any:
    is_one = isinstance(value, int | float | np.integer | np.floating)
    if (is_one and not isinstance(value, bool)) or (isinstance(value, list | tuple) and value):
        where = where_of(value)
        if where is not None:
            return _Listed(torch.tensor(value), where)
    if isinstance(value, np.ndarray) and value.dtype.kind in "iubf":
        where = np.full(value.shape, CONSTANT)
        if isinstance(value, SymbolicArray):
            where = value.where
        return _Listed(torch.from_numpy(np.array(value)), where)
    if isinstance(value, list) and not value:
        return _Listed(torch.empty(0, dtype=torch.int64), np.empty(0, np.int64))
    if isinstance(value, Mapping):
        return {key: _lists_as_tensors(part) for key, part in value.items()}
    if type(value) in (list, tuple):
        return type(value)(_lists_as_tensors(part) for part in value)
    return value


@dataclass(frozen=True)
class Result:
    """An output: its value in the graph, and which axis of the module's tensor is the steps."""

    slot: int
    axis: int | None
    is_transposed: bool = False


def result_of(trace: Trace, leaf: Any) -> Result | None:
    """The value of one tensor that the module returns; None if it depends on no input."""
    tensor, where = (
        (leaf.tensor, leaf.where) if isinstance(leaf, _Listed) else (leaf, trace.elements(leaf))
    )
    if where is None:
        raise Refusal(BY_NUMPY)
    if (where == CONSTANT).all():
        return None
    graph, place = trace.graph, Place("", "an output")
    raise_refusal(graph, where)
    stepwise = is_stepwise(graph, where)
    rows = np.where(stepwise, elements.row_of(where), 0)
    changes = [_changes(rows, stepwise, axis) for axis in range(where.ndim)]
    known = numbers(tensor)
    if not any(changes):
        return Result(_lone(trace, where.reshape(1, -1), known.reshape(1, -1), place), None)
    axis = int(np.argmax(changes))
    if is_ends(trace, where):
        return Result(_lone(trace, where.reshape(1, -1), known.reshape(1, -1), place), None)
    count = _count(rows, axis)
    steps = np.moveaxis(where, axis, 0).reshape(count, -1)
    its = np.moveaxis(np.broadcast_to(known, where.shape), axis, 0).reshape(count, -1)
    slot = _steps(trace, steps, its, place)
    before = [size for size in where.shape[:axis] if size > 1]
    return Result(slot, axis, bool(before))


def _changes(rows: Elements, stepwise: np.ndarray, axis: int) -> float:
    """How much of what is next to each other on an axis is of different steps."""
    if rows.shape[axis] == 1:
        return 0.0
    last = rows.shape[axis] - 1
    both = stepwise.take(range(last), axis) & stepwise.take(range(1, last + 1), axis)
    return float(((np.diff(rows, axis=axis) != 0) & both).mean())


def _count(rows: Elements, axis: int) -> int:
    """How many steps lie along an axis, on which columns may lie within each."""
    along = np.moveaxis(rows, axis, 0).reshape(rows.shape[axis], -1)
    return int((np.diff(along, axis=0) != 0).sum(axis=0).max()) + 1


def _steps(trace: Trace, steps: Elements, known: Numbers, place: Place) -> int:
    """The value of elements [steps, K]."""
    graph = trace.graph
    slots = elements.slots_in(steps)
    if any(graph.value(slot).ids for slot in slots):
        if steps.shape[1] > 1 or len(slots) > 1:
            raise Refusal("has several labels for a step; name them one by one", place)
        steps = trimmed(graph, steps, place)
        slots = elements.slots_in(steps)
        found = covers(graph, steps)
        if found:
            return slots[0] if found > 0 else reversed_steps(graph, slots[0], place)
        decoded = greedy(trace, slots[0], elements.row_of(steps).reshape(-1).tolist(), place)
        if decoded is not None:
            return decoded
    else:
        of_step = steps_of(graph, steps, known, place)
        if of_step is not None:
            slot = value_of(graph, of_step.columns, place)
            return reversed_steps(graph, slot, place) if of_step.is_reversed else slot
    raise Refusal("leaves out steps, or has them in another order, and can't be served", place)


def is_ends(trace: Trace, where: Elements) -> bool:
    """Whether these are of first and last steps only."""
    flat = where[where != CONSTANT]
    for slot in elements.slots_in(flat):
        if trace.graph.value(slot).per_step:
            rows = elements.row_of(flat[elements.slot_of(flat) == slot])
            if not np.isin(rows, (0, trace.graph.rows(slot) - 1)).all():
                return False
    return True


def _lone(trace: Trace, fibre: Elements, known: Any, place: Place) -> int:
    """The value [1, K] of one row."""
    graph = trace.graph
    is_by_number = bool((fibre == CONSTANT).any())  # where it comes from, its number has to tell
    fibre = with_numbers(graph, fibre, known, fibre == CONSTANT)
    if any(graph.value(slot).ids for slot in elements.slots_in(fibre)):
        slot, row = int(elements.slot_of(fibre)[0, 0]), int(elements.row_of(fibre)[0, 0])
        if fibre.size > 1:
            raise Refusal("has several labels for a sequence; name them one by one", place)
        is_any = graph.value(slot).per_step and len(set(trace.labels.get(slot, ()))) == 1
        if is_by_number and is_any:
            raise Refusal(
                "is one label where every step has the same, which may be any of them; give an "
                "example whose steps have others too",
                place,
            )
        return end(graph, slot, row, place) if graph.value(slot).per_step else slot
    aligned = align(graph, fibre, place, np.zeros(1, np.int64))
    order = aligned.columns[aligned.groups].reshape(-1)
    slot = value_of(graph, order, place)
    return end(graph, slot, int(aligned.rows[0]), place) if graph.value(slot).per_step else slot


def plain(leaf: Any, axis: int | None, rows: int) -> Tensor:
    """What the module returned, in the form in which it is served: [rows, width] or [width]."""
    tensor = leaf.tensor if isinstance(leaf, _Listed) else leaf
    tensor = tensor.detach().cpu()
    if axis is None:
        return tensor.reshape(-1)
    return tensor.movedim(axis, 0).reshape(rows, -1)
