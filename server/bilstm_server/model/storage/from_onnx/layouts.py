"""Nodes that move axes, cut columns or take a step. For most of them no layer is needed."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from math import prod

import numpy as np

from ..drafts import Array
from .axes import SEQUENCES, STEPS, Axis, Dim, Rows, columns, reshape
from .constants import sizes, slices, split_sizes
from .nodes import Node, Tensor
from .packing import invert, is_order, sort


def identity(node: Node) -> Rows:
    return node.rows()


def dropout(node: Node) -> Rows:
    training = node.optional(2)
    if training is not None and training.any():
        raise ValueError("drops numbers in inference too, which is not served")
    return node.rows()


def cast(node: Node) -> Rows:
    """To another type of floats; ids stay ids."""
    x = node.rows()
    value = node.draft.values.get(x.value)
    if value is not None and not value.ids and node.attribute("to", 1) not in _FLOATS:
        raise ValueError("makes whole numbers or truth values of floats, which is not served")
    return x


def shape(node: Node) -> Array:
    """`Shape`: numbers of the file, and what comes with the sequences."""
    axes = node.rows().axes[node.attribute("start", 0) : node.attribute("end", None)]
    return np.array([axis.dim for axis in axes], object)


def transpose(node: Node) -> Rows:
    x = node.rows()
    order = node.attribute("perm", list(reversed(range(len(x.axes)))))
    return move(node, x, [x.place(axis) for axis in order])


def move(node: Node, x: Rows, order: Sequence[int]) -> Rows:
    """The axes in another order. Where that is an order of columns, a layer moves them."""
    own = [axis for axis, kept in enumerate(x.axes) if not kept.rows and kept.size != 1]
    wanted = [axis for axis in order if axis in own]
    value = x.value
    if wanted != own:
        shape = [x.axes[axis].size for axis in own]
        value = node.add("permute", value, shape=shape, order=[own.index(axis) for axis in wanted])
    return Rows(value, tuple(x.axes[axis] for axis in order))


def reshaped(node: Node) -> Rows:
    x = node.rows()
    if node.kind == "Flatten":
        axis = node.attribute("axis", 1)
        if axis != 1 or x.axes[0].rows != (SEQUENCES,):
            raise ValueError("flattens sequences or steps, which is not served")
        return x.with_axes(reshape(x.axes, [0, -1]))
    return x.with_axes(reshape(x.axes, sizes(node.numbers(1))))


def unsqueeze(node: Node) -> Rows:
    x, wanted = node.rows(), node.axes(1) or []
    rank = len(x.axes) + len(wanted)
    places = {axis % rank for axis in wanted}
    own = iter(x.axes)
    return x.with_axes([Axis((1,)) if i in places else next(own) for i in range(rank)])


def squeeze(node: Node) -> Rows:
    x = node.rows()
    wanted = node.axes(1)
    if wanted is None:
        raise ValueError("squeezes all axes of size 1, and must name them")
    places = {x.place(axis) for axis in wanted}
    if any(x.axes[place].size != 1 or STEPS in x.axes[place].rows for place in places):
        raise ValueError("squeezes an axis of steps, or one whose size is not 1")
    return x.with_axes([axis for i, axis in enumerate(x.axes) if i not in places])


def expand(node: Node) -> Rows:
    """To the sizes that it has already, or to one row for each step: layers repeat a sequence's row
    where they read it beside steps.
    """
    x, wanted = node.rows(), sizes(node.numbers(1))
    axes: list[Axis] = []
    for place, axis in enumerate(reversed(x.padded(len(wanted)))):
        size = wanted[-1 - place] if place < len(wanted) else 1
        if axis.size == 1 and size == Dim((STEPS,)):
            axis = Axis((None,), (STEPS,))
        elif size not in (1, axis.dim, axis.size):
            raise ValueError("repeats columns or sequences, which is not served")
        axes.append(axis)
    return x.with_axes(axes[::-1])


def concat(node: Node) -> Rows:
    """Columns side by side; rows of a sequence are joined to each step."""
    parts = [node.rows(place) for place in range(len(node.inputs))]
    place = parts[0].place(node.attribute("axis", 0))
    if any(len(part.axes) != len(parts[0].axes) for part in parts):
        raise ValueError("joins values of different numbers of axes")
    if any(part.axes[place].rows for part in parts):
        raise ValueError("joins steps or sequences one after the other, which is not served")
    order = [place, *(axis for axis in range(len(parts[0].axes)) if axis != place)]
    joined = [move(node, part, order) for part in parts]
    value = node.add("concat", [part.value for part in joined])
    total = Axis((sum(part.axes[place].size or 0 for part in parts),))
    others = [
        next((part.axes[axis] for part in parts if part.axes[axis].rows), parts[0].axes[axis])
        for axis in order[1:]
    ]
    back = np.argsort(order).tolist()
    return move(node, Rows(value, (total, *others)), back)


def split(node: Node) -> list[Rows]:
    x = node.rows()
    place = x.place(node.attribute("axis", 0))
    ends = np.cumsum(split_sizes(node, x.axes[place].size or 0)).tolist()
    return [cut(node, x, place, start, stop) for start, stop in zip([0, *ends], ends, strict=False)]


def sliced(node: Node) -> Rows:
    x = node.rows()
    for place, part in slices(node, len(x.axes)):
        axis = x.axes[place]
        if part.start == 0 and part.step == 1 and part.stop in (None, axis.size):
            continue
        if axis.rows == (STEPS,) and part in (slice(-1, None, 1), slice(0, 1, 1)):
            x = take_step(node, x, place, -1 if part.start else 0, keeps=True)
        elif axis.rows == (STEPS,) and part == slice(-1, None, -1):
            x = x.with_axes(x.axes, node.add("reverse_steps", x.value))
        elif axis.rows or part.step != 1:  # steps other than one end, or columns with gaps
            raise ValueError("takes some of the steps or sequences, which is not served")
        else:
            start, stop, _ = part.indices(axis.size or 0)
            x = cut(node, x, place, start, stop)
    return x


def gather(node: Node) -> Tensor:
    """Rows of a table by ids, a step, or columns."""
    if isinstance(node.inputs[0], np.ndarray):
        return _embed(node)
    x = node.rows()
    place = x.place(node.attribute("axis", 0))
    axis = x.axes[place]
    if axis.rows == (SEQUENCES,) and is_order(node, node.inputs[1]):
        return x
    index = node.numbers(1)
    if index.size != 1:
        raise ValueError("gathers several columns, steps or sequences, which is not served")
    at, keeps = int(index.item()), index.ndim > 0
    if axis.rows == (STEPS,) and at in (0, -1, (axis.size or 0) - 1):
        return take_step(node, x, place, at, keeps=keeps)
    if axis.rows == (SEQUENCES,) and axis.size == 1 and at in (0, -1):
        kept = columns(1) if keeps else ()
        return x.with_axes([*x.axes[:place], *kept, *x.axes[place + 1 :]])
    if axis.rows:
        raise ValueError("takes another step than the first or last one, which is not served")
    at %= axis.size or 1
    x = cut(node, x, place, at, at + 1)
    return x if keeps else x.with_axes([*x.axes[:place], *x.axes[place + 1 :]])


def take_step(node: Node, x: Rows, place: int, at: int, *, keeps: bool) -> Rows:
    value = node.add("last" if at else "first", x.value)
    kept = columns(1) if keeps else ()
    return Rows(value, (*x.axes[:place], *kept, *x.axes[place + 1 :]))


def cut(node: Node, x: Rows, place: int, start: int, stop: int) -> Rows:
    """The columns from `start` to before `stop` of one axis."""
    front = [place, *(axis for axis in range(len(x.axes)) if axis != place)]
    first = move(node, x, front)
    width = prod(first.columns[1:])
    value = node.add("columns", first.value, start=start * width, stop=stop * width)
    part = Rows(value, (*columns(stop - start), *first.axes[1:]))
    return move(node, part, np.argsort(front).tolist())


def _embed(node: Node) -> Rows:
    table, ids = node.numbers(0), node.rows(1)
    if table.ndim != 2 or node.attribute("axis", 0) != 0:
        raise ValueError("reads no table of ids [ids, width]")
    node.draft.set_ids(ids.value, len(table))
    value = node.add("embedding", ids.value, {"weight": table}, width=table.shape[1])
    return Rows(value, (*ids.axes, *columns(table.shape[1])))


_FLOATS = (1, 10, 11, 16)  # of TensorProto.DataType
LAYOUTS: Mapping[str, Callable[[Node], Tensor | list[Rows]]] = {
    "Cast": cast,
    "Concat": concat,
    "Dropout": dropout,
    "Expand": expand,
    "Flatten": reshaped,
    "Gather": gather,
    "Identity": identity,
    "Reshape": reshaped,
    "ScatterElements": invert,
    "Shape": shape,
    "Slice": sliced,
    "Split": split,
    "Squeeze": squeeze,
    "TopK": sort,
    "Transpose": transpose,
    "Unsqueeze": unsqueeze,
}
