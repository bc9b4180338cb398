"""What each part of the example is: an input, a mask, lengths, or what stays as it is."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from enum import Enum
from itertools import product
from typing import Any

import numpy as np
import torch
from torch import Tensor

from .structure import Path, leaves

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
            taken = _longest(found, parts, batch, size) if given is None else (steps, sequence)
            yield Guess(size, *(taken or (size, 0)), tuple(parts))


def _sizes(
    found: list[tuple[Path, Any]], given: list[int] | None, sizes: Sequence[int]
) -> list[int]:
    axes = [n for _, leaf in found if isinstance(leaf, Tensor) for n in leaf.shape if n > 1]
    known = [] if given is None else [size for size in sorted(set(axes)) if size >= max(given)]
    if given is not None:
        return known
    likely = [size for size in sizes if size in axes]
    return list(dict.fromkeys([*likely, *sorted(axes, reverse=True)]))


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
    elif _counts_steps(path, leaf, size, batch):
        yield Part(path, Role.LENGTHS)
    else:
        yield Part(path, Role.FIXED)


def _counts_steps(path: Path, leaf: Any, size: int, batch: int) -> bool:
    """Whether a number, a list of them or an array has the lengths of sequences."""
    if type(leaf) is int:
        return leaf == size and "len" in "".join(path).lower()
    if isinstance(leaf, list | tuple | np.ndarray):
        return len(leaf) == batch and 0 < max(leaf) <= size
    return False


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
    if leaf.is_floating_point():
        return Role.MASK if _is_mask(path, leaf) else Role.FLOATS
    return Role.IDS


def _is_mask(path: Path, leaf: Tensor) -> bool:
    """Whether a tensor is named as a mask and has zeros and ones only."""
    words = "_".join(path).lower()
    is_named = "mask" in words or "pad" in words
    return is_named and bool(((leaf == 0) | (leaf == 1)).all())


def _batch_axis(leaf: Tensor, time: int, batch: int) -> int | None:
    if batch == 1:
        return None
    return next((axis for axis, n in enumerate(leaf.shape) if axis != time and n == batch), None)


def _longest(
    found: list[tuple[Path, Any]], parts: tuple[Part, ...], batch: int, size: int
) -> tuple[int, int] | None:
    """The most steps by lengths or a mask in the arguments, and which sequence has them."""
    for (_, leaf), part in zip(found, parts, strict=True):
        if part.role is Role.LENGTHS:
            return _most(torch.as_tensor(leaf).reshape(-1).tolist())
    for (path, leaf), part in zip(found, parts, strict=True):
        if part.time is not None and part.batch is not None and _is_mask(path, leaf):
            sequences = leaf.movedim((part.batch, part.time), (0, 1)).reshape(batch, size, -1)
            ones = sequences[..., 0].sum(dim=1).tolist()
            return _most([int(n) for n in ones]) if max(ones) else None
    return None


def _most(lengths: list[int]) -> tuple[int, int]:
    return max(lengths), lengths.index(max(lengths))
