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
from tests.model.graphs import graphs
from tests.model.incremental.encoders import draw_inputs, frozen
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
    asked = st.frozensets(st.sampled_from(config.output_names), min_size=1)
    wanted = [data.draw(asked) for _ in sequences]
    runs = [run_of(encoder, own, names) for own, names in zip(sequences, wanted, strict=True)]
    tokens = sum(run.tokens_left for run in runs)
    assert finish(runs, sizes) == tokens
    for run, own, names in zip(runs, sequences, wanted, strict=True):
        assert_same_bits(run.encodings(), whole(encoder, own, names))
