"""One node of an ONNX graph."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from ..drafts import Array, Draft
from .axes import Rows

Tensor = Array | Rows  # numbers of the file, or a value of the graph


@dataclass(frozen=True, slots=True)
class Node:
    """What a node is and reads. Its methods raise `ValueError` for what can't be served."""

    name: str
    kind: str
    attributes: Mapping[str, Any]
    inputs: Sequence[Tensor | None]
    outputs: int
    opset: int
    draft: Draft
    most_numbers: int  # that it may make of numbers of the file

    def rows(self, place: int = 0) -> Rows:
        """An input that is a value of the graph."""
        tensor = self.inputs[place] if place < len(self.inputs) else None
        if not isinstance(tensor, Rows):
            raise ValueError(f"input {place} is no value that comes from the model's inputs")
        return tensor

    def optional(self, place: int) -> Array | None:
        """An input of numbers that the file has, if it is there."""
        tensor = self.inputs[place] if place < len(self.inputs) else None
        if isinstance(tensor, Rows):
            raise ValueError(f"input {place} depends on the model's inputs, which is not served")
        return tensor

    def numbers(self, place: int) -> Array:
        """An input of numbers that the file has."""
        array = self.optional(place)
        if array is None:
            raise ValueError(f"input {place} is missing")
        return array

    def attribute(self, name: str, default: Any) -> Any:
        return self.attributes.get(name, default)

    def bound(self, numbers: float) -> None:
        """Refuse to make so many numbers, before they are made."""
        if numbers > self.most_numbers:
            raise ValueError(
                f"makes {numbers:,.0f} numbers, expected at most {self.most_numbers:,}"
            )

    def number(self, name: str, default: float) -> float:
        """An attribute of float32, as people write it."""
        return float(str(np.float32(self.attribute(name, default))))

    def axes(self, place: int) -> list[int] | None:
        """The axes that it names: an attribute in older files, an input in newer ones."""
        array = self.optional(place)
        if array is not None:
            return [int(axis) for axis in np.atleast_1d(array).tolist()]
        return self.attributes.get("axes")

    def add(
        self,
        type: str,
        reads: str | Sequence[str],
        tensors: Mapping[str, Array] | None = None,
        **fields: Any,
    ) -> str:
        """Add a layer under the name of this node."""
        return self.draft.add(type, reads, self.name, tensors, **fields)
