"""A sequence's results do not depend on its batch by a bit, nor on how it is cut into slices."""

from __future__ import annotations

from collections.abc import Iterator
from functools import cache
from itertools import pairwise

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from bilstm_server.model.graph import SequenceEncoder
from bilstm_server.model.layers.interface import RowLayer, WholeLayer
from bilstm_server.model.layers.segments import SEGMENT_STEPS

from .cases import CASES, Case
from .running import assert_same_bits, graph_of, inferred, sequences_for

every_case = pytest.mark.parametrize("case", CASES.values(), ids=CASES)
TYPES = {"float32": torch.float32, "bfloat16": torch.bfloat16, "float64": torch.float64}
# Of float64 the reference kernel computes products.
PRODUCTS = ("linear", "conv1d")
LENGTHS = st.lists(st.integers(5, 20) | st.integers(60, 140), min_size=1, max_size=9)

frozen = cache(lambda name, dtype: graph_of(CASES[name], TYPES[dtype]))


@pytest.fixture
def threads() -> Iterator[None]:
    """torch's number of threads is what it was, after the test."""
    before = torch.get_num_threads()
    yield
    torch.set_num_threads(before)


@pytest.mark.parametrize("name", CASES)
@pytest.mark.parametrize("dtype", TYPES)
@settings(deadline=None, max_examples=6)
@given(lengths=LENGTHS, seed=st.integers(0, 2**31), chosen=st.integers(0, 8))
def test_batch_mates(name: str, dtype: str, lengths: list[int], seed: int, chosen: int) -> None:
    """A sequence alone has the bits that it has among any others."""
    case, encoder = CASES[name], frozen(name, dtype)
    if dtype == "float64" and case.layer["type"] in PRODUCTS:
        return
    chosen %= len(lengths)
    sequences = sequences_for(case, lengths, TYPES[dtype], seed)
    together = inferred(encoder, sequences)[chosen]
    (alone,) = inferred(encoder, [[x[chosen]] for x in sequences])
    for ours, own in zip(together, alone, strict=True):
        assert_same_bits(ours, own)


@every_case
@pytest.mark.usefixtures("threads")
@pytest.mark.parametrize("count", [1, 2, 3, 5])
def test_many_rows(case: Case, count: int) -> None:
    """Ten thousand rows have the bits of the few, whatever the number of threads."""
    torch.set_num_threads(count)
    encoder = graph_of(case)
    lengths = [SEGMENT_STEPS + 7, 1 + case.min_steps, 9931]
    sequences = sequences_for(case, lengths)
    for chosen, together in enumerate(inferred(encoder, sequences)):
        torch.set_num_threads(1)
        (alone,) = inferred(encoder, [[x[chosen]] for x in sequences])
        torch.set_num_threads(count)
        for ours, own in zip(together, alone, strict=True):
            assert_same_bits(ours, own)


@every_case
def test_how_rows_lie(case: Case) -> None:
    """Rows that lie apart in memory, or column by column, have the bits of others."""
    encoder = graph_of(case)
    layer = encoder.get_submodule("layer")
    if not isinstance(layer, RowLayer):
        pytest.skip("the graph puts its rows together")
    rows = [torch.cat(x) for x in sequences_for(case, [301, 53])]
    with torch.inference_mode():
        together = layer(*rows)
        apart = layer(*(torch.cat([x, x], 1)[:, : x.shape[1]] for x in rows))
        by_column = layer(*(x.t().contiguous().t() for x in rows))
    assert_same_bits(apart, together)
    assert_same_bits(by_column, together)


@pytest.mark.parametrize("name", CASES)
@settings(deadline=None, max_examples=15)
@given(
    steps=st.integers(1, 300),
    cuts=st.sets(st.integers(1, 4)),
    seed=st.integers(0, 2**31),
    dtype=st.sampled_from(list(TYPES)),
)
def test_slices(name: str, steps: int, cuts: set[int], seed: int, dtype: str) -> None:
    """What reads the whole sequence has the same bits when its steps come a slice at a time."""
    case, encoder = CASES[name], frozen(name, dtype)
    if not isinstance(encoder.get_submodule("layer"), WholeLayer):
        return
    inputs = [x for (x,) in sequences_for(case, [steps], TYPES[dtype], seed)]
    (whole,) = inferred(encoder, [[x] for x in inputs])
    inner = [cut * SEGMENT_STEPS for cut in sorted(cuts) if cut * SEGMENT_STEPS < steps]
    for ours, own in zip(sliced(encoder, inputs, [0, *inner, steps]), whole, strict=True):
        assert_same_bits(ours, own)


@torch.inference_mode()
def sliced(encoder: SequenceEncoder, inputs: list[Tensor], bounds: list[int]) -> tuple[Tensor, ...]:
    layer = encoder.get_submodule("layer")
    assert isinstance(layer, WholeLayer)
    accumulator = layer.sliced(bounds[-1], encoder.dtype)
    for start, stop in pairwise(bounds):
        accumulator.add(start, *(x[start:stop] for x in inputs))
    return accumulator.result()


@every_case
@pytest.mark.parametrize("poison", [torch.nan, torch.inf, -torch.inf])
def test_poison_stays_in_its_sequence(case: Case, poison: float) -> None:
    """A NaN or infinity in one sequence leaves its batch mates as they were."""
    encoder = graph_of(case)
    sequences = sequences_for(case, [5, 70, 6])
    before = inferred(encoder, sequences)
    for x in sequences:
        x[1][3:5] = poison
    after = inferred(encoder, sequences)
    for index in (0, 2):
        for ours, own in zip(after[index], before[index], strict=True):
            assert_same_bits(ours, own)
