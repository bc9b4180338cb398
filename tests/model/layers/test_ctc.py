"""A `ctc` layer gives each sequence's classes, without repeats and blanks."""

from __future__ import annotations

import itertools

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor

from bilstm_server.model import RaggedBatch
from bilstm_server.model.layers.ctc import Ctc, CtcConfig
from bilstm_server.model.layers.values import Value
from tests.support.lstms import examples, seeds

pytestmark = pytest.mark.usefixtures("one_thread")

parts = st.lists(st.integers(1, 12), min_size=1, max_size=5)


def draw(classes: int, parts: list[int], seed: int) -> tuple[Ctc, tuple[Tensor, ...]]:
    """A layer, and sequences of so many steps that some have the same best class in a row."""
    torch.manual_seed(seed)
    blank = int(torch.randint(classes, ()))
    layer = CtcConfig.model_validate({"name": "ctc", "blank": blank}).build(Value(classes))
    return layer, torch.split(torch.randn(sum(parts), classes), parts)


@examples(60)
@given(st.integers(1, 4), parts, seeds)
def test_greedy(classes: int, parts: list[int], seed: int) -> None:
    """Of each run of equal best classes one is given, at the run's first step, unless it is the
    blank: in every sequence of a batch."""
    layer, sequences = draw(classes, parts, seed)
    (found,) = layer(torch.cat(sequences), RaggedBatch(parts))
    for own, scores in zip(torch.split(found, parts), sequences, strict=True):
        expected: list[int] = []
        for best, run in itertools.groupby(scores.argmax(dim=1).tolist()):
            said = -1 if best == layer.blank else best
            expected += [said] + [-1] * (len(list(run)) - 1)
        assert own.tolist() == expected


@examples(40)
@given(st.integers(1, 4), parts, seeds)
def test_slices(classes: int, parts: list[int], seed: int) -> None:
    """A sequence has the same classes where its steps come in slices."""
    layer, slices = draw(classes, parts, seed)
    run = layer.sliced(sum(parts), torch.float32)
    for index, rows in enumerate(slices):
        run.add(sum(parts[:index]), rows)
    (expected,) = layer(torch.cat(slices), RaggedBatch([sum(parts)]))
    assert torch.equal(run.result()[0], expected)


def test_config() -> None:
    """It gives ids of which some rows are left out; the blank must be one of the classes."""
    config = CtcConfig.model_validate({"name": "ctc", "blank": 4})
    assert config.gives(Value(5)) == {"": Value(1, ids=5, sparse=True)}
    with pytest.raises(ValueError, match="blank: 4 is none of the classes 0 to 3"):
        config.gives(Value(4))
