"""A batch's arrays, cut into what each of its sequences asked for. Views, not copies."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from itertools import accumulate, pairwise

import numpy as np
from torch import Tensor

from ..model.config import Output
from ..model.encoder import Encodings
from ..model.incremental.live import LiveState
from .sequences import Array, BlockInput, SequenceInput, SequenceOutput

PER_SEQUENCE = (Output.FINAL, Output.MEAN, Output.MAX, Output.LOGITS)  # one vector each


def named_tensors(encodings: Encodings) -> dict[str, Tensor]:
    """Those outputs that were computed, by name; a state is two tensors, `hidden` and `cell`."""
    tensors: dict[str, Tensor] = {
        output: tensor
        for output in PER_SEQUENCE
        if (tensor := getattr(encodings, output)) is not None
    }
    if encodings.states is not None:
        tensors["states"] = encodings.states
    if encodings.state is not None:
        tensors["hidden"], tensors["cell"] = encodings.state
    return tensors


def split(arrays: Mapping[str, Array], sequences: Sequence[SequenceInput]) -> list[SequenceOutput]:
    """Cut a batch's arrays, named as `named_tensors` does, into what each sequence asked for."""
    vectors = {output: arrays[output] for output in PER_SEQUENCE if output in arrays}
    states = arrays.get("states")
    results = []
    bounds = pairwise(accumulate((s.tokens for s in sequences), initial=0))
    for index, (sequence, (start, end)) in enumerate(zip(sequences, bounds, strict=True)):
        own = {output: vectors[output][index] for output in sequence.outputs if output in vectors}
        if states is not None and Output.STATES in sequence.outputs:
            own[Output.STATES] = states[start:end]
        state = None
        if Output.STATE in sequence.outputs:
            state = (arrays["hidden"][:, index], arrays["cell"][:, index])
        results.append(SequenceOutput(own, state))
    return results


def split_blocks(
    states: Array, blocks: Sequence[BlockInput], carried: Sequence[LiveState]
) -> list[SequenceOutput]:
    """Cut the states of a batch's blocks, [steps of all, K*P], into those of each block, and add
    what its sequence carries on to the next one.
    """
    ends = list(accumulate(block.tokens - block.context for block in blocks))
    return [
        SequenceOutput({Output.STATES: own}, carried=state)
        for own, state in zip(np.split(states, ends[:-1]), carried, strict=True)
    ]
