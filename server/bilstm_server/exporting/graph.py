"""The graph of one recording: values, and the layers that give them. Knows no torch operation."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np
import torch
from torch import Tensor

from ..model.layers.values import Value, Window
from .refusals import Place, Refusal


@dataclass(eq=False)
class Node:
    """A layer: an entry of `config.json` that has no name yet, and its tensors."""

    type: str
    inputs: tuple[int, ...]  # values
    gives: dict[str, int]  # values by the name of the part, "" for the layer's own
    fields: dict[str, Any] = field(default_factory=dict)
    tensors: dict[str, Tensor] = field(default_factory=dict)
    place: Place = field(default_factory=Place)

    @property
    def slot(self) -> int:
        """The layer's own value."""
        return self.gives[""]


@dataclass(frozen=True)
class Slot:
    """One value: an input, what a layer gives, a number, or what could not be computed."""

    value: Value
    node: Node | None = None
    input: str = ""
    number: float | None = None
    refusal: Refusal | None = None


class Graph:
    """Values, numbered in the order in which they were made, for a sequence of so many steps."""

    def __init__(self, steps: int):
        self.steps = steps
        self.slots: list[Slot] = []
        self._numbers: dict[float, int] = {}
        self._nodes: dict[tuple[object, ...], Node] = {}
        self._digests: dict[int, tuple[object, ...]] = {}  # of tensors that are kept

    def input(self, name: str, value: Value) -> int:
        """An input of the model."""
        return self._append(Slot(value, input=name))

    def number(self, number: float) -> int:
        """The same number for each sequence: what stands beside columns that are computed."""
        key = float(number)
        if key not in self._numbers:
            self._numbers[key] = self._append(Slot(Value(1, per_step=False), number=key))
        return self._numbers[key]

    def refuse(self, refusal: Refusal) -> int:
        """What could not be computed; an error only if an output needs it."""
        return self._append(Slot(Value(1, per_step=False), refusal=refusal))

    def add(
        self,
        kind: str,
        inputs: Sequence[int],
        gives: Value | Mapping[str, Value],
        place: Place,
        tensors: Mapping[str, Tensor] | None = None,
        **fields: Any,
    ) -> Node:
        """A layer; the one that is there if an equal one is."""
        tensors = tensors or {}
        digests = tuple((name, self._digest(tensor)) for name, tensor in sorted(tensors.items()))
        key = (kind, tuple(inputs), json.dumps(fields, sort_keys=True), digests)
        if key not in self._nodes:
            kept = {name: self._keep(tensor) for name, tensor in tensors.items()}
            node = Node(kind, tuple(inputs), {}, fields, kept, place)
            values = {"": gives} if isinstance(gives, Value) else gives
            for part, value in values.items():
                node.gives[part] = self._append(Slot(value, node=node))
            self._nodes[key] = node
        return self._nodes[key]

    def value(self, slot: int) -> Value:
        """The form of a value."""
        return self.slots[slot].value

    def rows(self, slot: int) -> int:
        """How many rows a value has in this recording."""
        value = self.value(slot)
        return int(value.grid.rows(np.array([self.steps]))[0]) if value.per_step else 1

    def like(self, *inputs: int, width: int) -> Value:
        """The form of what a row layer gives for such inputs."""
        first = next((slot for slot in inputs if self.value(slot).per_step), inputs[0])
        return self.value(first).of_width(width)

    def window(self, slot: int, window: Window, width: int) -> Value:
        """The form of what a window layer gives for such an input."""
        value = self.value(slot)
        return replace(value.of_width(width), grid=value.grid.through(window))

    def _keep(self, tensor: Tensor) -> Tensor:
        """The tensor as it is now, whatever becomes of the owner's."""
        if id(tensor) in self._digests:
            return tensor
        kept = _plain(tensor).clone()
        self._digests[id(kept)] = self._digest(kept)
        return kept

    def _digest(self, tensor: Tensor) -> tuple[object, ...]:
        if id(tensor) in self._digests:
            return self._digests[id(tensor)]
        array = _plain(tensor).numpy()
        return array.shape, array.dtype.str, hashlib.blake2b(array.data).hexdigest()

    def _append(self, slot: Slot) -> int:
        self.slots.append(slot)
        return len(self.slots) - 1


def _plain(tensor: Tensor) -> Tensor:
    """The tensor in float32, if it is of floats, on the CPU, and contiguous."""
    tensor = tensor.detach().to("cpu")
    tensor = tensor.to(torch.float32) if tensor.is_floating_point() else tensor
    return tensor.contiguous()
