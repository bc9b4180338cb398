"""Sees calls of a CRF's methods that give the best path, and makes one layer of each."""

from __future__ import annotations

import types
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import replace
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.utils._pytree import tree_leaves, tree_map

from ..columns import value_of
from ..elements import Elements
from ..refusals import Refusal
from ..rows import raise_refusal
from ..splicing import steps_of
from ..trace import Trace
from .paths import path_in, with_symbols
from .scores import Scores, has_scores, scores_of, tensors_of

_TRIALS = 8  # emissions drawn at random, by which the meanings of parameters are told apart


@contextmanager
def decoding(module: nn.Module, trace: Trace) -> Iterator[None]:
    """Within, methods that decode are layers of the recording."""
    owners = [part for part in module.modules() if has_scores(part)]
    replaced: list[tuple[Any, str]] = []
    beside = _beside(module) if owners else []
    try:
        for decoder, its in [
            *((owner, [owner]) for owner in owners),
            *((o, owners) for o in beside),
        ]:
            for name, method in _methods(decoder):
                decoder.__dict__[name] = _Decoding(trace, its, method)
                replaced.append((decoder, name))
        yield
    finally:
        for owner, name in replaced:
            del owner.__dict__[name]


def _beside(module: nn.Module) -> list[Any]:
    """Objects of the owner's that modules hold, and that are no modules: decoders, perhaps."""
    held = [value for part in module.modules() for value in vars(part).values()]
    own = {
        id(o): o for o in held if not isinstance(o, nn.Module | Tensor) and hasattr(o, "__dict__")
    }
    return [
        o for o in own.values() if not isinstance(o, type | types.FunctionType | types.ModuleType)
    ]


def _methods(owner: Any) -> Iterator[tuple[str, Callable[..., Any]]]:
    """The methods that are the owner's own code."""
    for name in dir(type(owner)):
        method = getattr(type(owner), name, None)
        is_own = isinstance(method, types.FunctionType) and name not in owner.__dict__
        if is_own and getattr(nn.Module, name, None) is not method and not name.startswith("__"):
            yield name, getattr(owner, name)


class _Decoding:
    """A method, of which a call becomes a layer if it gives the best path."""

    def __init__(self, trace: Trace, owners: Sequence[nn.Module], method: Callable[..., Any]):
        self._trace = trace
        self._owners = owners
        self._method = method

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        trace = self._trace
        emissions = None if trace.is_paused else self._emissions((args, kwargs))
        if emissions is None:
            return self._method(*args, **kwargs)
        with trace.paused(), torch.no_grad():
            result = self._method(*args, **kwargs)
            found = self._understood(emissions, args, kwargs, result)
            if found is not None:
                return with_symbols(trace, result, *found)
        return self._method(*args, **kwargs)

    def _scores(self, tags: int) -> Iterator[Scores]:
        """What the owners' parameters may mean for so many tags."""
        for owner in self._owners:
            yield from scores_of(owner, tags)

    def _emissions(self, arguments: Any) -> Tensor | None:
        """The only argument that can be emissions: floats [steps, tags], perhaps in a batch."""
        found = [
            leaf
            for leaf in tree_leaves(arguments)
            if isinstance(leaf, Tensor)
            and leaf.is_floating_point()
            and leaf.dim() in (2, 3)
            and self._trace.depends(leaf)
            and any(True for _ in self._scores(leaf.shape[-1]))
        ]
        return found[0] if len(found) == 1 else None

    def _understood(
        self, emissions: Tensor, args: Any, kwargs: Any, result: Any
    ) -> tuple[list[int], float, int, int] | None:
        """The path and its score, and the values of the layer; None if it is no best path."""
        trace = self._trace
        where = trace.elements(emissions)
        found = _steps_of(trace, where, emissions)
        if found is None:
            return None
        axis, columns = found
        tags = emissions.shape[-1]
        path = path_in(result, emissions.shape[axis], tags)
        if path is None:
            return None
        tried = [(_matrix(emissions, axis), path)]
        for trial in range(_TRIALS):
            drawn = self._drawn(emissions, trial)
            its = self._path(
                _replaced((args, kwargs), emissions, drawn), emissions.shape[axis], tags
            )
            if its is None:
                return None
            tried.append((_matrix(drawn, axis), its))
        scores = next((s for s in self._scores(tags) if _explains(s, tried)), None)
        if scores is None:
            return None
        place = trace.places.here()
        source = value_of(trace.graph, columns, place)
        value = trace.graph.value(source)
        gives = {"": replace(value, width=1, ids=tags), "score": value.per_sequence(1)}
        tensors = tensors_of(scores)
        said = {"start": scores.start is not None, "end": scores.end is not None}
        fields = {name: False for name, is_there in said.items() if not is_there}
        node = trace.graph.add("crf", [source], gives, place, tensors, **fields)
        return *scores.best_path(tried[0][0]), node.slot, node.gives["score"]

    def _path(self, arguments: Any, steps: int, tags: int) -> list[int] | None:
        """The path that the method gives for other arguments; None if it gives none."""
        args, kwargs = arguments
        try:
            return path_in(self._method(*args, **kwargs), steps, tags)
        except Exception:  # of the owner's code, which may not take such emissions
            return None

    def _drawn(self, emissions: Tensor, trial: int) -> Tensor:
        """Emissions that are as large as the scores of transitions that are allowed."""
        sizes = [
            np.abs(s.transitions[s.transitions > -1000]) for s in self._scores(emissions.shape[-1])
        ]
        size = float(np.mean(np.concatenate(sizes))) if sizes else 1.0
        generator = torch.Generator().manual_seed(trial)
        drawn = (
            torch.randn(emissions.shape, generator=generator) * size * (0.5, 1.0, 2.0)[trial % 3]
        )
        return drawn.to(emissions)


def _steps_of(trace: Trace, where: Elements, emissions: Tensor) -> tuple[int, Elements] | None:
    """The axis of steps of emissions, and their columns."""
    axes = [axis for axis in range(where.ndim - 1) if where.shape[axis] > 1]
    if len(axes) != 1:
        return None
    steps = np.moveaxis(where, axes[0], 0).reshape(where.shape[axes[0]], -1)
    try:
        raise_refusal(trace.graph, steps)
    except Refusal:
        return None
    found = steps_of(trace.graph, steps, _matrix(emissions, axes[0]), trace.places.here())
    return None if found is None or found.is_reversed else (axes[0], found.columns)


def _matrix(emissions: Tensor, axis: int) -> Any:
    return (
        emissions.detach()
        .cpu()
        .double()
        .movedim(axis, 0)
        .reshape(emissions.shape[axis], -1)
        .numpy()
    )


def _replaced(arguments: Any, emissions: Tensor, drawn: Tensor) -> Any:
    return tree_map(lambda leaf: drawn if leaf is emissions else leaf, arguments)


def _explains(scores: Scores, tried: list[tuple[Any, list[int]]]) -> bool:
    return all(scores.best_path(emissions)[0] == path for emissions, path in tried)
