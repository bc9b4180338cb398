"""Models of sensors: 2-D convolutions and poolings that go along one axis only."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from .case import Case


class Sensors(nn.Module):
    """DeepConvLSTM: the same kernels along the time of each sensor, then along the sensors."""

    def __init__(self) -> None:
        super().__init__()
        self.convs = nn.Sequential(
            nn.Conv2d(1, 4, (5, 1), padding=(2, 0)), nn.ReLU(), nn.MaxPool2d((2, 1)),
            nn.Conv2d(4, 4, (3, 1), groups=2), nn.ReLU(),
            nn.Conv2d(4, 3, (1, 3), stride=(1, 2)), nn.MaxPool2d((1, 2)),
        )  # fmt: skip
        self.lstm = nn.LSTM(3, 5, 2, batch_first=True)
        self.fc = nn.Linear(5, 3)

    def forward(self, x: Tensor) -> Tensor:
        y = self.convs(x.unsqueeze(1))
        y = y.permute(0, 2, 1, 3).reshape(y.size(0), y.size(2), -1)
        return self.fc(self.lstm(y)[0][:, -1])


class ChannelsFirst(nn.Module):
    """Time is the last axis."""

    def __init__(self) -> None:
        super().__init__()
        self.convs = nn.Sequential(
            nn.Conv2d(1, 4, (1, 5), dilation=(1, 2), bias=False), nn.ELU(),
            nn.AvgPool2d((1, 3), stride=(1, 2)),
        )  # fmt: skip
        self.lstm = nn.LSTM(32, 4, batch_first=True)

    def forward(self, x: Tensor) -> Tensor:
        return self.lstm(self.convs(x.unsqueeze(1)).flatten(1, 2).transpose(1, 2))[0]


class WholeWindows(nn.Module):
    """Pools whose last window may be cut off."""

    def __init__(self) -> None:
        super().__init__()
        self.pools = nn.Sequential(
            nn.MaxPool1d(3, 2, padding=1, ceil_mode=True), nn.AvgPool1d(2, ceil_mode=True)
        )
        self.lstm = nn.LSTM(6, 4, batch_first=True)

    def forward(self, x: Tensor) -> Tensor:
        return self.lstm(self.pools(x.transpose(1, 2)).transpose(1, 2))[0]


CASES = [
    Case("sensors", Sensors, lambda: torch.randn(1, 12, 8), lengths=(8, 9, 23, 30)),
    Case("channels_first", ChannelsFirst, lambda: torch.randn(1, 8, 17), lengths=(11, 12, 23, 30)),
    Case("whole_windows", WholeWindows, lambda: torch.randn(1, 9, 6)),
]
