"""Runs of slices, and what they must give."""

from __future__ import annotations

import itertools
from collections.abc import Collection, Mapping, Sequence
from functools import partial

import torch
from hypothesis import strategies as st
from torch import Tensor

from bilstm_server.model import Pooling, RaggedBatch, SequenceEncoder
from bilstm_server.model.bilstm import States
from bilstm_server.model.incremental.pulling import ReadSteps
from bilstm_server.model.incremental.slices import SlicedRun, advance
from tests.model.incremental import encoders

EVERY = frozenset({"states", "final", "mean", "max", "logits", "state"})
WORDS = {torch.float64: torch.int64, torch.float32: torch.int32, torch.bfloat16: torch.int16}

encoder_of = partial(encoders.encoder_of, pooling=Pooling.MEAN, num_layers=2)


def reader_of(inputs: Sequence[Tensor]) -> ReadSteps:
    return lambda start, stop: [x[start:stop] for x in inputs]


def run_of(
    encoder: SequenceEncoder,
    inputs: Sequence[Tensor],
    outputs: Collection[str] = EVERY,
    hx: States | None = None,
) -> SlicedRun:
    return SlicedRun(encoder, reader_of(inputs), len(inputs[0]), outputs, hx)


def whole(
    encoder: SequenceEncoder,
    inputs: Sequence[Tensor],
    outputs: Collection[str] = EVERY,
    hx: States | None = None,
) -> dict[str, Tensor]:
    batched = None if hx is None else (hx[0].unsqueeze(1), hx[1].unsqueeze(1))
    with torch.inference_mode():
        encodings: dict[str, Tensor] = encoder(
            inputs, RaggedBatch([len(inputs[0])]), batched, outputs
        )
    return encodings


def finish(runs: Sequence[SlicedRun], sizes: Sequence[int]) -> int:
    """Advances those that have the most to do until all are done; the tokens that it was."""
    tokens = 0
    for steps in itertools.cycle(sizes):
        pending = [run for run in runs if not run.done]
        if not pending:
            break
        slowest = max(pending, key=lambda run: run.tokens_left)
        tokens += advance([run for run in pending if run.stage == slowest.stage], steps)
    return tokens


def bits(tensor: Tensor) -> Tensor:
    """A NaN has those of any other."""
    if tensor.dtype not in WORDS:
        return tensor
    return tensor.masked_fill(tensor.isnan(), torch.nan).view(WORDS[tensor.dtype])


def assert_same_bits(actual: Mapping[str, Tensor], expected: Mapping[str, Tensor]) -> None:
    assert actual.keys() == expected.keys()
    for name, tensor in actual.items():
        assert tensor.shape == expected[name].shape, name
        assert tensor.dtype == expected[name].dtype, name
        assert torch.equal(bits(tensor), bits(expected[name])), name


outputs = st.frozensets(st.sampled_from(sorted(EVERY)), min_size=1) | st.just(EVERY)
