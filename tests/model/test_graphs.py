"""Graphs of every layer type: a sequence's values do not depend on the company or on the way in
which they are computed."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor

from bilstm_server.model import ModelConfig, RaggedBatch, SequenceEncoder
from bilstm_server.model.incremental.exactness import Exactness
from tests.model.graphs import graphs
from tests.model.incremental.encoders import draw_inputs, frozen
from tests.model.incremental.living import Live, encode_live
from tests.model.incremental.slicing import assert_same_bits, finish, run_of, whole
from tests.support.lstms import examples, seeds

pytestmark = pytest.mark.usefixtures("one_thread")

every_dtype = pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16], ids=str)
lengths = st.lists(st.integers(0, 20), min_size=1, max_size=4)


def parts(encoder: SequenceEncoder, name: str, rows: Tensor, lengths: list[int]) -> list[Tensor]:
    """A batch's output, by sequence."""
    if name in ("hidden", "cell"):
        return list(torch.split(rows, 1, dim=1))
    value = encoder.config.output_values[name]
    counts = value.grid.rows(np.array(lengths)).tolist()
    return list(torch.split(rows, counts if value.per_step else 1))


@every_dtype
@examples(100)
@given(graphs(), lengths, seeds)
def test_company(dtype: torch.dtype, config: ModelConfig, more: list[int], seed: int) -> None:
    """On the cpu kernel every value of a sequence has the same bits alone and in a batch."""
    encoder = frozen(config, "cpu", dtype, seed)
    lengths = [config.min_steps + count for count in more]
    sequences = [draw_inputs(encoder, steps) for steps in lengths]
    names = config.output_names
    inputs = [torch.cat(own) for own in zip(*sequences, strict=True)]
    with torch.inference_mode():
        together = encoder(inputs, RaggedBatch(lengths), None, names)
    split = {name: parts(encoder, name, rows, lengths) for name, rows in together.items()}
    for index, own in enumerate(sequences):
        alone = whole(encoder, own, names)
        assert_same_bits({name: rows[index] for name, rows in split.items()}, alone)


@every_dtype
@examples(100)
@given(
    graphs(),
    st.lists(st.integers(0, 200) | st.sampled_from([63, 64]), min_size=1, max_size=2),
    st.lists(st.integers(1, 200), min_size=1, max_size=3),
    st.data(),
    seeds,
)
def test_slices(
    dtype: torch.dtype,
    config: ModelConfig,
    more: list[int],
    sizes: list[int],
    data: st.DataObject,
    seed: int,
) -> None:
    """On the cpu kernel every value has the same bits in slices and in one piece, whatever else is
    asked for."""
    encoder = frozen(config, "cpu", dtype, seed)
    sequences = [draw_inputs(encoder, config.min_steps + count) for count in more]
    sliceable = [name for name in config.output_names if config.unsliceable(name) is None]
    asked = st.frozensets(st.sampled_from(sliceable), min_size=1)
    wanted = [data.draw(asked) for _ in sequences]
    runs = [run_of(encoder, own, names) for own, names in zip(sequences, wanted, strict=True)]
    tokens = sum(run.tokens_left for run in runs)
    assert finish(runs, sizes) == tokens
    for run, own, names in zip(runs, sequences, wanted, strict=True):
        assert_same_bits(run.encodings(), whole(encoder, own, names))


cuts = st.tuples(st.integers(0, 60), st.integers(1, 20), st.just(0) | st.integers(1, 30))


def live_of(encoder: SequenceEncoder, cut: tuple[int, int, int]) -> Live:
    more, block, lookahead = cut
    return Live(draw_inputs(encoder, encoder.config.min_steps + more), block, lookahead)


@every_dtype
@examples(100)
@given(graphs(), st.lists(cuts, min_size=2, max_size=3), seeds)
def test_live_company(
    dtype: torch.dtype, config: ModelConfig, cuts: list[tuple[int, int, int]], seed: int
) -> None:
    """On the cpu kernel a live sequence's values have the same bits in company and alone."""
    encoder = frozen(config, "cpu", dtype, seed)
    names = [name for name in config.outputs if config.not_live(name) is None]
    sequences = [live_of(encoder, cut) for cut in cuts]
    for live, together in zip(sequences, encode_live(encoder, sequences, names), strict=True):
        (alone,) = encode_live(encoder, [live], names)
        assert_same_bits(together, alone)


@every_dtype
@examples(150)
@given(graphs(), cuts, seeds)
def test_exactness(
    dtype: torch.dtype, config: ModelConfig, cut: tuple[int, int, int], seed: int
) -> None:
    """Columns of a live sequence that are called exact have the bits of the whole one, on the cpu
    kernel."""
    encoder = frozen(config, "cpu", dtype, seed)
    names = [name for name in config.outputs if config.not_live(name) is None]
    live = live_of(encoder, cut)
    (actual,) = encode_live(encoder, [live], names)
    exact = whole(encoder, live.inputs, names)
    for name in names:
        columns = [slice(None)] * 2
        if config.outputs[name] in {lstm.name for lstm in config.lstms if lstm.bidirectional}:
            half = actual[name].shape[1] // 2
            columns = [slice(half), slice(half, None)]
        for start, stop, end in live.cuts():
            exactness = Exactness(config, [name], live.lookahead)
            are_exact = exactness.of(first=start == 0, reaches_end=end == live.steps)
            for own, is_exact in zip(columns, are_exact, strict=True):
                if is_exact:
                    place = (slice(start, stop), own)[: actual[name].dim()]
                    assert_same_bits({name: actual[name][place]}, {name: exact[name][place]})
