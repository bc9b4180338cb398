"""A `crf` layer gives the paths that the CRFs decode that people train."""

from __future__ import annotations

import copy
import itertools
import pickle
from collections.abc import Callable, Sequence
from typing import Any

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor

from bilstm_server.model import RaggedBatch
from bilstm_server.model.kernels import choose_kernel
from bilstm_server.model.layers.crf import Crf, CrfConfig
from bilstm_server.model.layers.values import EVERY_STEP, Grid, Thinning, Value
from tests.support.lstms import examples, seeds

pytestmark = pytest.mark.usefixtures("one_thread")

CPU = torch.device("cpu")
every_kernel = pytest.mark.parametrize("kernel", ["auto", "reference"])


def crf(tags: int, kernel: str | None = None, **fields: Any) -> Crf:
    """A layer of arbitrary scores, frozen if a kernel is named."""
    layer = CrfConfig.model_validate({"name": "crf"} | fields).build(Value(tags))
    for scores in layer.parameters():
        torch.nn.init.normal_(scores)
    if kernel:
        layer.eval().freeze(choose_kernel(kernel, CPU).kernel)
    return layer


def decode(layer: Crf, sequences: Sequence[Tensor]) -> list[tuple[list[int], float]]:
    """Each sequence's path and score, from one batch."""
    lengths = [len(emissions) for emissions in sequences]
    with torch.inference_mode():
        tags, scores = layer(torch.cat(list(sequences)), RaggedBatch(lengths))
    assert (tags.dtype, scores.shape) == (torch.int64, (len(lengths), 1))
    paths = [path.tolist() for path in torch.split(tags, lengths)]
    return list(zip(paths, scores.flatten().tolist(), strict=True))


def draw_sequences(tags: int, count: int, longest: int) -> list[Tensor]:
    lengths = torch.randint(1, longest + 1, (count,)).tolist()
    return [torch.randn(length, tags) for length in lengths]


# -- as their owners decode ----------------------------------------------------------------------


def decode_padded(layer: Crf, sequences: Sequence[Tensor]) -> list[tuple[list[int], float]]:
    """As pytorch-crf does: on a padded batch [T, B, C], where a mask keeps the scores of sequences
    that have ended."""
    emissions = torch.nn.utils.rnn.pad_sequence(list(sequences))
    lengths = torch.tensor([len(own) for own in sequences])
    mask = torch.arange(len(emissions))[:, None] < lengths
    assert layer.start_transitions is not None
    assert layer.end_transitions is not None
    score = layer.start_transitions + emissions[0]
    history = []
    for step in range(1, len(emissions)):
        following = score[:, :, None] + layer.transitions + emissions[step][:, None, :]
        best, origin = following.max(dim=1)
        score = torch.where(mask[step][:, None], best, score)
        history.append(origin)
    score = score + layer.end_transitions
    found = []
    for index, length in enumerate(lengths.tolist()):
        path = [int(score[index].argmax())]
        for origin in reversed(history[: length - 1]):
            path.append(int(origin[index, path[-1]]))
        found.append((path[::-1], float(score[index].max())))
    return found


def decode_with_tags(
    transitions: Tensor, emissions: Tensor, start: int, stop: int
) -> tuple[list[int], float]:
    """As PyTorch's tutorial does: of one sequence, with a matrix [to, from] that has the tags
    <START> and <STOP>."""
    variables = torch.full((len(transitions),), -10000.0)
    variables[start] = 0.0
    history = []
    for emission in emissions:
        best, origin = (variables + transitions).max(dim=1)
        variables = best + emission
        history.append(origin)
    terminal = variables + transitions[stop]
    tags = [int(terminal.argmax())]
    for origin in reversed(history):
        tags.append(int(origin[tags[-1]]))
    assert tags.pop() == start
    return tags[::-1], float(terminal.max())


@every_kernel
@examples(25)
@given(st.integers(1, 24), seeds)
@torch.no_grad()
def test_padded_batch(kernel: str, tags: int, seed: int) -> None:
    """Start, end and transition scores give the paths and scores that pytorch-crf's decoding
    gives."""
    torch.manual_seed(seed)
    layer = crf(tags, kernel)
    sequences = draw_sequences(tags, 5, 12)
    assert decode(layer, sequences) == decode_padded(layer, sequences)


@every_kernel
@examples(25)
@given(st.integers(3, 20), seeds)
@torch.no_grad()
def test_start_and_stop_tags(kernel: str, tags: int, seed: int) -> None:
    """<START> and <STOP> in the matrix give the paths and scores that the tutorial's decoding
    gives, which have neither."""
    torch.manual_seed(seed)
    start, stop = torch.randperm(tags)[:2].tolist()
    fields = {"start": False, "end": False, "start_tag": start, "stop_tag": stop}
    layer = crf(tags, **fields)
    layer.transitions[:, start] = layer.transitions[stop] = -10000.0
    layer.eval().freeze(choose_kernel(kernel, CPU).kernel)
    sequences = draw_sequences(tags, 4, 9)
    found = decode(layer, sequences)
    assert found == [decode_with_tags(layer.transitions.t(), own, start, stop) for own in sequences]
    assert not {start, stop} & {tag for path, _ in found for tag in path}


@torch.no_grad()
def test_no_ends() -> None:
    """Without start and end scores they are zero."""
    bare, layer = crf(5, start=False, end=False), crf(5)
    layer.transitions.copy_(bare.transitions)
    assert list(bare.state_dict()) == ["transitions"]
    for scores in (layer.start_transitions, layer.end_transitions):
        assert scores is not None
        scores.zero_()
    sequences = draw_sequences(5, 4, 9)
    assert decode(bare, sequences) == decode(layer, sequences)


# -- wherever it runs ----------------------------------------------------------------------------


@every_kernel
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16], ids=str)
@examples(10)
@given(st.integers(1, 20), st.lists(st.integers(1, 40), min_size=1, max_size=4), seeds)
def test_slices(kernel: str, dtype: torch.dtype, tags: int, parts: list[int], seed: int) -> None:
    """A sequence has the same path and score alone, in a batch, and where its steps come in
    slices; the score is of the model's type."""
    torch.manual_seed(seed)
    layer = crf(tags).to(dtype).eval()
    layer.freeze(choose_kernel(kernel, CPU).kernel)
    steps = sum(parts)
    emissions = torch.randn(steps, tags, dtype=dtype)
    with torch.inference_mode():
        alone = layer(emissions, RaggedBatch([steps]))
        others = torch.randn(7, tags, dtype=dtype)
        together = layer(torch.cat([others, emissions]), RaggedBatch([7, steps]))
        run = layer.sliced(steps, dtype)
        start = 0
        for part in torch.split(emissions, parts):
            run.add(start, part)
            start += len(part)
        sliced = run.result()
    assert alone[1].dtype == dtype
    for tag_rows, score in (sliced, (together[0][7:], together[1][1:])):
        assert torch.equal(tag_rows, alone[0])
        assert torch.equal(score, alone[1])


@pytest.mark.parametrize("duplicate", [copy.deepcopy, lambda m: pickle.loads(pickle.dumps(m))])
def test_copies(duplicate: Callable[[Crf], Crf]) -> None:
    """A copy of a frozen layer finds the same paths."""
    layer, sequences = crf(6, "auto"), draw_sequences(6, 3, 9)
    assert decode(duplicate(layer), sequences) == decode(layer, sequences)


def test_loading_thaws() -> None:
    """A frozen layer that loads other scores finds their paths."""
    layer, other = crf(6, "auto"), crf(6)
    sequences = draw_sequences(6, 3, 9)
    assert decode(layer, sequences) != decode(other, sequences)
    layer.load_state_dict(other.state_dict())
    assert decode(layer, sequences) == decode(other, sequences)


def test_gradient() -> None:
    """The gradient of a path's score reaches the transitions: each as often as the path has it."""
    layer = crf(4)
    tags, score = layer(torch.randn(9, 4), RaggedBatch([9]))
    score.sum().backward()
    taken = torch.zeros(4, 4)
    for before, after in itertools.pairwise(tags.tolist()):
        taken[before, after] += 1
    assert layer.transitions.grad is not None
    assert torch.equal(layer.transitions.grad, taken)


# -- what a config says --------------------------------------------------------------------------


def test_gives() -> None:
    """It gives a tag for each row that it reads, and a score for each sequence."""
    grid = Grid((Thinning(-1, 2),))
    config = CrfConfig.model_validate({"name": "crf"})
    given_values = config.gives(Value(7, grid=grid))
    assert given_values == {
        "": Value(1, ids=7, grid=grid),
        "score": Value(1, per_step=False, grid=EVERY_STEP),
    }


@pytest.mark.parametrize(
    ("fields", "value", "reason"),
    [
        ({"start_tag": 2}, Value(5), "start_tag needs start to be false"),
        ({"stop_tag": 2}, Value(5), "stop_tag needs end to be false"),
        ({"start": False, "start_tag": 5}, Value(5), "start_tag: 5 is none of the tags 0 to 4"),
        ({"end": False, "stop_tag": 9}, Value(5), "stop_tag: 9 is none of the tags 0 to 4"),
        ({"stop_tag": -1}, Value(5), "greater than or equal to 0"),
        ({}, Value(40000), "of 32768 tags at most, got 40000"),
        ({}, Value(1, ids=5), "reads floats, got ids below 5"),
        ({}, Value(5, per_step=False), "reads a row for each step"),
    ],
)
def test_refused(fields: dict[str, Any], value: Value, reason: str) -> None:
    """A config that means nothing is refused in words that name the field."""
    with pytest.raises(ValueError, match=reason):
        CrfConfig.model_validate({"name": "crf"} | fields).gives(value)
