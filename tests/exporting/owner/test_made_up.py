"""Where an owner gives no example, one is made up that the module runs with, or asked for."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.nn.utils.rnn import pack_padded_sequence, pad_packed_sequence

from bilstm_server.errors import ModelError
from bilstm_server.exporting import convert
from bilstm_server.exporting.owner.made_up import make_example
from tests.exporting.judge import assert_same


class Parts(nn.Module):
    """Layers for the modules below, which differ in what they are called with."""

    def __init__(self) -> None:
        super().__init__()
        self.words = nn.Embedding(30, 5, padding_idx=0)
        self.shapes = nn.Embedding(7, 3)
        self.lstm = nn.LSTM(5, 4, batch_first=True)
        self.both = nn.LSTM(8, 4, batch_first=True)


class Ids(Parts):
    def forward(self, x: Tensor) -> Any:
        return self.lstm(self.words(x))[0]


class StepsFirst(Parts):
    def __init__(self) -> None:
        super().__init__()
        self.rnn = nn.LSTM(5, 4, bidirectional=True)

    def forward(self, text: Tensor, text_lengths: Tensor) -> Any:
        packed = pack_padded_sequence(self.words(text), text_lengths)
        return pad_packed_sequence(self.rnn(packed)[0])[0]


class TwoIds(Parts):
    def forward(self, shapes: Tensor, words: Tensor) -> Any:
        return self.both(torch.cat([self.words(words), self.shapes(shapes)], -1))[0]


class IdsAndFloats(Parts):
    def forward(self, tokens: Tensor, features: Tensor) -> Any:
        return self.both(torch.cat([self.words(tokens), features], -1))[0]


class Masked(Parts):
    def forward(self, x: Tensor, attention_mask: Tensor) -> Any:
        y = self.lstm(self.words(x))[0]
        kept = attention_mask.unsqueeze(-1).float()
        return (y * kept).sum(1) / kept.sum(1)


class Padding(Parts):
    def forward(self, x: Tensor, padding_mask: Tensor) -> Any:
        return self.lstm(self.words(x))[0].masked_fill(padding_mask.unsqueeze(-1), -1e9).amax(1)


class PaddingMarked(Parts):
    """Its mask is of what is padding, and its name does not say so."""

    def forward(self, x: Tensor, x_mask: Tensor) -> Any:
        lengths = (~x_mask).sum(1)
        packed = pack_padded_sequence(self.words(x), lengths, batch_first=True)
        return pad_packed_sequence(self.lstm(packed)[0], batch_first=True)[0]


class LengthsAsMask(Parts):
    """Its mask is lengths."""

    def forward(self, x: Tensor, mask: Tensor) -> Any:
        packed = pack_padded_sequence(self.words(x), mask, batch_first=True)
        return pad_packed_sequence(self.lstm(packed)[0], batch_first=True)[0]


class Optional(Parts):
    def forward(self, x: Tensor, lengths: Tensor | None = None, *, flag: bool = False) -> Any:
        return self.lstm(self.words(x))[0]


class Frames(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.lstm = nn.LSTM(6, 4, batch_first=True)

    def forward(self, x: Tensor) -> Any:
        return self.lstm(x)[0]


class Channels(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.conv = nn.Conv1d(6, 5, 3, padding=1)
        self.lstm = nn.LSTM(5, 4, batch_first=True)

    def forward(self, x: Tensor) -> Any:
        return self.lstm(self.conv(x).transpose(1, 2))[0]


class Flat(nn.Module):
    """Without a batch dimension."""

    def __init__(self) -> None:
        super().__init__()
        self.lstm = nn.LSTM(6, 4)

    def forward(self, x: Tensor) -> Any:
        return self.lstm(x.view(len(x), 1, -1))[0].view(len(x), -1)


MADE: dict[Callable[[], nn.Module], str] = {
    Ids: "of 97 steps: x (ids below 30)",
    StepsFirst: "text (ids below 30)",
    TwoIds: "shapes (ids below 7), words (ids below 30)",
    IdsAndFloats: "tokens (ids below 30), features (3 floats a step)",
    Masked: "x (ids below 30)",
    Padding: "x (ids below 30)",
    PaddingMarked: "x (ids below 30)",
    LengthsAsMask: "x (ids below 30)",
    Optional: "x (ids below 30)",
    Frames: "x (6 floats a step)",
    Channels: "x (6 floats a step)",
    Flat: "x (6 floats a step)",
}


@pytest.mark.parametrize("make", MADE)
def test_made_up(make: Callable[[], nn.Module]) -> None:
    """The module is exported by the example that was made up, and is then right."""
    torch.manual_seed(0)
    module = make().eval()
    made = make_example(module)
    assert MADE[make] in made.words
    converted = convert(module, made.arguments)
    assert len(converted.config.inputs) == made.words.count("(")
    assert_same(converted, (1, 2, 7, 23))


def test_left_as_it_was() -> None:
    """The module stays in the mode that it is in."""
    module = Ids().train()
    make_example(module)
    assert module.training
    assert module.words.training


class WithState(Parts):
    def forward(self, x: Tensor, state: tuple[Tensor, Tensor]) -> Any:
        return self.lstm(self.words(x), (state[0], state[1]))[0]


class Dictionary(Parts):
    def forward(self, batch: dict[str, Tensor]) -> Any:
        return self.lstm(self.words(batch["ids"]))[0]


class Nothing(Parts):
    def forward(self) -> Any:
        return self.lstm(torch.ones(1, 2, 5))[0]


ASKED: dict[Callable[[], nn.Module], str] = {
    WithState: "that WithState.forward(x, state) takes: give one with --example",
    Dictionary: 'of test_made_up.py: `return self.lstm(self.words(batch["ids"]))[0]`',
    Nothing: "no example can be made up for Nothing.forward; give one with --example",
}


@pytest.mark.parametrize("make", ASKED)
def test_asked_for(make: Callable[[], nn.Module]) -> None:
    """Where nothing fits, the error asks for an example, and says what the likeliest led to."""
    with pytest.raises(ModelError) as refused:
        make_example(make())
    assert ASKED[make] in str(refused.value)
