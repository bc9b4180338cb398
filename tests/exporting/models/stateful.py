"""Modules that keep something from one call to the next, or in their own words beside torch's."""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from .case import Case, ids


class Tutorial(nn.Module):
    """The state is an attribute, which each call begins with and leaves behind."""

    def __init__(self) -> None:
        super().__init__()
        self.embed = nn.Embedding(20, 6)
        self.lstm = nn.LSTM(6, 4)
        self.fc = nn.Linear(4, 3)
        self.hidden = (torch.zeros(1, 1, 4), torch.zeros(1, 1, 4))

    def forward(self, x: Tensor) -> Tensor:
        y, self.hidden = self.lstm(self.embed(x).view(len(x), 1, -1), self.hidden)
        return F.log_softmax(self.fc(y.view(len(x), -1)), dim=1)


class Chunked(nn.Module):
    """States are buffers, written in place; a list has those of all layers, a counter counts."""

    state: Tensor
    calls: Tensor

    def __init__(self) -> None:
        super().__init__()
        self.rnns = nn.ModuleList([nn.LSTM(6, 4, batch_first=True), nn.LSTM(4, 4)])
        self.register_buffer("state", torch.randn(1, 1, 4))
        self.register_buffer("calls", torch.zeros(()))
        self.hidden: list[tuple[Tensor, Tensor] | None] = [None, None]
        self.seen: list[Tensor] = []

    def forward(self, x: Tensor) -> Tensor:
        self.calls += 1
        first = self.hidden[0] or (self.state, torch.zeros(1, 1, 4))
        y, (hidden, cell) = self.rnns[0](x, first)
        self.state.copy_(hidden)
        self.hidden[0] = (hidden, cell)
        self.seen.append(y)
        return self.rnns[1](y.transpose(0, 1))[0]


CASES = [
    Case("tutorial", Tutorial, lambda: ids(9)),
    Case("chunked", Chunked, lambda: torch.randn(1, 9, 6)),
]
