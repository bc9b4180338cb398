"""The best path in what a method returns: as lists of tags, or tensors of them."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
from torch import Tensor

from .. import elements
from ..refusals import Refusal
from ..symbols import symbol_of
from ..trace import Trace


def path_in(result: Any, steps: int, tags: int) -> list[int] | None:
    """The first path of so many steps, or None."""
    path = _as_path(result, steps, tags)
    if path is not None:
        return path
    if isinstance(result, dict):
        result = list(result.values())
    if isinstance(result, list | tuple):
        for part in result:
            path = path_in(part, steps, tags)
            if path is not None:
                return path
    return None


def _as_path(value: Any, steps: int, tags: int) -> list[int] | None:
    if isinstance(value, Tensor):
        is_path = not value.is_floating_point() and value.numel() == steps
        numbers = value.reshape(-1).tolist() if is_path else []
    elif isinstance(value, list | tuple) and len(value) == steps:
        numbers = [_integer(part) for part in value]
    else:
        return None
    is_path = len(numbers) == steps and all(n is not None and 0 <= n < tags for n in numbers)
    return [int(n) for n in numbers if n is not None] if is_path else None


def _integer(value: Any) -> int | None:
    if isinstance(value, Tensor) and value.numel() == 1 and not value.is_floating_point():
        return int(value)
    return (
        int(value) if isinstance(value, int | np.integer) and not isinstance(value, bool) else None
    )


def with_symbols(
    trace: Trace, result: Any, path: list[int], score: float, tags: int, scores: int
) -> Any:
    """The result, in which tags and score remember the values that they come from."""
    if isinstance(result, Tensor):
        _mark(trace, result, path, score, tags, scores)
        return result
    if isinstance(result, float) and not isinstance(result, bool):
        if not math.isclose(result, score, rel_tol=1e-4, abs_tol=1e-4):
            return result
        return symbol_of(result, int(elements.make(scores, 0, 0)), trace)
    if isinstance(result, dict):
        return {
            k: with_symbols(trace, part, path, score, tags, scores) for k, part in result.items()
        }
    if not isinstance(result, list | tuple):
        return result
    if [_integer(part) for part in result] == path:
        return type(result)(_symbol(trace, part, tags, row) for row, part in enumerate(result))
    parts = [with_symbols(trace, part, path, score, tags, scores) for part in result]
    return type(result)(*parts) if hasattr(result, "_fields") else type(result)(parts)


def _symbol(trace: Trace, tag: Any, slot: int, row: int) -> Any:
    where = elements.make(slot, row, 0)
    if isinstance(tag, Tensor):
        trace.origins.write(tag, where)
        return tag
    return symbol_of(int(tag), int(where), trace)


def _mark(
    trace: Trace, tensor: Tensor, path: list[int], score: float, tags: int, scores: int
) -> None:
    shape = tuple(tensor.shape)
    if not tensor.is_floating_point() and tensor.reshape(-1).tolist() == path:
        trace.origins.write(tensor, elements.make(tags, np.arange(len(path)).reshape(shape), 0))
    elif (
        tensor.is_floating_point()
        and tensor.numel() == 1
        and math.isclose(float(tensor), score, rel_tol=1e-4, abs_tol=1e-4)
    ):
        trace.origins.write(tensor, elements.make(scores, 0, 0))
    elif tensor.is_floating_point():
        refusal = Refusal(
            "the decoder gives a number that is not the best path's score", trace.places.here()
        )
        trace.origins.write(tensor, trace.refuse(refusal, shape))
