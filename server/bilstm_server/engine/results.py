"""A batch's arrays, cut into what each of its sequences asked for. Views, not copies."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from itertools import accumulate
from typing import cast

import numpy as np
from numpy.typing import NDArray

from ..model.config import STATE, ModelConfig
from ..model.layers.values import EVERY_STEP
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
        self._whole: dict[str, Array] = {}  # a row for each sequence
        self._steps: dict[str, tuple[Array, Sequence[int], bool]] = {}  # bounds, and whether sparse
        for name, array in arrays.items():
            value = config.output_values.get(name)
            if value is None:
                continue  # of the state
            if not value.per_step:
                self._whole[name] = array
                continue
            rows = (
                tokens if value.grid is EVERY_STEP else value.grid.rows(np.array(tokens)).tolist()
            )
            self._steps[name] = array, [0, *accumulate(rows)], value.sparse

    def of(self, index: int, outputs: frozenset[str]) -> dict[str, Array]:
        """The sequence's own part of these outputs."""
        own: dict[str, Array] = {}
        for name in outputs:
            if name in self._whole:
                own[name] = self._whole[name][index, ...]
            elif name in self._steps:
                array, bounds, is_sparse = self._steps[name]
                rows = array[bounds[index] : bounds[index + 1]]
                own[name] = rows[cast(NDArray[np.int32], rows) >= 0] if is_sparse else rows
        return own
