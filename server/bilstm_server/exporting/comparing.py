"""Recordings of several lengths, held against each other: what differs is no graph."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from .example.structure import Path
from .recording import Recording
from .refusals import BY_NUMPY, ExportError, Place, Refusal

_RECURRENCE = (
    "is called once for each step: a recurrence written in Python has no layer. Put its weights "
    "into an nn.LSTM if it is one, or serve the part of the model before it"
)


@dataclass(frozen=True)
class Graphed:
    """A recording as entries of a config, with the places where the layers were called."""

    layers: list[dict[str, Any]]
    places: list[Place]
    tensors: dict[str, Tensor]
    outputs: dict[Path, str]
    slots: dict[Path, int]


def check_recorded(recordings: Sequence[Recording]) -> None:
    """Raise for what can't be served, in words for the owner."""
    first = recordings[0]
    for path, result in first.results.items():
        if isinstance(result, Refusal):
            raise _explained(path, result, recordings, len(first.results))
    if first.trace.decisions:
        raise first.trace.decisions[0]
    if not first.results and first.trace.arrays:
        raise Refusal(BY_NUMPY, first.trace.arrays[0])
    if not first.results:
        raise ExportError(
            "the module returns no tensor that depends on its inputs; say what to serve: outputs="
        )
    if not any(slot.node and slot.node.type == "lstm" for slot in first.trace.graph.slots):
        raise ExportError("the module runs no LSTM, and what is served here has one at least")
    for other in recordings[1:]:
        if list(other.results) != list(first.results):
            raise ExportError("what the module returns depends on the number of steps")
        for path, result in other.results.items():
            if isinstance(result, Refusal):
                raise _explained(path, result, recordings, len(first.results))


def _explained(
    path: Path, refusal: Refusal, recordings: Sequence[Recording], count: int
) -> ExportError:
    place = refusal.place
    if place is not None and place.line:
        key = (place.file, place.line)
        calls = [recording.trace.lines.get(key, 0) for recording in recordings]
        steps = [recording.trace.graph.steps for recording in recordings]
        if calls[1] - calls[0] >= (steps[1] - steps[0]) // 2 > 0 and calls[0] >= steps[0] // 2:
            refusal = Refusal(_RECURRENCE, place)
    name = ".".join(path)
    if count == 1 or not name:
        return refusal
    return ExportError(f"output {name}: {refusal}; or leave it out, with None in outputs=")


def check_equal(graphs: Sequence[Graphed], steps: Sequence[int]) -> None:
    """Raise unless all recordings gave the same layers with the same numbers."""
    first = graphs[0]
    for count, other in zip(steps[1:], graphs[1:], strict=True):
        for index, (layer, its) in enumerate(zip(first.layers, other.layers, strict=False)):
            if layer != its or not _same_tensors(layer["name"], first, other):
                raise Refusal(
                    f"computes otherwise for {steps[0]} steps than for {count}: a number or the "
                    "order of operations depends on the length, or on what a sequence has",
                    first.places[index],
                )
        if len(first.layers) != len(other.layers) or first.outputs != other.outputs:
            raise ExportError(
                f"the module computes otherwise for {steps[0]} steps than for {count}"
            )


def _same_tensors(name: str, first: Graphed, other: Graphed) -> bool:
    mine, its = (
        {key: tensor for key, tensor in graph.tensors.items() if key.startswith(f"{name}.")}
        for graph in (first, other)
    )
    return mine.keys() == its.keys() and all(
        torch.equal(mine[key], its[key])
        or torch.allclose(mine[key], its[key], rtol=1e-6, atol=0, equal_nan=True)
        for key in mine
    )
