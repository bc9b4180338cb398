"""Every form of input that nn.LSTM takes gives what it gives there, or is refused in words."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor
from torch.nn.utils.rnn import PackedSequence

from bilstm_server.model.bilstm import BiLSTM
from bilstm_server.model.kernels import (
    Kernel,
)
from tests.model.operator.drawing import FORMS, draw_input, every_kernel, ragged_lengths
from tests.support.lstms import (
    architectures,
    assert_close,
    draw_states,
    examples,
    pair,
    seeds,
)

pytestmark = pytest.mark.usefixtures("one_thread")


@every_kernel
@pytest.mark.parametrize("form", FORMS)
@examples(25)
@given(architectures(), ragged_lengths, st.booleans(), st.booleans(), seeds)
def test_forms(
    form: str,
    kernel: Kernel,
    architecture: dict[str, Any],
    lengths: list[int],
    stateful: bool,
    frozen: bool,
    seed: int,
) -> None:
    """Every input form, with and without hx, gives nn.LSTM's output, in its form, and states, all
    of them contiguous."""
    judge, ours = pair(seed=seed, batch_first=form == "batch first", **architecture)
    x = draw_input(form, lengths, architecture["input_size"])
    hx = draw_states(ours, len(lengths)) if stateful else None
    if hx and form == "unbatched":
        hx = (hx[0][:, 0], hx[1][:, 0])
    if frozen:
        ours.freeze(kernel)
    expected, expected_states = judge(x, hx)
    actual, actual_states = ours(x, hx)
    assert_close(actual_states, expected_states, 1e-10)
    assert all(state.is_contiguous() for state in actual_states)
    if isinstance(x, Tensor):
        assert_close(actual, expected, 1e-10)
        assert actual.is_contiguous()
        return
    assert isinstance(actual, PackedSequence)
    assert actual.data.is_contiguous()
    assert_close(actual.data, expected.data, 1e-10)
    for field in ("batch_sizes", "sorted_indices", "unsorted_indices"):
        one, other = getattr(actual, field), getattr(expected, field)
        assert (one is None and other is None) or torch.equal(one, other)


@pytest.mark.parametrize("batch_first", [False, True])
@pytest.mark.parametrize("stateful", [False, True])
def test_empty_batch(stateful: bool, batch_first: bool) -> None:
    """A batch of no sequence gives nn.LSTM's empty results, and gradients of zero."""
    judge, ours = pair(num_layers=2, proj_size=2, batch_first=batch_first)
    shape = (0, 5, 3) if batch_first else (5, 0, 3)
    runs = []
    for lstm in (judge, ours):
        x = torch.zeros(shape, dtype=torch.float64).requires_grad_()
        hx = draw_states(ours, 0) if stateful else None
        y, (h_n, c_n) = lstm(x, hx)
        assert y.is_contiguous()
        y.sum().backward()
        runs.append((y, h_n, c_n, x.grad, [p.grad for p in lstm.parameters()]))
    assert_close(runs[1], runs[0], 0)
    with torch.inference_mode():
        assert_close(ours.freeze()(torch.zeros(shape, dtype=torch.float64))[0], runs[0][0], 0)


def test_states_of_an_empty_batch() -> None:
    """Initial states of another batch than the empty one are refused."""
    with pytest.raises(ValueError, match=r"h_0 must be \[2, 0, 4\], got \[2, 1, 4\]"):
        BiLSTM(3, 4)(torch.zeros(5, 0, 3), (torch.zeros(2, 1, 4), torch.zeros(2, 1, 4)))


@pytest.mark.parametrize(
    ("shape", "reason"),
    [
        ((3,), "input must be 2-D or 3-D"),
        ((2, 2, 2, 3), "input must be 2-D or 3-D"),
        ((5, 2, 4), "x must be"),
        ((5, 2), "x must be"),
        ((0, 3), "input must have at least one step"),
        ((0, 2, 3), "input must have at least one step"),
        ((0, 0, 3), "input must have at least one step"),
    ],
)
def test_invalid_input(shape: tuple[int, ...], reason: str) -> None:
    """An input of another rank or width, or of no step, raises a ValueError that says so."""
    with pytest.raises(ValueError, match=reason):
        BiLSTM(3, 4)(torch.zeros(shape))


@pytest.mark.parametrize(
    ("shape", "state_shape", "reason"),
    [
        ((5, 3), (2, 1, 4), "hx must be unbatched"),
        ((5, 2, 3), (2, 4), r"h_0 must be \[2, 2, 4\], got \[2, 4\]"),
        ((5, 2, 3), (2, 3, 4), r"h_0 must be \[2, 2, 4\], got \[2, 3, 4\]"),
    ],
)
def test_invalid_states(shape: tuple[int, ...], state_shape: tuple[int, ...], reason: str) -> None:
    """Initial states of another rank or batch than the input raise a ValueError that says so."""
    hx = (torch.zeros(state_shape), torch.zeros(state_shape))
    with pytest.raises(ValueError, match=reason):
        BiLSTM(3, 4)(torch.zeros(shape), hx)


def test_flatten_parameters() -> None:
    """flatten_parameters, which code for nn.LSTM calls, is there and changes nothing."""
    judge, ours = pair()
    ours.flatten_parameters()
    assert_close(dict(ours.state_dict()), dict(judge.state_dict()), 0)
