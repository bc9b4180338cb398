"""What the axes of an ONNX tensor are in a model without padding: sequences, steps and columns.

A tensor stands for a value of the graph: its columns are the row of the value, row-major, and an
axis of sequences or steps may stand anywhere between them. Pure data; knows no layer.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from math import prod

SEQUENCES, STEPS = "sequences", "steps"


class Misread(ValueError):
    """The axes of the model's inputs are not what they were taken for."""


@dataclass(frozen=True, slots=True)
class Dim:
    """A size that is known only when sequences come: how many there are, or their steps, or rows of
    both."""

    of: tuple[str, ...]

    def __mul__(self, other: object) -> Dim:
        if isinstance(other, Dim):
            return Dim(self.of + other.of)
        if other == 1:
            return self
        raise ValueError("computes with the number of sequences or steps, which is not served")

    __rmul__ = __mul__


@dataclass(frozen=True, slots=True)
class Axis:
    """An axis of columns, or of what `rows` names."""

    sizes: tuple[int | None, ...]  # of columns; for each of `rows`, what the file fixes it to
    rows: tuple[str, ...] = ()  # SEQUENCES, STEPS, or both where they are flattened into one

    @property
    def size(self) -> int | None:
        """The size as a number, if the file has one."""
        return None if None in self.sizes else prod(size or 0 for size in self.sizes)

    @property
    def dim(self) -> int | Dim:
        """The size, as the file's own arithmetic has it."""
        return Dim(self.rows) if self.rows else self.sizes[0] or 0

    def fits(self, size: int | Dim) -> bool:
        """Whether `Reshape` may mean the axis by a size."""
        return size in (self.dim, self.size, -1)

    def split(self) -> tuple[Axis, ...]:
        """The axes that were flattened into this one."""
        pairs = zip(self.sizes, self.rows, strict=True)
        return tuple(Axis((size,), (rows,)) for size, rows in pairs)


@dataclass(frozen=True, slots=True)
class Rows:
    """A tensor whose numbers are a value's of the graph."""

    value: str
    axes: tuple[Axis, ...]

    def __post_init__(self) -> None:
        rows = [name for axis in self.axes for name in axis.rows]
        if len(set(rows)) < len(rows):
            raise ValueError("pairs steps with steps, or sequences with each other: not served")

    def place(self, axis: int) -> int:
        """An axis counted from the first one. Raises `ValueError` where there is none."""
        if not -len(self.axes) <= axis < len(self.axes):
            raise ValueError(f"has no axis {axis} in {len(self.axes)} axes")
        return axis % len(self.axes)

    @property
    def columns(self) -> list[int]:
        """The sizes of its axes of columns, in order."""
        return [axis.size or 0 for axis in self.axes if not axis.rows]

    def padded(self, rank: int) -> tuple[Axis, ...]:
        """The axes with others of size 1 before them, so many in all."""
        return (*columns(*[1] * (rank - len(self.axes))), *self.axes)

    def with_axes(self, axes: Sequence[Axis], value: str | None = None) -> Rows:
        """The same value, or another one, with other axes."""
        return Rows(value or self.value, tuple(axes))


def columns(*sizes: int) -> tuple[Axis, ...]:
    """Axes of so many columns each."""
    return tuple(Axis((size,)) for size in sizes)


def reshape(axes: Sequence[Axis], sizes: Sequence[int | Dim]) -> tuple[Axis, ...]:
    """The axes after `Reshape`. Rows stay what they are, or are flattened into one axis and back;
    columns are cut anew. Raises `ValueError` where rows and columns would mix.
    """
    if len(axes) > 16 or len(sizes) > 16:
        raise ValueError("has more than 16 axes")
    wanted = [axes[i].dim if size == 0 and i < len(axes) else size for i, size in enumerate(sizes)]
    found = _cut(tuple(axes), tuple(wanted))
    if found is None:  # a single sequence is no axis that could mix with others
        found = _cut(tuple(map(_without_sequence, axes)), tuple(wanted))
    if found is None:
        raise ValueError("reshapes sequences or steps into columns, which is not served")
    return found


def _without_sequence(axis: Axis) -> Axis:
    return Axis((1,)) if axis.rows == (SEQUENCES,) and axis.size == 1 else axis


def _cut(axes: tuple[Axis, ...], sizes: tuple[int | Dim, ...]) -> tuple[Axis, ...] | None:
    """Cut axes into these sizes, from the first on; None if there is no way."""
    if not axes and not sizes:
        return ()
    for own, used in _rows_cut(axes, sizes):
        if (rest := _cut(axes[used:], sizes[len(own) :])) is not None:
            return (*own, *rest)
    run = next((i for i, axis in enumerate(axes) if axis.rows), len(axes))
    for taken in range(run, -1, -1):
        total = prod(axis.size or 0 for axis in axes[:taken])
        for given in range(0 if taken else 1, len(sizes) + 1):
            cut = _columns_cut(total, sizes[:given])
            if cut is None:
                continue
            if (rest := _cut(axes[taken:], sizes[given:])) is not None:
                return (*cut, *rest)
    return None


def _rows_cut(
    axes: tuple[Axis, ...], sizes: tuple[int | Dim, ...]
) -> Iterator[tuple[tuple[Axis, ...], int]]:
    """Ways to make the first axes of rows anew: the new ones, and how many they are made of."""
    if not axes or not axes[0].rows or not sizes:
        return
    first = axes[0]
    if first.fits(sizes[0]):
        yield (first,), 1
    if len(axes) > 1 and axes[1].rows:
        flat = Axis(first.sizes + axes[1].sizes, first.rows + axes[1].rows)
        if flat.fits(sizes[0]):
            yield (flat,), 2
    apart = first.split()
    if len(apart) > 1 and all(map(Axis.fits, apart, sizes)) and len(sizes) >= len(apart):
        yield apart, 1


def _columns_cut(total: int, sizes: tuple[int | Dim, ...]) -> tuple[Axis, ...] | None:
    if any(isinstance(size, Dim) or size == 0 for size in sizes):
        return None
    known = [size for size in sizes if isinstance(size, int)]
    if known.count(-1) > 1:
        return None
    rest = prod(size for size in known if size != -1)
    if -1 in known and total % rest == 0:
        return columns(*(total // rest if size == -1 else size for size in known))
    return columns(*known) if rest == total and -1 not in known else None
