"""Sequences of a batch, and the two directions, do not depend on each other."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from bilstm_server.model.bilstm import BiLSTM
from bilstm_server.model.kernels import (
    DirectionInput,
    Kernel,
    RaggedBatch,
)
from tests.model.operator.drawing import (
    LENGTHS,
    TOLERANCE,
    every_dtype,
    every_kernel,
    ragged_lengths,
)
from tests.support.lstms import (
    architectures,
    assert_close,
    assert_within,
    by_sequence,
    draw_states,
    examples,
    judged,
    pair,
    seeds,
)

pytestmark = pytest.mark.usefixtures("one_thread")


# -- neighbours ----------------------------------------------------------------------------------


@every_kernel
@pytest.mark.parametrize(("dtype", "tolerance"), [(torch.float64, 1e-13), (torch.float32, 2e-6)])
@examples(25)
@given(architectures(), ragged_lengths, seeds)
def test_alone_or_in_a_batch(
    dtype: torch.dtype,
    tolerance: float,
    kernel: Kernel,
    architecture: dict[str, Any],
    lengths: list[int],
    seed: int,
) -> None:
    """A sequence has the same results alone as in a batch."""
    _, ours = pair(dtype, seed, **architecture)
    ours.freeze(kernel)
    x = torch.randn(sum(lengths), architecture["input_size"], dtype=dtype)
    h_0, c_0 = draw_states(ours, len(lengths))
    y, (h_n, c_n) = ours.forward_ragged(x, lengths, (h_0, c_0))
    rows = zip(torch.split(x, lengths), torch.split(y, lengths), strict=True)
    for index, (own_x, own_y) in enumerate(rows):
        one = slice(index, index + 1)
        alone = ours.forward_ragged(own_x, [len(own_x)], (h_0[:, one], c_0[:, one]))
        assert_close((own_y, (h_n[:, one], c_n[:, one])), alone, tolerance)


@every_kernel
@pytest.mark.parametrize("poison", [float("nan"), float("inf")])
@examples(25)
@given(architectures(), ragged_lengths.filter(lambda n: len(n) > 1), st.data(), seeds)
def test_neighbours_of_a_poisoned_sequence(
    poison: float,
    kernel: Kernel,
    architecture: dict[str, Any],
    lengths: list[int],
    data: st.DataObject,
    seed: int,
) -> None:
    """A NaN or inf in one sequence changes no bit of another's results; its own are nn.LSTM's."""
    judge, ours = pair(torch.float32, seed, **architecture)
    ours.freeze(kernel)
    sick = data.draw(st.integers(0, len(lengths) - 1))
    step = data.draw(st.integers(0, lengths[sick] - 1))
    x = torch.randn(sum(lengths), architecture["input_size"])
    hx = draw_states(ours, len(lengths))
    clean = by_sequence(ours.forward_ragged(x, lengths, hx), lengths)
    torch.split(x, lengths)[sick][step] = poison
    actual = by_sequence(ours.forward_ragged(x, lengths, hx), lengths)
    exact = judged(judge.double(), x.double(), lengths, (hx[0].double(), hx[1].double()))
    expected = by_sequence(exact, lengths)[sick]
    assert_close(actual[sick], expected, 1e-5, equal_nan=True, check_dtype=False)
    for index in range(len(lengths)):
        same = all(map(torch.equal, actual[index], clean[index]))
        assert same is (index != sick)


@every_kernel
@every_dtype
@pytest.mark.parametrize("step", [0, 2, 6])
def test_nan_shows(step: int, dtype: torch.dtype, kernel: Kernel) -> None:
    """A NaN shows in forward columns from its step on, in backward ones up to it, and in all its
    final states."""
    _, ours = pair(dtype)
    ours.freeze(kernel)
    x = torch.randn(sum(LENGTHS), 3, dtype=dtype)
    torch.split(x, LENGTHS)[2][step, 1] = float("nan")
    y, h_n, c_n = by_sequence(ours.forward_ragged(x, LENGTHS), LENGTHS)[2]
    forward, backward = y.isnan().chunk(2, dim=1)
    assert forward[step:].all()
    assert not forward[:step].any()
    assert backward[: step + 1].all()
    assert not backward[step + 1 :].any()
    assert h_n.isnan().all()
    assert c_n.isnan().all()


# -- each direction over rows of its own ---------------------------------------------------------


def draw_direction(lstm: BiLSTM, lengths: list[int]) -> DirectionInput:
    dtype = lstm.weight_ih_l0.dtype
    x = torch.randn(sum(lengths), lstm.input_size, dtype=dtype)
    h_0, c_0 = draw_states(lstm, len(lengths))
    return DirectionInput(x, RaggedBatch(lengths), h_0[0], c_0[0])


@every_kernel
@every_dtype
@examples(25)
@given(architectures(), st.lists(ragged_lengths | st.just([]), min_size=2, max_size=2), seeds)
def test_per_direction(
    kernel: Kernel,
    dtype: torch.dtype,
    architecture: dict[str, Any],
    lengths: list[list[int]],
    seed: int,
) -> None:
    """A direction over rows of its own gives what nn.LSTM gives of them in its columns; one that
    has no rows gives None."""
    judge, ours = pair(dtype, seed, **architecture | {"num_layers": 1})
    [layer] = ours.freeze(kernel).layers()
    directions, width = ours.num_directions, ours.output_size
    parts = [draw_direction(ours, own) if own else None for own in lengths[:directions]]
    for k, (part, result) in enumerate(zip(parts, layer.per_direction(parts), strict=True)):
        if part is None:
            assert result is None
            continue
        hx = (torch.stack([part.h_0] * directions), torch.stack([part.c_0] * directions))
        y, (h_n, c_n) = judged(judge, part.x, lengths[k], hx)
        expected = (y[:, k * width : (k + 1) * width], h_n[k], c_n[k])
        assert_close(result, expected, TOLERANCE[dtype])


@every_kernel
@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16], ids=str)
def test_per_direction_in_half_precision(kernel: Kernel, dtype: torch.dtype) -> None:
    """In half precision states come and go in float32, outputs in the weights' type."""
    judge, ours = pair(dtype, input_size=20, hidden_size=24, proj_size=16)
    [layer] = ours.freeze(kernel).layers()
    part = draw_direction(ours, [9, 4, 7])
    part = part._replace(h_0=part.h_0.float(), c_0=part.c_0.float())
    hx = (torch.stack([part.h_0] * 2).double(), torch.stack([part.c_0] * 2).double())
    y, (h_n, c_n) = judged(judge.double(), part.x.double(), [9, 4, 7], hx)
    for k, result in enumerate(layer.per_direction([part, part])):
        assert result is not None
        assert [tensor.dtype for tensor in result] == [dtype, torch.float32, torch.float32]
        expected = (y[:, k * 16 : (k + 1) * 16], h_n[k], c_n[k])
        for one, other in zip(result, expected, strict=True):
            assert_within(1e-2, one, other)
