"""`BiLSTM` is the module that nn.LSTM is: its arguments, its parameters and its conversions."""

from __future__ import annotations

import re
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import nn

from bilstm_server.model.bilstm import BiLSTM
from tests.support.lstms import (
    architectures,
    assert_close,
    examples,
    pair,
    seeds,
)

pytestmark = pytest.mark.usefixtures("one_thread")


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
        ("dropout", None),
        ("dropout", "half"),
        ("dropout", torch.tensor(0.5)),
    ],
)
def test_invalid_arguments(name: str, value: Any) -> None:
    """An argument outside its range raises a ValueError that names it."""
    arguments: dict[str, Any] = {"input_size": 3, "hidden_size": 4, "num_layers": 2} | {name: value}
    with pytest.raises(ValueError, match=name):
        BiLSTM(**arguments)


@pytest.mark.parametrize("kind", [np.int64, np.int32, np.uint8, torch.tensor])
def test_integers_of_other_types(kind: Callable[[int], Any]) -> None:
    """Sizes may be numpy's integers, and are ints from then on, as they are in a config."""
    sizes = {"input_size": 3, "hidden_size": 4, "num_layers": 2, "proj_size": 2}
    lstm = BiLSTM(**{name: kind(size) for name, size in sizes.items()})
    for name, size in sizes.items():
        assert getattr(lstm, name) == size
        assert type(getattr(lstm, name)) is int
    assert lstm.extra_repr() == "3, 4, num_layers=2, proj_size=2"


def test_other_types() -> None:
    """Numpy's numbers and booleans are Python's from then on."""
    given: dict[str, Any] = {
        "bias": np.True_,
        "batch_first": np.True_,
        "dropout": np.float32(0.5),
        "bidirectional": np.False_,
    }
    lstm = BiLSTM(3, 4, 2, **given)
    for name, value in given.items():
        assert getattr(lstm, name) == value
        assert type(getattr(lstm, name)) is type(value.item())


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("input_size", 3.0),
        ("hidden_size", 4.0),
        ("hidden_size", np.float64(4)),
        ("hidden_size", torch.tensor(4.0)),
        ("hidden_size", "4"),
        ("num_layers", 2.0),
        ("num_layers", True),
        ("num_layers", None),
        ("proj_size", 2.0),
        ("proj_size", 0.0),
        ("proj_size", True),
        ("bias", 1),
        ("bias", None),
        ("batch_first", 0.5),
        ("bidirectional", 2),
        ("bidirectional", "no"),
    ],
)
def test_arguments_of_the_wrong_type(name: str, value: Any) -> None:
    """An argument of another type, as a float for a size, raises a TypeError that names it."""
    arguments: dict[str, Any] = {"input_size": 3, "hidden_size": 4, "num_layers": 2} | {name: value}
    with pytest.raises(TypeError, match=f"^{name} must be .*, got {re.escape(repr(value))}$"):
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
