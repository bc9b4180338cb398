"""Layouts that names and shapes do not tell are refused in words, with or without what can be said
of them; the words name the way through the module.
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn

from bilstm_server.errors import ModelError
from bilstm_server.model import import_checkpoint
from tests.model.storage.importing.judges import Modules, lstm


class Parameters(nn.Module):
    """Parameters of these shapes."""

    def __init__(self, **shapes: tuple[int, ...]):
        super().__init__()
        for name, shape in shapes.items():
            setattr(self, name, nn.Parameter(torch.ones(shape)))


def two_stacks() -> nn.Module:
    """One from left to right and one from right to left, that never see each other."""
    one, other = (nn.ModuleList([lstm(5, 6, bidirectional=False) for _ in "ab"]) for _ in "ab")
    one[1], other[1] = (lstm(6, 6, bidirectional=False) for _ in "ab")
    return Modules(embed=nn.Embedding(9, 5), forward_lstm=one, reverse_lstm=other)


REFUSED: dict[str, tuple[Callable[[], nn.Module], str]] = {
    "convolutions joined to their input": (
        lambda: Modules(
            conv=nn.ModuleList([nn.Conv1d(6, 4, 3), nn.Conv1d(6, 4, 5)]),
            norm=nn.BatchNorm1d(14),
            lstm=lstm(14, 6),
            head=nn.Linear(12, 3),
        ),
        "conv.0 is a 1-D convolution (weight [4, 6, 3]): its padding, stride and activation no",
    ),
    "images": (
        lambda: Modules(cnn=nn.Conv2d(1, 7, 3), rnn=lstm(7, 5), out=nn.Linear(10, 6)),
        "cnn is a 2-D convolution (weight [7, 1, 3, 3])",
    ),
    "several attentions": (
        lambda: Modules(
            words=nn.Embedding(20, 5),
            lstm=lstm(5, 4),
            first=nn.Linear(8, 6),
            second=nn.Linear(6, 3),
            final=nn.Linear(8, 4),
        ),
        "several layers read the same 8 numbers (first, final): if each is a head of its own",
    ),
    "gates beside LSTMs": (
        lambda: Modules(
            lstm=nn.ModuleList([lstm(8, 4), lstm(8, 4)]),
            highway=nn.ModuleList([nn.Linear(8, 8), nn.Linear(8, 8)]),
            out=nn.Linear(8, 3),
        ),
        "no tensor tells the order of lstm.0",
    ),
    "one gate": (
        lambda: Modules(lstm=lstm(5, 4), gate=nn.Linear(8, 8), out=nn.Linear(8, 3)),
        "no tensor tells whether the next layer reads what gate gives: by its name it may be an",
    ),
    "two stacks": (
        two_stacks,
        "no place in the chain fits reverse_lstm.0",
    ),
    "a skip around the LSTM": (
        lambda: Modules(
            fc1=nn.Linear(10, 8), lstm=lstm(8, 4), fc2=nn.Linear(16, 8), fc3=nn.Linear(8, 10)
        ),
        "no place in the chain fits fc2",
    ),
    "scales": (
        lambda: Modules(
            lstm=lstm(5, 4), fc=nn.Linear(8, 5), scales=Parameters(mean=(5,), std=(5,))
        ),
        "2 more tensors would be left out, and the results might differ: scales.mean, scales.std",
    ),
    "cells": (
        lambda: Modules(cell=nn.LSTMCell(5, 4), fc=nn.Linear(4, 3)),
        "no LSTM in it (no tensor is named weight_ih_l0)",
    ),
    "a decoder": (
        lambda: Modules(
            encoder=lstm(4, 4), decoder=lstm(8, 2, bidirectional=False), out=nn.Linear(2, 3)
        ),
        "a decoder reads something else (bilstm-server export",
    ),
}


@pytest.mark.parametrize("case", REFUSED)
def test_refused(case: str, tmp_path: Path) -> None:
    """Whatever is said of its head, such a checkpoint is refused, and nothing is written."""
    make, words = REFUSED[case]
    torch.save(make().state_dict(), tmp_path / "model.pt")
    flags: list[dict[str, Any]] = [{"pooling": "last"}, {"per_step": True}]
    for said in flags:
        with pytest.raises(ModelError) as raised:
            import_checkpoint(tmp_path / "model.pt", tmp_path / "out", **said)
        assert words in str(raised.value)
        assert "bilstm-server export" in str(raised.value) or "--chain" in str(raised.value)
    assert not (tmp_path / "out").exists()
