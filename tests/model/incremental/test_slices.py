"""A long sequence slice by slice is what it is in one piece. The judge is `SequenceEncoder.forward`
of the sequence alone, with the same kernel.
"""

from __future__ import annotations

from typing import Any

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from bilstm_server.model import Pooling, RaggedBatch
from bilstm_server.model.incremental.slices import SLICE_UNIT, advance
from bilstm_server.model.layers.interface import LayerConfig
from bilstm_server.model.layers.pooling import (
    FinalConfig,
    FirstConfig,
    LastConfig,
    MaxConfig,
    MeanConfig,
    SumConfig,
)
from bilstm_server.model.layers.pooling import Pooling as PoolingLayer
from bilstm_server.model.layers.values import Value
from tests.model.incremental.encoders import VOCABULARY, draw_inputs, draw_state
from tests.model.incremental.slicing import (
    WORDS,
    assert_same_bits,
    encoder_of,
    finish,
    outputs,
    run_of,
    whole,
)
from tests.support.lstms import architectures, assert_close, examples, seeds

pytestmark = pytest.mark.usefixtures("one_thread")

lengths = st.lists(
    st.integers(1, 450) | st.sampled_from([63, 64, 65, 128, 256]), min_size=1, max_size=3
)
slice_sizes = st.lists(st.integers(1, 300), min_size=1, max_size=4)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16], ids=str)
@pytest.mark.parametrize("embedded", [False, True], ids=["floats", "ids"])
@examples(60)
@given(
    architectures(1, 20),
    lengths,
    slice_sizes,
    st.sampled_from(Pooling),
    outputs,
    st.booleans(),
    seeds,
)
def test_same_bits(
    embedded: bool,
    dtype: torch.dtype,
    architecture: dict[str, Any],
    lengths: list[int],
    sizes: list[int],
    pooling: Pooling,
    outputs: frozenset[str],
    stateful: bool,
    seed: int,
) -> None:
    """On the cpu kernel every output has the bits that it has in one piece, whatever the slices
    and however many sequences share them; and every token is counted once a layer."""
    embedding = {"embedding": {"num_embeddings": VOCABULARY}} if embedded else {}
    encoder = encoder_of("cpu", dtype, seed, pooling=pooling, **architecture, **embedding)
    xs = [draw_inputs(encoder, steps) for steps in lengths]
    states = [draw_state(encoder) if stateful else None for _ in lengths]
    runs = [run_of(encoder, x, outputs, hx) for x, hx in zip(xs, states, strict=True)]
    tokens = sum(lengths) * encoder.config.lstms[0].num_layers
    assert sum(run.tokens_left for run in runs) == tokens
    assert finish(runs, sizes) == tokens
    for run, x, hx in zip(runs, xs, states, strict=True):
        assert run.tokens_left == 0
        assert_same_bits(run.encodings(), whole(encoder, x, outputs, hx))


@pytest.mark.parametrize(
    ("dtype", "tolerance"),
    [(torch.float64, 1e-10), (torch.float32, 1e-5), (torch.bfloat16, 3e-2)],
    ids=str,
)
@examples(15)
@given(architectures(1, 12), lengths, slice_sizes, st.sampled_from(Pooling), seeds)
def test_reference(
    dtype: torch.dtype,
    tolerance: float,
    architecture: dict[str, Any],
    lengths: list[int],
    sizes: list[int],
    pooling: Pooling,
    seed: int,
) -> None:
    """On the reference kernel every output is close to what it is in one piece."""
    encoder = encoder_of("reference", dtype, seed, pooling=pooling, **architecture)
    xs = [draw_inputs(encoder, steps) for steps in lengths]
    runs = [run_of(encoder, x) for x in xs]
    finish(runs, sizes)
    for run, x in zip(runs, xs, strict=True):
        assert_close(run.encodings(), whole(encoder, x), tolerance)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16], ids=str)
@pytest.mark.parametrize("poison", [float("nan"), float("inf"), -float("inf")])
@pytest.mark.parametrize("step", [0, 100, 199])
@pytest.mark.parametrize("pooling", Pooling)
def test_not_finite(pooling: Pooling, step: int, poison: float, dtype: torch.dtype) -> None:
    """A NaN or an infinity gives what it gives in one piece, and stays in its sequence."""
    encoder = encoder_of("cpu", dtype, pooling=pooling)
    sick, healthy = draw_inputs(encoder, 200), draw_inputs(encoder, 300)
    sick[0][step, 0] = poison
    runs = [run_of(encoder, x) for x in (sick, healthy)]
    finish(runs, [64])
    for run, x in zip(runs, (sick, healthy), strict=True):
        assert_same_bits(run.encodings(), whole(encoder, x))


@pytest.mark.parametrize("dtype", WORDS, ids=str)
@pytest.mark.parametrize(
    "config", [FinalConfig, FirstConfig, LastConfig, MeanConfig, SumConfig, MaxConfig]
)
@examples(60)
@given(st.lists(st.integers(1, 200), min_size=1, max_size=5), st.integers(1, 3), seeds)
def test_pooling(
    config: type[LayerConfig], dtype: torch.dtype, lengths: list[int], units: int, seed: int
) -> None:
    """Pooling a sequence has the same bits in company, alone, and in slices from either end,
    whatever its numbers are."""
    torch.manual_seed(seed)
    numbers = torch.tensor([0.0, -0.0, 1.0, -1.0, 0.3, 1e30, torch.inf, -torch.inf, torch.nan])
    usual = 3 + torch.randint(len(numbers) - 2, ())  # many zeros, or many numbers that are none
    y = numbers[torch.randint(int(usual), (sum(lengths), 4))].to(dtype)
    pooling = config(name="pooling").build(Value(4))
    assert isinstance(pooling, PoolingLayer)
    (together,) = pooling(y, RaggedBatch(lengths))
    for index, rows in enumerate(torch.split(y, lengths)):
        steps = len(rows)
        sliced = pooling.sliced(steps, dtype)
        starts = range(0, steps, units * SLICE_UNIT)
        for start in starts:
            sliced.add(start, rows[start : start + units * SLICE_UNIT, :2], 0)
        for start in reversed(starts):
            sliced.add(start, rows[start : start + units * SLICE_UNIT, 2:], 2)
        expected = together[index : index + 1].view(WORDS[dtype])
        for (actual,) in (pooling(rows, RaggedBatch([steps])), sliced.result()):
            assert torch.equal(actual.view(WORDS[dtype]), expected)


def test_one_slice() -> None:
    """A slice that is longer than the sequence is all of a layer."""
    encoder = encoder_of("cpu")
    x = draw_inputs(encoder, 1000)
    run = run_of(encoder, x)
    assert (run.stages, run.tokens_left) == (2, 2000)
    assert [advance([run], 10_000), run.tokens_left, run.done] == [1000, 1000, False]
    assert [advance([run], 10_000), run.tokens_left, run.done] == [1000, 0, True]
    assert_same_bits(run.encodings(), whole(encoder, x))
