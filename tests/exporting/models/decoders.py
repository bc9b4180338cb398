"""Taggers whose CRF is decoded beside the modules that have its parameters, or in numpy."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn

from .case import Case


class Decoder:
    """No module: it is given emissions, lengths and transitions [to, from] (flair)."""

    def __init__(self, start: int, stop: int):
        self.start, self.stop = start, stop

    def decode(self, features: tuple[Tensor, Tensor, Tensor]) -> list[list[int]]:
        emissions, lengths, transitions = features
        best = torch.full((len(emissions), emissions.shape[2]), -1e4)
        best[:, self.start] = 0
        origins = []
        for step in range(emissions.shape[1]):
            best, origin = (best.unsqueeze(1) + transitions).max(-1)
            best = best + emissions[:, step]
            origins.append(origin)
        tag = int((best + transitions[self.stop]).argmax(-1)[0])
        path = []
        for origin in origins[: int(lengths[0])][::-1]:
            path.append(tag)
            tag = int(origin[0, tag])
        return [path[::-1]]


class Beside(nn.Module):
    """Learned first states for each sequence of the batch, and a decoder beside the scores."""

    def __init__(self) -> None:
        super().__init__()
        self.lstm = nn.LSTM(5, 4, batch_first=True)
        self.hidden = nn.Parameter(torch.randn(1, 4))
        self.linear = nn.Linear(4, 6)
        self.transitions = nn.Parameter(torch.randn(6, 6))
        self.transitions.data[4, :] = -1e4
        self.transitions.data[:, 5] = -1e4
        self.decoder = Decoder(4, 5)

    def forward(self, x: Tensor) -> list[list[int]]:
        hidden = self.hidden.unsqueeze(1).repeat(1, len(x), 1)
        emissions = self.linear(self.lstm(x, (hidden, torch.zeros_like(hidden)))[0])
        return self.decoder.decode((emissions, torch.tensor([x.size(1)]), self.transitions))


class WithinNumpy(nn.Module):
    """The CRF has its linear layer, and follows the path in numpy."""

    def __init__(self) -> None:
        super().__init__()
        self.lstm = nn.LSTM(5, 4, batch_first=True)
        self.crf = NumpyCrf()

    def forward(self, x: Tensor) -> tuple[Tensor, list[list[int]]]:
        return self.crf(self.lstm(x)[0])


class NumpyCrf(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.fc = nn.Linear(4, 6)
        self.transitions = nn.Parameter(torch.randn(6, 6))
        self.transitions.data[4, :] = -1e4
        self.transitions.data[:, 5] = -1e4

    def forward(self, y: Tensor) -> tuple[Tensor, list[list[int]]]:
        return self.__decode(self.fc(y))

    def __decode(self, emissions: Tensor) -> tuple[Tensor, list[list[int]]]:
        best = torch.full((1, 6), -1e4)
        best[:, 4] = 0
        origins = torch.zeros(1, emissions.size(1), 6, dtype=torch.long)
        for step in range(emissions.size(1)):
            best, origins[:, step] = (best.unsqueeze(1) + self.transitions).max(dim=-1)
            best += emissions[:, step]
        score, tag = (best + self.transitions[5]).max(dim=-1)
        path: list[Any] = [tag[0].item()]
        for origin in origins[0].numpy()[::-1]:
            path.append(origin[path[-1]])
        return score, [path[-2::-1]]


CASES = [
    Case("beside", Beside, lambda: torch.randn(1, 9, 5), {"outputs": ["labels"]}),
    Case(
        "within_numpy", WithinNumpy, lambda: torch.randn(1, 9, 5), {"outputs": ["score", "labels"]}
    ),
]
