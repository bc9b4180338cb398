"""What goes into a batch and what comes out of it, one sequence at a time. Plain arrays."""

from __future__ import annotations

from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray

from ..model.config import Output

Array = NDArray[np.generic]


@dataclass(frozen=True, slots=True, eq=False)
class SequenceInput:
    """One validated sequence; `steps` may lie read-only over the request's own bytes."""

    steps: Array  # [T, D] floats, or [T] token ids
    outputs: frozenset[Output]
    initial_state: tuple[Array, Array] | None = None  # [layers*K, P] and [layers*K, H]

    @property
    def tokens(self) -> int:
        """T."""
        return int(self.steps.shape[0])


@dataclass(frozen=True, slots=True, eq=False)
class SequenceOutput:
    """What was asked of one sequence, in the model's dtype."""

    arrays: dict[Output, Array] = field(default_factory=dict)  # all but STATE
    state: tuple[Array, Array] | None = None  # [layers*K, P] and [layers*K, H]
