"""The example call: which axis is the steps, which sequence is taken, what is an input."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from bilstm_server.exporting import ExportError, convert

from .judge import assert_same


class Tagger(nn.Module):
    """Frames in any form, whose steps are brought to the front."""

    def __init__(self, order: tuple[int, ...]):
        super().__init__()
        self.order = order
        self.lstm = nn.LSTM(6, 4)

    def forward(self, x: Tensor, lengths: Any = None) -> Tensor:
        y: Tensor = self.lstm(x.permute(self.order))[0]
        return y


class Masked(nn.Module):
    """The mean of the steps whose ids are not 0."""

    def __init__(self) -> None:
        super().__init__()
        self.embed = nn.Embedding(20, 6)
        self.lstm = nn.LSTM(6, 4, batch_first=True)

    def forward(self, tokens: Tensor) -> Tensor:
        mask = (tokens != 0).unsqueeze(-1)
        y: Tensor = self.lstm(self.embed(tokens))[0]
        return (y * mask).sum(1) / mask.sum(1)


@pytest.mark.parametrize(
    ("shape", "order"),
    [
        ((9, 1, 6), (0, 1, 2)),
        ((1, 9, 6), (1, 0, 2)),
        ((1, 6, 9), (2, 0, 1)),
        ((6, 1, 6), (0, 1, 2)),
        ((1, 6, 6), (1, 0, 2)),
        ((1, 6, 6), (2, 0, 1)),
        ((9, 4, 6), (0, 1, 2)),
        ((6, 6, 6), (1, 0, 2)),
        ((9, 6), (0, 1)),
        ((6, 9), (1, 0)),
        ((6, 6), (1, 0)),
    ],
)
def test_the_axis_of_steps_is_found(shape: tuple[int, ...], order: tuple[int, ...]) -> None:
    """In any order of axes, in a batch or without, though another axis has the same size."""
    converted = convert(Tagger(order).eval(), torch.randn(*shape))
    assert converted.config.inputs["x"].width == 6
    assert_same(converted, (1, 2, 7, 23))


@pytest.mark.parametrize(
    "lengths",
    [torch.tensor([5, 9]), [5, 9], torch.tensor([5, 9]).numpy()],
    ids=["tensor", "list", "array"],
)
def test_of_a_padded_batch_the_longest_sequence_is_taken(lengths: Any) -> None:
    """Steps of padding, here infinite, are not among those that inputs are drawn from."""
    x = torch.randn(2, 9, 6)
    x[0, 5:] = torch.inf
    converted = convert(Tagger((1, 0, 2)).eval(), (x, lengths))
    assert list(converted.config.inputs) == ["x"]
    assert all(torch.isfinite(converted.sample(30, seed)["x"]).all() for seed in range(3))


def test_ids_for_padding_say_which_steps_are_padding() -> None:
    """Of a padded batch of ids the longest sequence is taken, by the id that the module masks."""
    tokens = torch.tensor([[3, 4, 5, 0, 0, 0], [6, 7, 8, 9, 10, 0], [11, 12, 0, 0, 0, 0]])
    converted = convert(Masked().eval(), tokens)
    assert converted.config.inputs["tokens"].padding_id == 0
    assert set(converted.caller.sample(50, seed=0)["tokens"].tolist()) == {6, 7, 8, 9, 10}


def test_lengths_say_which_steps_are_padding() -> None:
    """`lengths=` is for a batch that has none in its arguments."""
    x = torch.randn(2, 9, 6)
    x[:, 7:], x[0, 5:] = torch.inf, torch.inf
    converted = convert(Tagger((1, 0, 2)).eval(), x, lengths=[5, 7])
    assert torch.isfinite(converted.sample(30, seed=0)["x"]).all()


@pytest.mark.parametrize(
    ("example", "words"),
    [
        (lambda: (), "forward has missing a required argument"),
        (lambda: torch.randn(1, 9, 5), "Tagger fails on it: RuntimeError"),
        (lambda: torch.randn(1, 1, 6), "of several steps"),
    ],
    ids=["none", "wrong width", "one step"],
)
def test_an_example_that_tells_nothing_is_refused(example: Callable[[], Any], words: str) -> None:
    """The error names the example and what it must be."""
    with pytest.raises(ExportError, match=words):
        convert(Tagger((1, 0, 2)).eval(), example())


def test_inputs_are_put_where_the_module_takes_them() -> None:
    """What `run` gives for inputs by name is what the module gives for them in its own form."""
    module = Tagger((2, 0, 1)).eval()
    converted = convert(module, torch.randn(1, 6, 9))
    x = torch.randn(12, 6)
    with torch.no_grad():
        expected = module(x.t().unsqueeze(0))[:, 0]
    torch.testing.assert_close(converted.run({"x": x})["states"], expected)
