"""The code of an imaginary owner: a tagger, and functions that make it, well and badly."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

from bilstm_server.exporting.owner.code import current_directory, load_object

CODE = """
import torch
from torch import nn
from torch.nn.utils.rnn import pack_padded_sequence, pad_packed_sequence


class Tagger(nn.Module):
    def __init__(self, hidden=6):
        super().__init__()
        self.embedding = nn.Embedding(20, 8, padding_idx=0)
        self.lstm = nn.LSTM(8, hidden, bidirectional=True, batch_first=True)
        self.fc = nn.Linear(2 * hidden, 5)

    def forward(self, tokens, lengths):
        y = pack_padded_sequence(self.embedding(tokens), lengths, batch_first=True)
        y, _ = pad_packed_sequence(self.lstm(y)[0], batch_first=True)
        return self.fc(y), y


def make():
    torch.manual_seed(0)
    return Tagger()


def other():
    torch.manual_seed(1)
    return Tagger()


def with_example():
    return make(), (torch.tensor([[3, 4, 5, 6, 7, 8, 9]]), torch.tensor([7]))


instance = make()
number = 3


def larger():
    return Tagger(hidden=7)


def needs_sizes(words, tags):
    return Tagger()


def raises():
    raise RuntimeError("no such data set")


def ends():
    raise SystemExit(0)


def gives_text():
    return "a model"


class Failing(Tagger):
    def forward(self, tokens):
        return self.dense(self.embedding(tokens))


class Recurrent(Tagger):
    def __init__(self):
        super().__init__()
        self.gru = nn.GRU(12, 4, batch_first=True)

    def forward(self, tokens):
        return self.gru(self.lstm(self.embedding(tokens))[0])[0]


class Nested(Tagger):
    def forward(self, batch):
        return self.fc(self.lstm(self.embedding(batch["ids"]))[0])


def labels_of(module, arguments):
    logits, _ = module(*arguments)
    return {"labels": logits.argmax(-1), "logits": logits}
"""


@contextmanager
def owners_folder(folder: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """Make the folder the current one, with the code as tagger.py; forget it at the end."""
    (folder / "tagger.py").write_text(CODE)
    monkeypatch.chdir(folder)
    try:
        yield folder
    finally:
        for name in ("tagger", "unwritten", "misspelt"):
            sys.modules.pop(name, None)


def owned(name: str) -> Any:
    """What has this name in the code."""
    with current_directory():
        return load_object(f"tagger:{name}")
