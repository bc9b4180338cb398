"""Ragged batches give nn.LSTM's outputs, states and gradients, in every type, with every kernel."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any
from unittest import mock

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor, nn

from bilstm_server.model.bilstm import BiLSTM, States
from bilstm_server.model.kernels import (
    Kernel,
    RaggedBatch,
    reference,
)
from tests.model.operator.drawing import (
    LENGTHS,
    TOLERANCE,
    every_dtype,
    every_kernel,
    gradients,
    named_parameters,
    ragged_lengths,
)
from tests.support.lstms import (
    architectures,
    assert_close,
    assert_near,
    assert_within,
    draw_states,
    examples,
    judged,
    pair,
    seeds,
)

pytestmark = pytest.mark.usefixtures("one_thread")

# For half precision, whose criterion is a norm: wide enough that roundings average. The tests
# draw states too: of zero states, layers without a bias make ever smaller numbers, near to none.
wide_architectures = architectures(smallest=8, largest=32)


# -- ragged batches ------------------------------------------------------------------------------


@every_dtype
@examples(25)
@given(architectures(), ragged_lengths, st.booleans(), seeds)
def test_ragged(
    dtype: torch.dtype,
    architecture: dict[str, Any],
    lengths: list[int],
    stateful: bool,
    seed: int,
) -> None:
    """Outputs, final states and all gradients are nn.LSTM's, in the caller's order."""
    judge, ours = pair(dtype, seed, **architecture)
    tolerance = TOLERANCE[dtype]
    x = torch.randn(sum(lengths), architecture["input_size"], dtype=dtype).requires_grad_()
    hx = draw_states(ours, len(lengths)) if stateful else None
    inputs = [x] if hx is None else [x, *(state.requires_grad_() for state in hx)]
    expected, actual = judged(judge, x, lengths, hx), ours.forward_ragged(x, lengths, hx)
    assert_close(actual, expected, tolerance)
    (names, theirs), (own_names, own) = named_parameters(judge), named_parameters(ours)
    assert names == own_names
    assert_close(gradients(actual, inputs + own), gradients(expected, inputs + theirs), tolerance)


@every_kernel
@every_dtype
@examples(40)
@given(architectures(), ragged_lengths, st.booleans(), seeds)
def test_frozen_ragged(
    dtype: torch.dtype,
    kernel: Kernel,
    architecture: dict[str, Any],
    lengths: list[int],
    stateful: bool,
    seed: int,
) -> None:
    """A kernel's outputs and final states are nn.LSTM's, and the unfrozen module's."""
    judge, ours = pair(dtype, seed, **architecture)
    x = torch.randn(sum(lengths), architecture["input_size"], dtype=dtype)
    hx = draw_states(ours, len(lengths)) if stateful else None
    with torch.inference_mode():
        unfrozen = ours.forward_ragged(x, lengths, hx)
        frozen = ours.freeze(kernel).forward_ragged(x, lengths, hx)
        assert_close(frozen, judged(judge, x, lengths, hx), TOLERANCE[dtype])
        assert_close(frozen, unfrozen, TOLERANCE[dtype])


# On a CPU with products of halves, and on one without: the machine of this test is only one.
every_half = pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16], ids=str)
every_cpu = pytest.mark.parametrize("has_products", [True, False])


@every_half
@every_cpu
@examples(25)
@given(wide_architectures, ragged_lengths, seeds)
def test_half_precision(
    has_products: bool,
    dtype: torch.dtype,
    architecture: dict[str, Any],
    lengths: list[int],
    seed: int,
) -> None:
    """In half precision, outputs and states are within 1e-2, and all gradients within 3e-2, of
    float64's of the same weights and inputs."""
    judge, ours = pair(dtype, seed, **architecture)
    x = torch.randn(sum(lengths), architecture["input_size"], dtype=dtype)
    half = [t.requires_grad_() for t in (x, *draw_states(ours, len(lengths)))]
    exact = [t.detach().double().requires_grad_() for t in half]
    with mock.patch.object(reference, "_has_products", return_value=has_products):
        actual = ours.forward_ragged(half[0], lengths, (half[1], half[2]))
    expected = judged(judge.double(), exact[0], lengths, (exact[1], exact[2]))
    assert_near(actual, expected, dtype)
    names, parameters = named_parameters(ours)
    own = gradients(actual, [*half, *parameters])
    theirs = gradients(expected, [*exact, *judge.parameters()])
    for name, one, other in zip(["x", "h_0", "c_0", *names], own, theirs, strict=True):
        assert one.dtype == dtype, name
        assert_within(3e-2, one, other, name)


@every_kernel
@every_half
@every_cpu
@examples(25)
@given(wide_architectures, st.lists(st.integers(1, 40), min_size=1, max_size=6), seeds)
def test_frozen_half_precision(
    has_products: bool,
    dtype: torch.dtype,
    kernel: Kernel,
    architecture: dict[str, Any],
    lengths: list[int],
    seed: int,
) -> None:
    """In half precision, a kernel's outputs and states are within 1e-2 of float64's of the same
    weights and inputs."""
    judge, ours = pair(dtype, seed, **architecture)
    x = torch.randn(sum(lengths), architecture["input_size"], dtype=dtype)
    hx = draw_states(ours, len(lengths))
    with torch.inference_mode():
        with mock.patch.object(reference, "_has_products", return_value=has_products):
            actual = ours.freeze(kernel).forward_ragged(x, lengths, hx)
        exact = judged(judge.double(), x.double(), lengths, (hx[0].double(), hx[1].double()))
        assert_near(actual, exact, dtype)


@every_kernel
def test_bfloat16_cell(kernel: Kernel) -> None:
    """In bfloat16, a cell still adds up steps far smaller than its own last digit."""
    judge, ours = pair(torch.bfloat16)
    with torch.no_grad():
        for name, parameter in ours.named_parameters():
            # Gates i, f, g, o: all is kept, and each step adds 0.0015.
            gates = [20.0, 20.0, 0.0015, 0.0] if name.startswith("bias_ih") else [0.0] * 4
            bias = torch.tensor(gates).repeat_interleave(4)
            parameter.copy_(bias if parameter.dim() == 1 else torch.zeros_like(parameter))
    judge.load_state_dict(ours.state_dict())
    x = torch.zeros(512, 3, dtype=torch.bfloat16)
    _, (_, c_n) = ours.freeze(kernel).forward_ragged(x, [512])
    _, (_, expected) = judged(judge.double(), x.double(), [512])
    assert_within(1e-2, c_n, expected)


@pytest.mark.parametrize("proj_size", [pytest.param(0, marks=pytest.mark.slow), 2])
def test_gradcheck(proj_size: int) -> None:
    """The derivatives are those that finite differences give."""
    _, ours = pair(input_size=2, hidden_size=3, num_layers=2, proj_size=proj_size)
    names, parameters = named_parameters(ours)
    x = torch.randn(6, 2, dtype=torch.float64).requires_grad_()
    h_0, c_0 = draw_states(ours, 3)

    def results(x: Tensor, h_0: Tensor, c_0: Tensor, *weights: Tensor) -> tuple[Tensor, ...]:
        named = dict(zip((f"lstm.{name}" for name in names), weights, strict=True))
        arguments = (x, [2, 1, 3], (h_0, c_0))
        y, states = torch.func.functional_call(_Ragged(ours), named, arguments)
        return (y, *states)

    inputs = (x, h_0.requires_grad_(), c_0.requires_grad_(), *parameters)
    assert torch.autograd.gradcheck(results, inputs)


class _Ragged(nn.Module):
    """`forward_ragged` where a module is called."""

    def __init__(self, lstm: BiLSTM):
        super().__init__()
        self.lstm = lstm

    def forward(self, *arguments: Any) -> tuple[Tensor, States]:
        return self.lstm.forward_ragged(*arguments)


@pytest.mark.parametrize(
    "form",
    [list, tuple, np.array, torch.tensor, RaggedBatch, lambda n: np.array(n, np.int32)],
    ids=["list", "tuple", "ndarray", "Tensor", "RaggedBatch", "int32"],
)
def test_lengths_forms(form: Callable[[list[int]], Any]) -> None:
    """Lengths may be a sequence, an ndarray, a Tensor or the RaggedBatch made of them."""
    judge, ours = pair()
    x = torch.randn(sum(LENGTHS), 3, dtype=torch.float64)
    assert_close(ours.forward_ragged(x, form(LENGTHS)), judged(judge, x, LENGTHS), 1e-10)


@pytest.mark.parametrize("form", [list, np.array, torch.tensor], ids=["list", "ndarray", "Tensor"])
@pytest.mark.parametrize(
    ("lengths", "reason"),
    [
        ([2, 2], "lengths add up to 4, but x has 5 rows"),
        ([2, 4], "lengths add up to 6, but x has 5 rows"),
        ([5, 0], "at least one step"),
        ([6, -1], "at least one step"),
        ([], "at least one sequence"),
        ([[2, 3]], "lengths must be a list"),
        ([2.0, 3.0], "lengths must be integers, got float"),
    ],
)
def test_invalid_lengths(form: Callable[[list[Any]], Any], lengths: list[Any], reason: str) -> None:
    """Lengths that are no partition of x's rows raise a ValueError that says why."""
    with pytest.raises(ValueError, match=reason):
        BiLSTM(3, 4).forward_ragged(torch.zeros(5, 3), form(lengths))


@pytest.mark.parametrize("shape", [(5, 4), (5, 2), (5,), (1, 5, 3)])
def test_invalid_rows(shape: tuple[int, ...]) -> None:
    """Rows of another width or rank raise a ValueError that names x and input_size."""
    with pytest.raises(ValueError, match=r"x must be \[N, 3\] \(input_size\)"):
        BiLSTM(3, 4).forward_ragged(torch.zeros(shape), [2, 3])


@pytest.mark.parametrize(
    ("h_shape", "c_shape", "name"),
    [
        ((4, 2, 4), (4, 2, 4), r"h_0 must be \[4, 2, 3\]"),  # H where P is due
        ((4, 2, 3), (4, 2, 3), r"c_0 must be \[4, 2, 4\]"),
        ((2, 2, 3), (4, 2, 4), "h_0"),
        ((4, 2, 3), (4, 1, 4), "c_0"),
        ((4, 3), (4, 4), "h_0"),
    ],
)
def test_invalid_ragged_states(
    h_shape: tuple[int, ...], c_shape: tuple[int, ...], name: str
) -> None:
    """Initial states of a wrong shape raise a ValueError that names the state and its shape."""
    lstm = BiLSTM(3, 4, num_layers=2, proj_size=3)
    with pytest.raises(ValueError, match=name):
        lstm.forward_ragged(torch.zeros(5, 3), [2, 3], (torch.zeros(h_shape), torch.zeros(c_shape)))


# -- the order of steps --------------------------------------------------------------------------


@examples(100)
@given(st.lists(st.integers(1, 9), min_size=1, max_size=8))
def test_ragged_batch(lengths: list[int]) -> None:
    """RaggedBatch walks each sequence from its first or last step, the live ones a prefix."""
    batch = RaggedBatch(lengths)
    assert len(batch) == len(lengths)
    assert batch.lengths.tolist() == lengths
    assert batch.steps == sum(lengths)
    order = batch.order.tolist()
    assert order == sorted(range(len(lengths)), key=lambda index: -lengths[index])
    assert [order[rank] for rank in batch.rank.tolist()] == list(range(len(lengths)))
    counts = batch.batch_sizes
    assert counts == [sum(n > step for n in lengths) for step in range(max(lengths))]
    assert counts == sorted(counts, reverse=True)
    first = [sum(lengths[:index]) for index in range(len(lengths))]
    forward, backward = batch.forward_rows.tolist(), batch.backward_rows.tolist()
    assert sorted(forward) == sorted(backward) == list(range(batch.steps))
    for step, live in enumerate(counts):
        start = sum(counts[:step])
        for column, index in enumerate(order[:live]):
            assert forward[start + column] == first[index] + step
            assert backward[start + column] == first[index] + lengths[index] - 1 - step


@pytest.mark.parametrize("lengths", [[], [[1]], [0], [3, -1]])
def test_invalid_ragged_batch(lengths: list[Any]) -> None:
    """A batch of no sequence, or with one of no step, raises a ValueError."""
    with pytest.raises(ValueError, match="at least one"):
        RaggedBatch(lengths)
