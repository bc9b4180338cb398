"""What the module returns: named outputs, as values of the graph and as plain tensors."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from . import elements
from .columns import value_of
from .elements import CONSTANT, Elements
from .example.structure import Path, leaves
from .refusals import ExportError, Place, Refusal
from .rows import align, is_stepwise, one_grid, raise_refusal
from .steps import covers, end, one_row, trimmed
from .symbols import SymbolicFloat, SymbolicInt, where_of
from .trace import Trace, numbers

Outputs = Sequence[str | None] | Callable[[nn.Module, tuple[Any, ...]], Mapping[str, Any]] | None


def returned(module: nn.Module, arguments: Any, outputs: Outputs) -> Any:
    """What the module, or the owner's function, returns."""
    if callable(outputs):
        return dict(outputs(module, arguments.args))
    return module(*arguments.args, **arguments.kwargs)


def named(result: Any, outputs: Outputs) -> Iterator[tuple[Path, Any]]:
    """Each tensor or list of numbers in a result, by the names that lead to it."""
    if outputs is None or callable(outputs):
        yield from _walk(result)
        return
    parts = list(result.values()) if isinstance(result, Mapping) else result
    parts = list(parts) if isinstance(parts, list | tuple) else [parts]
    if len(outputs) != len(parts):
        raise ExportError(f"outputs: expected a name or None for each of {len(parts)} results, got {len(outputs)}")
    for name, part in zip(outputs, parts, strict=True):
        if name is not None:
            yield from _walk(part, (name,))


def _walk(result: Any, path: Path = ()) -> Iterator[tuple[Path, Any]]:
    for name, leaf in leaves(_lists_as_tensors(result), path):
        if isinstance(leaf, Tensor | _Listed):
            yield name, leaf


@dataclass(frozen=True)
class _Listed:
    """Lists of numbers, as a tensor."""

    tensor: Tensor
    where: Elements


def _lists_as_tensors(value: Any) -> Any:
    if isinstance(value, SymbolicInt | SymbolicFloat) or (isinstance(value, list | tuple) and value):
        where = where_of(value)
        if where is not None:
            return _Listed(torch.tensor(value), where)
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
    tensor, where = (leaf.tensor, leaf.where) if isinstance(leaf, _Listed) else (leaf, trace.elements(leaf))
    if (where == CONSTANT).all():
        return None
    graph, place = trace.graph, Place("", "an output")
    raise_refusal(graph, where)
    stepwise = is_stepwise(graph, where)
    rows = np.where(stepwise, elements.row_of(where), 0)
    axes = [axis for axis in range(where.ndim) if (np.diff(rows, axis=axis) != 0).any()]
    known = numbers(tensor)
    if not axes:
        return Result(_lone(trace, where.reshape(1, -1), known.reshape(1, -1), place), None)
    if len(axes) > 1 or not stepwise.any():
        raise Refusal("has steps along more than one axis, and can't be served", place)
    (axis,) = axes
    slots = [slot for slot in elements.slots_in(where) if graph.value(slot).per_step]
    steps = np.moveaxis(where, axis, 0)
    if is_ends(trace, where):
        return Result(_lone(trace, where.reshape(1, -1), known.reshape(1, -1), place), None)
    steps = trimmed(graph, one_grid(graph, steps.reshape(len(steps), -1), place), place)
    slots = [slot for slot in elements.slots_in(steps) if graph.value(slot).per_step]
    count = graph.rows(slots[0])
    if len(steps) % count:
        raise Refusal("leaves out steps, and can't be served", place)
    steps = steps.reshape(count, -1)
    its = np.moveaxis(np.broadcast_to(known, where.shape), axis, 0).reshape(count, -1)
    steps = _with_numbers(trace, steps, its)
    direction, columns = covers(graph, steps), one_row(steps)
    if direction < 0:
        raise Refusal("is in reversed order of steps; reverse it in the client", place)
    if not direction or columns is None:
        raise Refusal("leaves out steps, or has them in another order, and can't be served", place)
    before = [size for size in where.shape[:axis] if size > 1]
    return Result(_value(trace, columns, place), axis, bool(before))


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
    fibre = _with_numbers(trace, fibre, known)
    if any(graph.value(slot).ids for slot in elements.slots_in(fibre)):
        slot, row = int(elements.slot_of(fibre)[0, 0]), int(elements.row_of(fibre)[0, 0])
        if fibre.size > 1:
            raise Refusal("has several labels for a sequence; name them one by one", place)
        return end(graph, slot, row, place) if graph.value(slot).per_step else slot
    aligned = align(graph, fibre, place, np.zeros(1, np.int64))
    order = aligned.columns[aligned.groups].reshape(-1)
    slot = value_of(graph, order, place)
    return end(graph, slot, int(aligned.rows[0]), place) if graph.value(slot).per_step else slot


def _value(trace: Trace, columns: Elements, place: Place) -> int:
    if any(trace.graph.value(slot).ids for slot in elements.slots_in(columns)):
        if len(columns) > 1:
            raise Refusal("has several labels for a step; name them one by one", place)
        return int(elements.slot_of(columns)[0])
    return value_of(trace.graph, columns, place)


def _with_numbers(trace: Trace, fibres: Elements, known: Any) -> Elements:
    fibres = fibres.copy()
    for number in np.unique(known[fibres == CONSTANT]):
        fibres[(fibres == CONSTANT) & (known == number)] = elements.make(trace.graph.number(float(number)), 0, 0)
    return fibres


def plain(leaf: Any, axis: int | None, rows: int) -> Tensor:
    """What the module returned, in the form in which it is served: [rows, width] or [width]."""
    tensor = leaf.tensor if isinstance(leaf, _Listed) else leaf
    tensor = tensor.detach().cpu()
    if axis is None:
        return tensor.reshape(-1)
    return tensor.movedim(axis, 0).reshape(rows, -1)
