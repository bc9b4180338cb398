"""`Found`: one module of a checkpoint, as its parameters' names and shapes tell it. Pure data."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Literal

from ..weights import some

Shape = tuple[int, ...]

Kind = Literal[
    "lstm",
    "linear",
    "matrix",  # a weight alone: an embedding's, or a linear layer's without bias
    "layer_norm",
    "batch_norm",
    "crf",
    "unserved",  # known, but no tensor tells how it computes, or no layer does it
    "unknown",
]


@dataclass(frozen=True)
class Found:
    """One module: what it is, the floats a row that it reads and gives, and its parameters."""

    name: str  # in the file, without a dot at its end; "" for the file's own
    kind: Kind
    shapes: Mapping[str, Shape]  # of its parameters, by their names in the file
    reads: int = 0
    gives: int = 0
    parameters: Mapping[str, str] = field(default_factory=dict)  # layer's name -> file's
    fields: Mapping[str, Any] = field(default_factory=dict)  # of its entry in config.json
    problem: str = ""  # why no layer can be made of it
    doubt: str = ""  # what no tensor tells of it, unless its owner names it in the chain
    is_recurrent: bool = False  # an LSTM, or a module whose parameters have such names

    @property
    def weight(self) -> str:
        """The name of its weight in the file, and its shape, for errors."""
        name = self.parameters.get("weight") or next(iter(self.shapes))
        return f"{name} is {list(self.shapes[name])}"

    @property
    def is_affine(self) -> bool:
        """Whether it multiplies with a matrix: an activation may stand behind it."""
        return self.kind in ("linear", "matrix")

    def __str__(self) -> str:
        if self.kind == "unknown" or not self.name:
            return some(self.shapes)
        return self.name
