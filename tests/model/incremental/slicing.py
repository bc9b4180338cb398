"""Runs of slices, and what they must give."""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from functools import partial

import torch
from hypothesis import strategies as st
from torch import Tensor

from bilstm_server.model import Encodings, Output, Pooling, RaggedBatch
from bilstm_server.model.bilstm import States
from bilstm_server.model.encoder import SequenceEncoder
from bilstm_server.model.incremental.slices import SlicedRun, advance
from tests.model.incremental import encoders

EVERY = frozenset(Output)
WORDS = {torch.float64: torch.int64, torch.float32: torch.int32, torch.bfloat16: torch.int16}

encoder_of = partial(encoders.encoder_of, pooling=Pooling.MEAN, num_layers=2)


def run_of(
    encoder: SequenceEncoder,
    x: Tensor,
    outputs: frozenset[Output] = EVERY,
    hx: States | None = None,
) -> SlicedRun:
    return SlicedRun(encoder, lambda start, stop: x[start:stop], len(x), outputs, hx)


def whole(
    encoder: SequenceEncoder,
    x: Tensor,
    outputs: frozenset[Output] = EVERY,
    hx: States | None = None,
) -> Encodings:
    batched = None if hx is None else (hx[0].unsqueeze(1), hx[1].unsqueeze(1))
    with torch.inference_mode():
        encodings: Encodings = encoder(x, RaggedBatch([len(x)]), batched, outputs)
    return encodings


def finish(runs: Sequence[SlicedRun], sizes: Sequence[int]) -> int:
    """Advances those that are at the lowest layer until all are done; the tokens that it was."""
    tokens = 0
    for steps in itertools.cycle(sizes):
        pending = [run for run in runs if not run.done]
        if not pending:
            break
        lowest = min(run.layer for run in pending)
        tokens += advance([run for run in pending if run.layer == lowest], steps)
    return tokens


def tensors_of(encodings: Encodings) -> dict[str, Tensor]:
    named = {o.value: getattr(encodings, o.value) for o in Output if o is not Output.STATE}
    if encodings.state is not None:
        named["hidden"], named["cell"] = encodings.state
    return {name: tensor for name, tensor in named.items() if tensor is not None}


def bits(tensor: Tensor) -> Tensor:
    """A NaN has those of any other."""
    return tensor.masked_fill(tensor.isnan(), torch.nan).view(WORDS[tensor.dtype])


def assert_same_bits(actual: Encodings, expected: Encodings) -> None:
    ours, theirs = tensors_of(actual), tensors_of(expected)
    assert ours.keys() == theirs.keys()
    for name, tensor in ours.items():
        assert torch.equal(bits(tensor), bits(theirs[name])), name


outputs = st.frozensets(st.sampled_from(Output), min_size=1) | st.just(EVERY)
