"""The operator, judged by torch.nn.LSTM.

Owns every claim about `BiLSTM`, the kernels' numbers and `RaggedBatch`. Every kernel that
the machine has is held to the same claims. What an encoder or a server makes of it is not here.
"""

from __future__ import annotations

import ast
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any
from unittest import mock

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from lstms import (
    architectures,
    assert_close,
    assert_near,
    assert_within,
    by_sequence,
    draw_states,
    examples,
    judged,
    pair,
    seeds,
)
from torch import Tensor, nn
from torch.nn.utils.rnn import PackedSequence, pack_sequence

import bilstm_server.model
from bilstm_server.model.bilstm import BiLSTM, States
from bilstm_server.model.kernels import (
    NAMES,
    DirectionInput,
    Kernel,
    KernelUnavailable,
    RaggedBatch,
    choose_kernel,
    reference,
)

TOLERANCE = {torch.float64: 1e-10, torch.float32: 1e-5}
FORMS = ("time first", "batch first", "unbatched", "packed sorted", "packed unsorted")
LENGTHS = [5, 1, 7, 3, 7]

pytestmark = pytest.mark.usefixtures("one_thread")

# -- what the tests draw ----------------------------------------------------------------------


def kernel_or_skip(name: str) -> Any:
    try:
        return pytest.param(choose_kernel(name, torch.device("cpu")).kernel, id=name)
    except KernelUnavailable as error:
        return pytest.param(None, id=name, marks=pytest.mark.skip(str(error)))


every_kernel = pytest.mark.parametrize("kernel", [kernel_or_skip(name) for name in NAMES])
every_dtype = pytest.mark.parametrize("dtype", TOLERANCE, ids=str)

ragged_lengths = st.lists(st.integers(1, 7), min_size=1, max_size=6)


# For half precision, whose criterion is a norm: wide enough that roundings average. The tests
# draw states too: of zero states, layers without a bias make ever smaller numbers, near to none.
wide_architectures = architectures(smallest=8, largest=32)


def draw_input(form: str, lengths: list[int], width: int) -> Tensor | PackedSequence:
    """`lengths` count for the packed forms; the others take the number and the first of them."""
    if form == "unbatched":
        return torch.randn(lengths[0], width, dtype=torch.float64)
    if form == "time first":
        return torch.randn(lengths[0], len(lengths), width, dtype=torch.float64)
    if form == "batch first":
        return torch.randn(len(lengths), lengths[0], width, dtype=torch.float64)
    if form == "packed sorted":
        lengths = sorted(lengths, reverse=True)
    sequences = [torch.randn(length, width, dtype=torch.float64) for length in lengths]
    return pack_sequence(sequences, enforce_sorted=form == "packed sorted")


def gradients(results: tuple[Tensor, States], leaves: Sequence[Tensor]) -> tuple[Tensor, ...]:
    """Of a loss in which every number of y, h_n and c_n counts, and differently.

    All of them count positively: y's and h_n's share of a gradient never cancel each other.
    """
    y, (h_n, c_n) = results
    loss = torch.zeros((), dtype=torch.float64)
    for t in (y, h_n, c_n):
        probe = 2 + torch.arange(t.numel(), dtype=torch.float64).cos().reshape(t.shape)
        loss = loss + (t.double() * probe).sum()
    return torch.autograd.grad(loss, list(leaves))


def named_parameters(lstm: nn.LSTM | BiLSTM) -> tuple[list[str], list[Tensor]]:
    return [n for n, _ in lstm.named_parameters()], [p for _, p in lstm.named_parameters()]


# -- construction -----------------------------------------------------------------------------


@examples(40)
@given(architectures(), st.booleans(), st.sampled_from([0.0, 0.3]), seeds)
def test_init(architecture: dict[str, Any], batch_first: bool, dropout: float, seed: int) -> None:
    """Arguments, parameter names and initial values are nn.LSTM's, given the same seed."""
    if architecture["num_layers"] == 1:
        dropout = 0.0
    arguments = architecture | {"batch_first": batch_first, "dropout": dropout}
    torch.manual_seed(seed)
    expected = nn.LSTM(**arguments)
    torch.manual_seed(seed)
    actual = BiLSTM(**arguments)
    for name, value in arguments.items():
        assert getattr(actual, name) == getattr(expected, name) == value
    assert list(actual.state_dict()) == list(expected.state_dict())
    assert_close(dict(actual.state_dict()), dict(expected.state_dict()), 0)


def test_positional_arguments() -> None:
    """The arguments have nn.LSTM's order and defaults, but for bidirectional, which is True."""
    lstm = BiLSTM(3, 4, 2, False, True, 0.5, False, 2, "meta", torch.float16)
    assert lstm.extra_repr() == (
        "3, 4, num_layers=2, bias=False, batch_first=True, dropout=0.5, bidirectional=False, "
        "proj_size=2"
    )
    assert lstm.weight_hr_l1.shape == (2, 4)
    assert lstm.weight_hr_l1.device.type == "meta"
    assert lstm.weight_hr_l1.dtype == torch.float16
    default, judge = BiLSTM(3, 4), nn.LSTM(3, 4, bidirectional=True)
    assert list(default.state_dict()) == list(judge.state_dict())
    assert default.extra_repr() == "3, 4"
    for name in ("num_layers", "bias", "batch_first", "dropout", "bidirectional", "proj_size"):
        assert getattr(default, name) == getattr(judge, name)


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("input_size", 0),
        ("input_size", -1),
        ("hidden_size", 0),
        ("num_layers", 0),
        ("num_layers", -2),
        ("proj_size", -1),
        ("proj_size", 4),
        ("dropout", -0.1),
        ("dropout", 1.1),
        ("dropout", float("nan")),
        ("dropout", True),
    ],
)
def test_invalid_arguments(name: str, value: float) -> None:
    """An argument outside its range raises a ValueError that names it."""
    arguments: dict[str, Any] = {"input_size": 3, "hidden_size": 4, "num_layers": 2} | {name: value}
    with pytest.raises(ValueError, match=name):
        BiLSTM(**arguments)


def test_dropout_without_effect() -> None:
    """Dropout with a single layer warns, as nn.LSTM's does, that it does nothing."""
    with pytest.warns(UserWarning, match="dropout"):
        BiLSTM(3, 4, dropout=0.5)


@examples(25)
@given(architectures())
def test_all_weights(architecture: dict[str, Any]) -> None:
    """all_weights lists the parameters themselves, by layer and direction as nn.LSTM does."""
    theirs, ours = nn.LSTM(**architecture), BiLSTM(**architecture)
    ours.load_state_dict(theirs.state_dict())
    assert_close(ours.all_weights, theirs.all_weights, 0)
    own = {id(parameter) for parameter in ours.parameters()}
    assert {id(weight) for weights in ours.all_weights for weight in weights} == own


@examples(25)
@given(architectures(), seeds)
def test_state_dict_goes_both_ways(architecture: dict[str, Any], seed: int) -> None:
    """A state_dict loads with strict=True from nn.LSTM and into it, and results follow."""
    torch.manual_seed(seed)
    theirs, ours = nn.LSTM(**architecture).double(), BiLSTM(**architecture).double()
    x = torch.randn(4, 2, architecture["input_size"], dtype=torch.float64)
    before = theirs(x)
    ours.load_state_dict(theirs.state_dict(), strict=True)
    assert_close(ours(x), before, 1e-10)
    other = BiLSTM(**architecture).double()
    theirs.load_state_dict(other.state_dict(), strict=True)
    assert_close(theirs(x), other(x), 1e-10)
    assert not torch.equal(before[0], theirs(x)[0])


@pytest.mark.parametrize("training", [True, False])
@pytest.mark.parametrize("dtype", [torch.float64, torch.float32, torch.bfloat16], ids=str)
def test_conversion(dtype: torch.dtype, training: bool) -> None:
    """from_torch and to_torch keep arguments, dtype and mode, and copy the weights."""
    arguments: dict[str, Any] = {
        "num_layers": 2, "bias": False, "batch_first": True, "dropout": 0.25,
        "bidirectional": False, "proj_size": 2,
    }  # fmt: skip
    first, ours = pair(dtype, **arguments)
    first.train(training)
    ours = BiLSTM.from_torch(first)
    second = ours.to_torch()
    assert type(second) is nn.LSTM
    for module in (ours, second):
        assert module.training is training
        for name, value in {"input_size": 3, "hidden_size": 4, **arguments}.items():
            assert getattr(module, name) == value
        for name, parameter in first.named_parameters():
            copy = module.get_parameter(name)
            assert copy.dtype == dtype
            assert torch.equal(copy, parameter)
    with torch.no_grad():
        ours.get_parameter("weight_hh_l1").zero_()
    for module in (first, second):
        assert module.get_parameter("weight_hh_l1").count_nonzero() > 0


@pytest.mark.parametrize("module", [nn.GRU(3, 4), nn.RNN(3, 4), nn.LSTMCell(3, 4), BiLSTM(3, 4)])
def test_conversion_of_something_else(module: Any) -> None:
    """from_torch takes nothing but an nn.LSTM: a TypeError says what it got."""
    with pytest.raises(TypeError, match=f"torch.nn.LSTM, got {type(module).__name__}"):
        BiLSTM.from_torch(module)


# -- the input forms --------------------------------------------------------------------------


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


# -- ragged batches ---------------------------------------------------------------------------


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


@pytest.mark.parametrize("proj_size", [0, 2])
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


# -- under autocast ---------------------------------------------------------------------------


@pytest.mark.filterwarnings("ignore:TF32 acceleration on top of oneDNN")  # of switching it off
@pytest.mark.parametrize("form", FORMS)
@pytest.mark.parametrize("proj_size", [0, 24])
@pytest.mark.parametrize("state_dtype", [None, torch.float32, torch.bfloat16], ids=str)
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16], ids=str)
def test_autocast(
    dtype: torch.dtype, state_dtype: torch.dtype | None, proj_size: int, form: str
) -> None:
    """Under autocast, inputs and states of other types than the weights' give results of the types
    that nn.LSTM gives, frozen or not, and right ones."""
    batch_first = form == "batch first"
    judge, ours = pair(torch.float32, hidden_size=32, num_layers=2, proj_size=proj_size,
                       batch_first=batch_first)  # fmt: skip
    x = draw_input(form, LENGTHS, 3).to(dtype)
    hx = None
    if state_dtype is not None:
        h_0, c_0 = draw_states(ours, len(LENGTHS))
        hx = (h_0.to(state_dtype), c_0.to(state_dtype))
        hx = (hx[0][:, 0], hx[1][:, 0]) if form == "unbatched" else hx
    # Without oneDNN, whose types depend on what the CPU can do: some CPUs refuse.
    with torch.autocast("cpu", torch.bfloat16), torch.backends.mkldnn.flags(enabled=False):
        expected = judge(x, hx)
        runs = [ours(x, hx), ours.freeze()(x, hx)]
    exact = judge.double()(x.double(), (hx[0].double(), hx[1].double()) if hx else None)
    for actual in runs:
        for own, theirs, right in zip(*map(flat, (actual, expected, exact)), strict=True):
            assert own.dtype == theirs.dtype
            assert_within(1e-2, own, right)


def flat(results: tuple[Tensor | PackedSequence, States]) -> tuple[Tensor, Tensor, Tensor]:
    y, (h_n, c_n) = results
    return (y if isinstance(y, Tensor) else y.data), h_n, c_n


def test_training_under_autocast() -> None:
    """Under autocast, the gradients are nn.LSTM's, in the weights' type."""
    judge, ours = pair(torch.float32, hidden_size=32, proj_size=24)
    x = torch.randn(sum(LENGTHS), 3, dtype=torch.bfloat16)
    hx = draw_states(ours, len(LENGTHS))
    exact = judged(judge.double(), x.double(), LENGTHS, (hx[0].double(), hx[1].double()))
    with torch.autocast("cpu", torch.bfloat16):
        actual = ours.forward_ragged(x, LENGTHS, hx)
    (_, theirs), (_, own) = named_parameters(judge), named_parameters(ours)
    for one, other in zip(gradients(actual, own), gradients(exact, theirs), strict=True):
        assert one.dtype == torch.float32
        assert_within(3e-2, one, other)


def test_double_under_autocast() -> None:
    """Autocast leaves float64 alone, as it does in nn.LSTM."""
    judge, ours = pair()
    x = torch.randn(sum(LENGTHS), 3, dtype=torch.float64)
    with torch.autocast("cpu", torch.bfloat16):
        assert_close(ours.forward_ragged(x, LENGTHS), judged(judge, x, LENGTHS), 1e-10)


@pytest.mark.parametrize("autocast", [False, True])
@pytest.mark.parametrize(
    ("weights", "x", "state", "reason"),
    [
        (torch.float32, torch.float64, torch.float64, "x must be torch.float32"),
        (torch.float64, torch.float32, torch.float32, "x must be torch.float64"),
        (torch.float32, torch.int64, torch.float32, "x must be torch.float32"),
        (torch.float32, torch.float32, torch.float64, "hx must be torch.float32"),
    ],
)
def test_invalid_types(
    weights: torch.dtype, x: torch.dtype, state: torch.dtype, reason: str, autocast: bool
) -> None:
    """Types that nothing converts raise a ValueError that says which is expected."""
    ours = BiLSTM(3, 4, dtype=weights)
    hx = (torch.zeros(2, 1, 4, dtype=state), torch.zeros(2, 1, 4, dtype=state))
    with (
        torch.autocast("cpu", torch.bfloat16, enabled=autocast),
        pytest.raises(ValueError, match=reason),
    ):
        ours.forward_ragged(torch.zeros(5, 3, dtype=x), [5], hx)


@every_kernel
@pytest.mark.parametrize("place", ["x", "h_0", "c_0"])
def test_invalid_device(place: str, kernel: Kernel) -> None:
    """An input or state on another device raises a ValueError that names it: a kernel reads what
    it is given."""
    ours = BiLSTM(3, 4).freeze(kernel)
    given = {"x": torch.zeros(5, 3), "h_0": torch.zeros(2, 1, 4), "c_0": torch.zeros(2, 1, 4)}
    given[place] = given[place].to("meta")
    with pytest.raises(ValueError, match=f"{place} must be on cpu, got meta"):
        ours.forward_ragged(given["x"], [5], (given["h_0"], given["c_0"]))


# -- neighbours -------------------------------------------------------------------------------


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


# -- training ---------------------------------------------------------------------------------


def test_dropout_lies_between_layers() -> None:
    """In training, dropout acts on what the second layer reads, and on no layer's results."""
    _, ours = pair(num_layers=2, dropout=0.5)
    x = torch.randn(sum(LENGTHS), 3, dtype=torch.float64)
    y, (h_n, c_n) = ours.forward_ragged(x, LENGTHS)
    _, (calm_h, calm_c) = ours.eval().forward_ragged(x, LENGTHS)
    assert_close((h_n[:2], c_n[:2]), (calm_h[:2], calm_c[:2]), 0)
    assert not torch.isclose(h_n[2:], calm_h[2:]).any()
    last = torch.tensor(LENGTHS).cumsum(0) - 1
    assert_close(y[last, :4], h_n[2], 0)
    assert_close(y[last + 1 - torch.tensor(LENGTHS), 4:], h_n[3], 0)
    assert y.count_nonzero() == y.numel()


@pytest.mark.parametrize("form", FORMS)
def test_dropout_of_everything(form: str) -> None:
    """dropout=1 gives what nn.LSTM gives with it."""
    judge, ours = pair(num_layers=3, dropout=1.0, batch_first=form == "batch first")
    x = draw_input(form, LENGTHS, 3)
    (actual, states), (expected, expected_states) = ours(x), judge(x)
    assert_close(states, expected_states, 1e-10)
    if isinstance(x, PackedSequence):
        actual, expected = actual.data, expected.data
    assert_close(actual, expected, 1e-10)
    assert not torch.allclose(ours.eval()(x)[1][0], states[0])


@pytest.mark.parametrize("seed", [0, 1])
def test_dropout_mask(seed: int) -> None:
    """The same seed drops the same numbers of one sequence as in nn.LSTM."""
    judge, ours = pair(num_layers=3, dropout=0.4)
    x = torch.randn(9, 3, dtype=torch.float64)
    torch.manual_seed(seed)
    expected = judge(x)
    torch.manual_seed(seed)
    assert_close(ours(x), expected, 1e-10)
    assert not torch.allclose(ours(x)[0], expected[0])


def test_dropout_in_eval_mode() -> None:
    """Eval mode ignores dropout."""
    judge, ours = pair(num_layers=2)
    x = torch.randn(sum(LENGTHS), 3, dtype=torch.float64)
    ours.dropout = 0.9
    assert_close(ours.eval().forward_ragged(x, LENGTHS), judged(judge, x, LENGTHS), 1e-10)


def test_training() -> None:
    """SGD decreases a loss, and the parameters become those of nn.LSTM trained likewise."""
    judge, ours = pair(num_layers=2, proj_size=2)
    x = torch.randn(sum(LENGTHS), 3, dtype=torch.float64)
    target = torch.randn(sum(LENGTHS), 4, dtype=torch.float64).sigmoid() - 0.5
    runs: list[tuple[nn.Module, Callable[[], tuple[Tensor, States]]]] = [
        (judge, lambda: judged(judge, x, LENGTHS)),
        (ours, lambda: ours.forward_ragged(x, LENGTHS)),
    ]
    start = ours.get_parameter("weight_hr_l0").detach().clone()
    for module, run in runs:
        optimizer = torch.optim.SGD(module.parameters(), lr=0.5, momentum=0.5)
        losses = []
        for _ in range(6):
            loss = nn.functional.mse_loss(run()[0], target)
            optimizer.zero_grad()
            loss.backward()  # type: ignore[no-untyped-call]
            optimizer.step()
            losses.append(loss.item())
        assert losses == sorted(losses, reverse=True)
    assert_close(dict(ours.state_dict()), dict(judge.state_dict()), 1e-10)
    assert not torch.isclose(ours.get_parameter("weight_hr_l0"), start).any()


# -- freezing ---------------------------------------------------------------------------------


@every_kernel
def test_freeze_fixes(kernel: Kernel) -> None:
    """freeze() returns the module itself, in eval mode; no gradient reaches its weights until it
    trains again."""
    _, ours = pair(num_layers=2)
    assert ours.freeze(kernel) is ours
    assert not ours.training
    assert not ours.forward_ragged(torch.ones(2, 3).double(), [2])[0].requires_grad
    assert ours.train().forward_ragged(torch.ones(2, 3).double(), [2])[0].requires_grad


@every_kernel
def test_freeze_in_inference_mode(kernel: Kernel) -> None:
    """Frozen in inference mode, it still takes part in autograd outside of it, and trains again."""
    _, ours = pair(num_layers=2, bias=False)
    with torch.inference_mode():
        ours.freeze(kernel)
    x = torch.ones(2, 3, dtype=torch.float64).requires_grad_()
    frozen = gradients(ours.forward_ragged(x, [2]), [x])
    _, parameters = named_parameters(ours.train())
    trained = gradients(ours.forward_ragged(x, [2]), [x, *parameters])
    assert_close(frozen, trained[:1], 1e-10)


def thaw_by_train(ours: BiLSTM, judge: nn.LSTM) -> None:
    nn.Sequential(ours).train()
    with torch.no_grad():
        for own, other in zip(ours.parameters(), judge.parameters(), strict=True):
            own.copy_(other)


def thaw_by_double(ours: BiLSTM, judge: nn.LSTM) -> None:
    with torch.no_grad():
        for own, other in zip(ours.parameters(), judge.parameters(), strict=True):
            other.copy_(own)
    nn.Sequential(ours).double()
    judge.double()


def thaw_by_loading(ours: BiLSTM, judge: nn.LSTM) -> None:
    outer = {f"0.{name}": weight for name, weight in judge.state_dict().items()}
    nn.Sequential(ours).load_state_dict(outer)


@every_kernel
@pytest.mark.parametrize("thaw", [thaw_by_train, thaw_by_double, thaw_by_loading])
def test_thaw(thaw: Callable[[BiLSTM, nn.LSTM], None], kernel: Kernel) -> None:
    """train(), double() and load_state_dict, of a parent too, thaw: results follow the weights."""
    _, ours = pair(torch.float32, seed=1, num_layers=2)
    judge, _ = pair(torch.float32, seed=2, num_layers=2)
    x = torch.randn(sum(LENGTHS), 3)
    before = ours.freeze(kernel).forward_ragged(x, LENGTHS)
    assert not torch.allclose(before[0], judged(judge, x, LENGTHS)[0])
    thaw(ours, judge)
    dtype = judge.weight_ih_l0.dtype
    x = x.to(dtype)
    assert_close(
        ours.eval().forward_ragged(x, LENGTHS), judged(judge, x, LENGTHS), TOLERANCE[dtype]
    )


# -- from scratch -----------------------------------------------------------------------------

# The recurrences that come with torch: none of them may do this project's work.
RECURRENCES = {
    *("LSTM", "LSTMCell", "GRU", "GRUCell", "RNN", "RNNBase", "RNNCell", "_VF"),
    *("lstm_cell", "_cudnn_rnn", "mkldnn_rnn_layer", "_thnn_fused_lstm_cell", "quantized_lstm"),
}


def recurrences(tree: ast.AST, exempt: bool = False) -> Iterator[str]:
    """The uses of torch's recurrences; `nn.LSTM` itself only outside `exempt` code.

    Exempt are annotations, and the two methods that convert.
    """
    for field, value in ast.iter_fields(tree):
        inner = exempt or field in ("annotation", "returns")
        for node in value if isinstance(value, list) else [value]:
            if not isinstance(node, ast.AST):
                continue
            names = {
                a.name.split(".")[-1] for a in getattr(node, "names", []) if hasattr(a, "name")
            }
            if isinstance(node, ast.Attribute):
                names = {node.attr}
                if node.attr == "lstm" and not ast.unparse(node).startswith("self."):
                    yield ast.unparse(node)  # torch.lstm, torch.ops.aten.lstm
            for name in names & RECURRENCES:
                if not (inner and name == "LSTM"):
                    yield ast.unparse(node)
            converts = isinstance(node, ast.FunctionDef) and node.name in ("from_torch", "to_torch")
            yield from recurrences(node, inner or converts)


def test_source_is_from_scratch() -> None:
    """The model's source uses no recurrence of torch's; nn.LSTM only where it converts."""
    folder = Path(next(iter(bilstm_server.model.__path__)))
    sources = sorted(folder.rglob("*.py"))
    assert {"bilstm.py", "reference.py", "encoder.py"} <= {path.name for path in sources}
    for path in sources:
        tree = ast.parse(path.read_text(encoding="utf-8"))
        assert list(recurrences(tree)) == [], path.name


@pytest.mark.parametrize(
    "source",
    [
        "y = nn.LSTM(2, 3)(x)",
        "from torch import _VF",
        "from torch.nn import LSTM as L",
        "torch._VF.lstm(x)",
        "torch.lstm(x)",
        "torch.ops.aten.lstm.input(x)",
        "torch._cudnn_rnn(x)",
        "def to_torch(): torch.mkldnn_rnn_layer(x)",
    ],
)
def test_source_check_sees(source: str) -> None:
    """The check of the source sees each way to a recurrence of torch's."""
    assert list(recurrences(ast.parse(source)))


def operators(run: Callable[[], object]) -> set[str]:
    with torch.autograd.profiler.profile() as profile:
        run()
    return {event.name for event in profile.function_events}


@every_kernel
def test_run_is_from_scratch(kernel: Kernel) -> None:
    """Of the torch operators that run, forward and backward, none is a recurrence."""
    judge, ours = pair(torch.float32, num_layers=2)
    x = torch.randn(5, 2, 3)
    assert "aten::lstm" in operators(lambda: judge(x))
    packed = draw_input("packed unsorted", LENGTHS, 3).to(torch.float32)

    def run() -> None:
        ours(packed)[0].data.sum().backward()
        ours.freeze(kernel)(x)

    names = operators(run)
    assert "aten::linear" in names or "aten::mm" in names
    assert not [name for name in names if any(w in name.lower() for w in ("lstm", "rnn", "gru"))]


# -- each direction over rows of its own ------------------------------------------------------


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


# -- the order of steps -----------------------------------------------------------------------


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
