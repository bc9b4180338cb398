"""A batch's arrays, cut into what each of its sequences asked for. Views, not copies."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from itertools import accumulate
from typing import cast

import numpy as np
from numpy.typing import NDArray

from ..model.config import STATE, ModelConfig
from ..model.layers.values import Value
from .sequences import Array, BlockInput, SequenceInput, SequenceOutput


def split(
    arrays: Mapping[str, Array], sequences: Sequence[SequenceInput], config: ModelConfig
) -> list[SequenceOutput]:
    """Cut a batch's arrays, named as `SequenceEncoder.forward` does, into what each sequence asked
    for."""
    cuts = _Cuts(arrays, [sequence.tokens for sequence in sequences], config)
    results = []
    for index, sequence in enumerate(sequences):
        state = None
        if STATE in sequence.outputs:
            state = (arrays["hidden"][:, index], arrays["cell"][:, index])
        results.append(SequenceOutput(cuts.of(index, sequence.outputs), state))
    return results


def split_blocks(
    arrays: Mapping[str, Array],
    blocks: Sequence[BlockInput],
    carried: Sequence[object],
    config: ModelConfig,
) -> list[SequenceOutput]:
    """Cut the arrays of a batch's blocks into those of each block, and add what its sequence
    carries on to the next one.
    """
    cuts = _Cuts(arrays, [block.tokens - block.context for block in blocks], config)
    return [
        SequenceOutput(cuts.of(index, block.outputs), carried=state)
        for index, (block, state) in enumerate(zip(blocks, carried, strict=True))
    ]


class _Cuts:
    """Where each sequence's own rows lie in the arrays of all."""

    def __init__(self, arrays: Mapping[str, Array], tokens: Sequence[int], config: ModelConfig):
        self._arrays = arrays
        self._values = config.output_values
        self._bounds = {
            value.grid: [0, *accumulate(value.grid.rows(np.array(tokens)).tolist())]
            for name in arrays
            if (value := self._values.get(name)) is not None and value.per_step
        }

    def of(self, index: int, outputs: frozenset[str]) -> dict[str, Array]:
        """The sequence's own part of these outputs."""
        return {name: self._cut(name, index) for name in outputs if name in self._values}

    def _cut(self, name: str, index: int) -> Array:
        array, value = self._arrays[name], self._values[name]
        if not value.per_step:
            return array[index, ...]
        bounds = self._bounds[value.grid]
        own = array[bounds[index] : bounds[index + 1]]
        return own[cast(NDArray[np.int32], own) >= 0] if value.sparse else own


def shape_of(value: Value, steps: int) -> tuple[int, ...]:
    """The largest shape that an output has for a sequence of so many steps."""
    rows = (int(value.grid.rows(np.array(steps))),) if value.per_step else ()
    return rows if value.ids else (*rows, value.width)
