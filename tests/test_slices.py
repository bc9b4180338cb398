"""`SlicedRun` and `advance`: a long sequence slice by slice is what it is in one piece.

The judge is `SequenceEncoder.forward` of the sequence alone, with the same kernel.
"""

from __future__ import annotations

import itertools
import weakref
from collections.abc import Sequence
from functools import partial
from typing import Any

import encoders
import numpy as np
import pytest
import torch
from encoders import VOCABULARY, draw_state, draw_steps
from hypothesis import given
from hypothesis import strategies as st
from lstms import architectures, assert_close, examples, seeds
from torch import Tensor

from bilstm_server.model import Encodings, Output, Pooling, RaggedBatch
from bilstm_server.model.bilstm import States
from bilstm_server.model.encoder import SequenceEncoder
from bilstm_server.model.incremental.slices import SLICE_UNIT, SlicedRun, advance
from bilstm_server.model.pooling import SlicedPooling, pool

pytestmark = pytest.mark.usefixtures("one_thread")

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


lengths = st.lists(
    st.integers(1, 450) | st.sampled_from([63, 64, 65, 128, 256]), min_size=1, max_size=3
)
slice_sizes = st.lists(st.integers(1, 300), min_size=1, max_size=4)
outputs = st.frozensets(st.sampled_from(Output), min_size=1) | st.just(EVERY)


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
    outputs: frozenset[Output],
    stateful: bool,
    seed: int,
) -> None:
    """On the cpu kernel every output has the bits that it has in one piece, whatever the slices
    and however many sequences share them; and every token is counted once a layer."""
    embedding = {"embedding": {"num_embeddings": VOCABULARY}} if embedded else {}
    encoder = encoder_of("cpu", dtype, seed, pooling=pooling, **architecture, **embedding)
    xs = [draw_steps(encoder, steps) for steps in lengths]
    states = [draw_state(encoder) if stateful else None for _ in lengths]
    runs = [run_of(encoder, x, outputs, hx) for x, hx in zip(xs, states, strict=True)]
    tokens = sum(lengths) * encoder.config.num_layers
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
    xs = [draw_steps(encoder, steps) for steps in lengths]
    runs = [run_of(encoder, x) for x in xs]
    finish(runs, sizes)
    for run, x in zip(runs, xs, strict=True):
        actual, expected = tensors_of(run.encodings()), tensors_of(whole(encoder, x))
        assert_close(actual, expected, tolerance)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16], ids=str)
@pytest.mark.parametrize("poison", [float("nan"), float("inf"), -float("inf")])
@pytest.mark.parametrize("step", [0, 100, 199])
@pytest.mark.parametrize("pooling", Pooling)
def test_not_finite(pooling: Pooling, step: int, poison: float, dtype: torch.dtype) -> None:
    """A NaN or an infinity gives what it gives in one piece, and stays in its sequence."""
    encoder = encoder_of("cpu", dtype, pooling=pooling)
    sick, healthy = draw_steps(encoder, 200), draw_steps(encoder, 300)
    sick[step, 0] = poison
    runs = [run_of(encoder, x) for x in (sick, healthy)]
    finish(runs, [64])
    for run, x in zip(runs, (sick, healthy), strict=True):
        assert_same_bits(run.encodings(), whole(encoder, x))


@pytest.mark.parametrize("dtype", WORDS, ids=str)
@pytest.mark.parametrize("pooling", Pooling)
@examples(60)
@given(st.lists(st.integers(1, 200), min_size=1, max_size=5), st.integers(1, 3), seeds)
def test_pooling(
    pooling: Pooling, dtype: torch.dtype, lengths: list[int], units: int, seed: int
) -> None:
    """Pooling a sequence has the same bits in company, alone, and in slices from either end,
    whatever its numbers are."""
    torch.manual_seed(seed)
    numbers = torch.tensor([0.0, -0.0, 1.0, -1.0, 0.3, 1e30, torch.inf, -torch.inf, torch.nan])
    usual = 3 + torch.randint(len(numbers) - 2, ())  # many zeros, or many numbers that are none
    y = numbers[torch.randint(int(usual), (sum(lengths), 4))].to(dtype)
    h_n = torch.randn(2, len(lengths), 2, dtype=dtype)
    together = pool(pooling, y, h_n, np.array(lengths))
    for index, rows in enumerate(torch.split(y, lengths)):
        steps, own = len(rows), h_n[:, index : index + 1]
        sliced = SlicedPooling({pooling}, steps, 4, dtype)
        starts = range(0, steps, units * SLICE_UNIT)
        for start in starts:
            sliced.add(rows[start : start + units * SLICE_UNIT, :2], start, 0)
        for start in reversed(starts):
            sliced.add(rows[start : start + units * SLICE_UNIT, 2:], start, 2)
        expected = together[index : index + 1].view(WORDS[dtype])
        for actual in (pool(pooling, rows, own, np.array([steps])), sliced.result(pooling, own)):
            assert torch.equal(actual.view(WORDS[dtype]), expected)


def test_one_slice() -> None:
    """A slice that is longer than the sequence is all of a layer."""
    encoder = encoder_of("cpu")
    x = draw_steps(encoder, 1000)
    run = run_of(encoder, x)
    assert [advance([run], 10_000), run.layer, run.done] == [1000, 1, False]
    assert [advance([run], 10_000), run.layer, run.done] == [1000, 1, True]
    assert_same_bits(run.encodings(), whole(encoder, x))


@pytest.mark.parametrize("steps", [0, 1, 63, 64, 127])
def test_smallest_slice(steps: int) -> None:
    """A slice is a multiple of the unit, and at least one; what is left over goes to the backward
    direction's first."""
    encoder = encoder_of("cpu", num_layers=1)
    asked: list[tuple[int, int]] = []
    x = draw_steps(encoder, 150)

    def rows(start: int, stop: int) -> Tensor:
        asked.append((start, stop))
        return x[start:stop]

    run = SlicedRun(encoder, rows, len(x), EVERY)
    assert advance([run], steps) == (64 + 86) // 2
    assert asked == [(0, SLICE_UNIT), (64, 150)]
    assert advance([run], steps) == 64
    assert asked[2:] == [(64, 128), (0, 64)]
    assert advance([run], steps) == 150 - 75 - 64
    assert asked[4:] == [(128, 150)]
    assert run.done


def test_input_is_dropped() -> None:
    """The input is let go of once the first layer has read it."""
    encoder = encoder_of("cpu")
    x = draw_steps(encoder, 200)
    steps = x.clone()

    def rows(start: int, stop: int) -> Tensor:
        return steps[start:stop]

    run = SlicedRun(encoder, rows, len(x), EVERY)
    held = weakref.ref(rows)
    del rows
    while run.layer == 0:
        assert held() is not None
        advance([run], 64)
    assert held() is None
    finish([run], [64])
    assert_same_bits(run.encodings(), whole(encoder, x))


def test_failure_moves_no_run() -> None:
    """Where something fails no run has moved: the next attempt goes on from there."""
    encoder = encoder_of("cpu")
    xs = [draw_steps(encoder, 300), draw_steps(encoder, 200)]
    failing = False

    def rows(start: int, stop: int) -> Tensor:
        if failing:
            raise MemoryError
        return xs[1][start:stop]

    runs = [run_of(encoder, xs[0]), SlicedRun(encoder, rows, len(xs[1]), EVERY)]
    advance(runs, 64)
    failing, left = True, [run.tokens_left for run in runs]
    with pytest.raises(MemoryError):
        advance(runs, 64)
    assert [run.tokens_left for run in runs] == left
    failing = False
    finish(runs, [64])
    for run, x in zip(runs, xs, strict=True):
        assert_same_bits(run.encodings(), whole(encoder, x))


def test_runs_that_do_not_go_together() -> None:
    """Runs of several encoders or layers, or done, or none at all, are a ValueError."""
    encoder, other = encoder_of("reference"), encoder_of("reference")
    x = draw_steps(encoder, 10)
    done, further = run_of(encoder, x), run_of(encoder, x)
    finish([done], [64])
    advance([further], 64)
    new = run_of(encoder, x)
    for runs in ([], [done], [new, further], [new, run_of(other, x)]):
        with pytest.raises(ValueError, match="runs must be"):
            advance(runs, 64)


def test_too_early() -> None:
    """The encodings of a sequence that is not done are a ValueError."""
    encoder = encoder_of("reference")
    run = run_of(encoder, draw_steps(encoder, 10))
    with pytest.raises(ValueError, match="not encoded yet"):
        run.encodings()


def test_logits_need_a_head() -> None:
    """Asking a model without a head for logits is a ValueError at once."""
    encoder = encoder_of("reference", head=None)
    with pytest.raises(ValueError, match="logits need a head"):
        run_of(encoder, draw_steps(encoder, 10))
