"""A sequence's results do not depend on its batch by a bit, nor on how it is cut into slices."""

from __future__ import annotations

from collections.abc import Iterator
from functools import cache
from itertools import pairwise

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor

from bilstm_server.model.config import ModelConfig
from bilstm_server.model.graph import SequenceEncoder
from bilstm_server.model.kernels import choose_kernel
from bilstm_server.model.layers.interface import WholeConfig, WholeLayer, WindowConfig
from bilstm_server.model.layers.segments import SEGMENT_STEPS
from tests.support.lstms import examples, seeds

from .cases import CASES, Case
from .running import assert_same_bits, config_of, graph_of, inferred, sequences_for

pytestmark = pytest.mark.usefixtures("one_thread")

every_case = pytest.mark.parametrize("case", CASES.values(), ids=CASES)
DTYPES = {"float32": torch.float32, "bfloat16": torch.bfloat16, "float64": torch.float64}
KERNEL = choose_kernel("auto", torch.device("cpu")).name
LENGTHS = st.lists(st.integers(5, 20) | st.integers(60, 140), min_size=1, max_size=9)

LAYERS = {name: ModelConfig.model_validate(config_of(CASES[name])).layers[-1] for name in CASES}
WHOLE = [name for name, layer in LAYERS.items() if isinstance(layer, WholeConfig)]
WINDOWED = [name for name, layer in LAYERS.items() if isinstance(layer, WindowConfig)]
PRODUCTS = {name for name, case in CASES.items() if case.layer["type"] in ("linear", "conv1d")}

frozen = cache(lambda name, dtype: graph_of(CASES[name], DTYPES[dtype]))


def dtypes_of(name: str) -> list[str]:
    """Of those in which the layer's bits do not depend on the batch: what torch multiplies itself
    has bits that do, and the cpu kernel leaves float64 to it."""
    if name not in PRODUCTS:
        return list(DTYPES)
    return ["float32", "bfloat16"] if KERNEL == "cpu" else []


NAMES = [name for name in CASES if dtypes_of(name)]


@pytest.fixture
def threads() -> Iterator[None]:
    """torch's number of threads is what it was, after the test."""
    before = torch.get_num_threads()
    yield
    torch.set_num_threads(before)


@pytest.mark.parametrize("name", NAMES)
@examples(8)
@given(st.data(), LENGTHS, seeds)
def test_batch_mates(name: str, data: st.DataObject, lengths: list[int], seed: int) -> None:
    """A sequence alone has the bits that it has among any others."""
    dtype = data.draw(st.sampled_from(dtypes_of(name)))
    chosen = data.draw(st.integers(0, len(lengths) - 1))
    encoder = frozen(name, dtype)
    sequences = sequences_for(CASES[name], lengths, DTYPES[dtype], seed)
    together = inferred(encoder, sequences)[chosen]
    (alone,) = inferred(encoder, [[x[chosen]] for x in sequences])
    for ours, own in zip(together, alone, strict=True):
        assert_same_bits(ours, own)


@pytest.mark.usefixtures("threads")
@pytest.mark.parametrize("name", NAMES)
def test_many_rows(name: str) -> None:
    """Ten thousand rows have the bits of the few, whatever the number of threads."""
    case, encoder = CASES[name], frozen(name, "float32")
    sequences = sequences_for(case, [SEGMENT_STEPS + 7, 1 + case.min_steps, 9931])
    torch.set_num_threads(1)
    alone = [inferred(encoder, [[x[chosen]] for x in sequences])[0] for chosen in range(3)]
    for count in (1, 2, 3, 5):
        torch.set_num_threads(count)
        for together, lone in zip(inferred(encoder, sequences), alone, strict=True):
            for ours, own in zip(together, lone, strict=True):
                assert_same_bits(ours, own)


@pytest.mark.parametrize("name", [name for name in CASES if name not in WHOLE + WINDOWED])
def test_how_rows_lie(name: str) -> None:
    """Rows that lie apart in memory, or column by column, have the bits of others."""
    layer = frozen(name, "float32").get_submodule("layer")
    rows = [torch.cat(x) for x in sequences_for(CASES[name], [301, 53])]
    with torch.inference_mode():
        together = layer(*rows)
        apart = layer(*(torch.cat([x, x], 1)[:, : x.shape[1]] for x in rows))
        by_column = layer(*(x.t().contiguous().t() for x in rows))
    assert_same_bits(apart, together)
    assert_same_bits(by_column, together)


@pytest.mark.parametrize("name", [name for name in CASES if name not in WHOLE])
def test_no_rows(name: str) -> None:
    """A block without a row for the layer, as a stream may have it, gives none."""
    case, encoder = CASES[name], frozen(name, "float32")
    layer = encoder.get_submodule("layer")
    columns = [width + getattr(layer, "marks_steps", False) for width in case.widths]
    rows = [torch.empty(0, case.layer.get("kernel", 1) * width) for width in columns]
    with torch.inference_mode():
        none = layer(*rows)
    assert none.shape == (0, *inferred(encoder, sequences_for(case, [9]))[0][0].shape[1:])


@pytest.mark.parametrize("name", WHOLE)
@examples(15)
@given(st.integers(1, 300), st.sets(st.integers(1, 4)), st.sampled_from(list(DTYPES)), seeds)
def test_slices(name: str, steps: int, cuts: set[int], dtype: str, seed: int) -> None:
    """What reads the whole sequence has the same bits when its steps come a slice at a time."""
    case, encoder = CASES[name], frozen(name, dtype)
    inputs = [x for (x,) in sequences_for(case, [steps], DTYPES[dtype], seed)]
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
