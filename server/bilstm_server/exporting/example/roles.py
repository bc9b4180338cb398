"""What each part of the example is: an input, a mask, lengths, or what stays as it is."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from enum import Enum
from itertools import product
from typing import Any

import torch
from torch import Tensor

from .structure import Path, leaves, name_of

_MOST_GUESSES = 64


class Role(Enum):
    """What a leaf of the arguments is."""

    FLOATS = "floats"
    IDS = "ids"
    MASK = "mask"
    LENGTHS = "lengths"
    FIXED = "fixed"


@dataclass(frozen=True)
class Part:
    """One leaf of the arguments."""

    path: Path
    role: Role
    time: int | None = None  # its axis of steps
    batch: int | None = None  # its axis of sequences, where there are several

    @property
    def name(self) -> str:
        return name_of(self.path)


@dataclass(frozen=True)
class Guess:
    """How the example may have to be read."""

    size: int  # of the axis of steps
    steps: int  # of the sequence that is taken, its padding left out
    sequence: int  # which of the batch is taken
    parts: tuple[Part, ...]


def guesses(arguments: Any, lengths: Any, sizes: Sequence[int], batch: int) -> Iterator[Guess]:
    """Ways to read the example, the likelier first. `sizes` are those that the axis of steps may
    have, `batch` the number of sequences."""
    found = [(path, leaf) for path, leaf in leaves(arguments)]
    given = None if lengths is None else [int(n) for n in torch.as_tensor(lengths).reshape(-1)]
    count = 0
    for size in _sizes(found, given, sizes):
        steps, sequence = (max(given), given.index(max(given))) if given else (size, 0)
        choices = [list(_choices(path, leaf, size, batch)) for path, leaf in found]
        for parts in product(*choices):
            if not any(part.time is not None for part in parts):
                continue
            count += 1
            if count > _MOST_GUESSES:
                return
            taken = _longest(found, parts) if given is None else (steps, sequence)
            yield Guess(size, *(taken or (size, 0)), tuple(parts))


def _sizes(
    found: list[tuple[Path, Any]], given: list[int] | None, sizes: Sequence[int]
) -> list[int]:
    axes = [size for _, leaf in found if isinstance(leaf, Tensor) for size in leaf.shape]
    known = [] if given is None else [size for size in sorted(set(axes)) if size >= max(given)]
    if given is not None:
        return known
    likely = [size for size in sizes if size in axes]
    return list(dict.fromkeys([*likely, *sorted((s for s in axes if s > 1), reverse=True), *axes]))


def _choices(path: Path, leaf: Any, size: int, batch: int) -> Iterator[Part]:
    """What a leaf may be, for steps on an axis of this size."""
    if isinstance(leaf, Tensor):
        if _is_lengths(path, leaf, size, batch):
            yield Part(path, Role.LENGTHS)
            return
        axes = [axis for axis, n in enumerate(leaf.shape) if n == size]
        for time in sorted(
            axes, key=lambda axis: (leaf.dim() > 1 and axis == 0 and size == batch, axis)
        ):
            yield Part(path, _role(path, leaf), time, _batch_axis(leaf, time, batch))
        if not axes:
            yield Part(path, Role.FIXED)
    elif (type(leaf) is int and leaf == size and "len" in "".join(path).lower()) or (
        isinstance(leaf, list | tuple) and len(leaf) == batch and max(leaf) <= size
    ):
        yield Part(path, Role.LENGTHS)
    else:
        yield Part(path, Role.FIXED)


def _is_lengths(path: Path, leaf: Tensor, size: int, batch: int) -> bool:
    if (
        leaf.is_floating_point()
        or leaf.dtype == torch.bool
        or leaf.dim() > 2
        or leaf.numel() != batch
    ):
        return False
    if not bool(((leaf >= 1) & (leaf <= size)).all()):
        return False
    return "len" in path[-1].lower() or int(leaf.max()) == size


def _role(path: Path, leaf: Tensor) -> Role:
    uniform = leaf.numel() > 0 and bool((leaf == leaf.reshape(-1)[0]).all())
    words = "_".join(path).lower()
    if leaf.is_floating_point():
        return Role.MASK if uniform and ("mask" in words or "pad" in words) else Role.FLOATS
    return Role.IDS


def _batch_axis(leaf: Tensor, time: int, batch: int) -> int | None:
    if batch == 1:
        return None
    return next((axis for axis, n in enumerate(leaf.shape) if axis != time and n == batch), None)


def _longest(found: list[tuple[Path, Any]], parts: tuple[Part, ...]) -> tuple[int, int] | None:
    """The most steps among lengths in the arguments, and which sequence has them."""
    for (_, leaf), part in zip(found, parts, strict=True):
        if part.role is Role.LENGTHS:
            numbers = torch.as_tensor(leaf).reshape(-1).tolist()
            return max(numbers), numbers.index(max(numbers))
    return None
