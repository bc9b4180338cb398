"""Steps beside their neighbours: convolutions, differences, steps left out."""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from .case import Case, ids


class Kernels(nn.Module):
    """Convolutions of several kernels, even ones too, joined, and a pool that keeps the length."""

    def __init__(self) -> None:
        super().__init__()
        self.embed = nn.Embedding(20, 5)
        self.convs = nn.ModuleList([nn.Conv1d(5, 3, k, padding="same") for k in (1, 2, 3, 4)])
        self.pool = nn.MaxPool1d(3, stride=1, padding=1)
        self.lstm = nn.LSTM(12, 4, batch_first=True, bidirectional=True)

    def forward(self, x: Tensor) -> Tensor:
        e = self.embed(x).transpose(1, 2)
        y = self.pool(torch.cat([F.relu(conv(e)) for conv in self.convs], 1))
        return self.lstm(y.transpose(1, 2))[0]


class Causal(nn.Module):
    """Dilated convolutions, padded on the left only, with residuals."""

    def __init__(self) -> None:
        super().__init__()
        self.convs = nn.ModuleList([nn.Conv1d(6, 6, 3, dilation=d) for d in (1, 2, 4)])
        self.lstm = nn.LSTM(6, 4, batch_first=True)

    def forward(self, x: Tensor) -> Tensor:
        y = x.transpose(1, 2)
        for index, conv in enumerate(self.convs):
            y = y + torch.tanh(conv(F.pad(y, (2 * 2**index, 0))))
        return self.lstm(y.transpose(1, 2))[0]


class Cropped(nn.Module):
    """A convolution without padding, added to what it read, cropped."""

    def __init__(self) -> None:
        super().__init__()
        self.conv = nn.Conv1d(6, 6, 5)
        self.lstm = nn.LSTM(6, 4, batch_first=True)

    def forward(self, x: Tensor) -> Tensor:
        y = x.transpose(1, 2)
        y = F.relu(self.conv(y)) + y[:, :, 2:-2]
        return self.lstm(y.transpose(1, 2))[0]


class Differences(nn.Module):
    """Each frame but the first, and what differs from the one before."""

    def __init__(self) -> None:
        super().__init__()
        self.lstm = nn.LSTM(12, 4, batch_first=True)

    def forward(self, x: Tensor) -> Tensor:
        return self.lstm(torch.cat([x[:, 1:], x[:, 1:] - x[:, :-1]], -1))[0]


class Shifted(nn.Module):
    """Each frame and the one before, which is zero for the first."""

    def __init__(self) -> None:
        super().__init__()
        self.lstm = nn.LSTM(12, 4, batch_first=True)

    def forward(self, x: Tensor) -> Tensor:
        return self.lstm(torch.cat([x, F.pad(x, (0, 0, 1, 0))[:, :-1]], -1))[0]


class Unfolded(nn.Module):
    """Windows of three frames, every second one, through a linear layer."""

    def __init__(self) -> None:
        super().__init__()
        self.project = nn.Linear(18, 5)
        self.lstm = nn.LSTM(5, 4, batch_first=True)

    def forward(self, x: Tensor) -> Tensor:
        return self.lstm(self.project(x.unfold(1, 3, 2).flatten(2)))[0]


class LanguageModel(nn.Module):
    """What comes before a token and what comes behind it predict the token."""

    def __init__(self) -> None:
        super().__init__()
        self.embed = nn.Embedding(20, 5)
        self.lstm = nn.LSTM(5, 4, batch_first=True, bidirectional=True)
        self.fc = nn.Linear(8, 20)

    def forward(self, x: Tensor) -> Tensor:
        y, _ = self.lstm(self.embed(x))
        return self.fc(torch.cat([y[:, :-2, :4], y[:, 2:, 4:]], -1))


class WithoutMarks(nn.Module):
    """Labels and scores of all tokens but the first and the last, which mark the sentence."""

    def __init__(self) -> None:
        super().__init__()
        self.embed = nn.Embedding(20, 5)
        self.lstm = nn.LSTM(5, 4, batch_first=True)
        self.fc = nn.Linear(4, 3)

    def forward(self, x: Tensor) -> dict[str, Tensor]:
        y = self.fc(self.lstm(self.embed(x))[0])
        best = y.argmax(-1)
        return {"scores": y[:, 1:-1], "tags": best[:, 1:-1], "whole": best[:, -1]}


class Electrocardiogram(nn.Module):
    """Samples through strides and pools to an eighth, attention, one class."""

    def __init__(self) -> None:
        super().__init__()
        self.features = nn.Sequential(
            nn.Conv1d(1, 4, 7, stride=2, padding=3), nn.BatchNorm1d(4), nn.ReLU(),
            nn.MaxPool1d(3, 2, 1), nn.Conv1d(4, 6, 5, padding=2), nn.ReLU(), nn.AvgPool1d(2),
        )  # fmt: skip
        self.lstm = nn.LSTM(6, 4, batch_first=True, bidirectional=True)
        self.attention, self.fc = nn.Linear(8, 1), nn.Linear(8, 3)

    def forward(self, x: Tensor) -> Tensor:
        y, _ = self.lstm(self.features(x.unsqueeze(1)).transpose(1, 2))
        weights = torch.softmax(self.attention(y).squeeze(-1), dim=1).unsqueeze(1)
        return self.fc(torch.bmm(weights, y).squeeze(1))


def frames() -> Tensor:
    """One sequence of floats."""
    return torch.randn(1, 9, 6)


CASES = [
    Case("kernels", Kernels, lambda: ids(1, 9)),
    Case("causal", Causal, frames),
    Case("cropped", Cropped, frames),
    Case("differences", Differences, frames),
    Case("shifted", Shifted, frames),
    Case("unfolded", Unfolded, frames),
    Case("language_model", LanguageModel, lambda: ids(1, 9)),
    Case("without_marks", WithoutMarks, lambda: ids(1, 9)),
    Case("electrocardiogram", Electrocardiogram, lambda: torch.randn(1, 64)),
]
