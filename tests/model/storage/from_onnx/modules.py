"""Modules in the words in which people write them, each for a batch of sequences."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torch.nn.utils.rnn import pack_padded_sequence, pad_packed_sequence


class Tagger(nn.Module):
    """Ids, a convolution, a norm, a stack of two directions, a linear layer at each step."""

    def __init__(self) -> None:
        super().__init__()
        self.embedding = nn.Embedding(20, 6)
        self.conv = nn.Conv1d(6, 8, 3, padding=1)
        self.norm = nn.LayerNorm(8)
        self.lstm = nn.LSTM(8, 5, num_layers=2, bidirectional=True, batch_first=True)
        self.fc = nn.Linear(10, 4)

    def forward(self, ids: Tensor) -> Any:
        x = F.relu(self.conv(self.embedding(ids).transpose(1, 2))).transpose(1, 2)
        return self.fc(self.lstm(self.norm(x))[0])


class Classifier(nn.Module):
    """The last states of both directions, a batch norm, two linear layers and a softmax."""

    def __init__(self) -> None:
        super().__init__()
        self.lstm = nn.LSTM(3, 5, num_layers=2, bidirectional=True, batch_first=True)
        self.norm = nn.BatchNorm1d(10)
        self.norm.running_mean = torch.randn(10)
        self.norm.running_var = torch.rand(10) + 0.5
        self.fc1, self.fc2 = nn.Linear(10, 6), nn.Linear(6, 3)

    def forward(self, x: Tensor) -> Any:
        _, (h, _) = self.lstm(x)
        x = self.norm(torch.cat([h[-2], h[-1]], 1))
        return F.softmax(self.fc2(F.elu(self.fc1(x), 0.7)), 1)


class StepsFirst(nn.Module):
    """[steps, batch, features], and the last step."""

    def __init__(self) -> None:
        super().__init__()
        self.lstm = nn.LSTM(3, 5, bias=False)
        self.fc = nn.Linear(5, 2)

    def forward(self, x: Tensor) -> Any:
        return self.fc(self.lstm(x)[0][-1])


class Attention(nn.Module):
    """Scores of each step, a softmax over the steps, a weighted sum; and a mean and a maximum."""

    def __init__(self) -> None:
        super().__init__()
        self.lstm = nn.LSTM(3, 5, batch_first=True)
        self.score = nn.Linear(5, 1)

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
        y, _ = self.lstm(x)
        weights = torch.softmax(self.score(torch.tanh(y)), 1)
        return (weights * y).sum(1), torch.cat([y.mean(1), y.max(1).values], 1)


class Products(nn.Module):
    """Scores of a query from the last state, and a weighted sum, as products of matrices."""

    def __init__(self) -> None:
        super().__init__()
        self.lstm = nn.LSTM(3, 5, batch_first=True)
        self.bias = nn.Parameter(torch.randn(1))

    def forward(self, x: Tensor) -> Any:
        y, (h, _) = self.lstm(x)
        weights = (torch.bmm(y, h[-1].unsqueeze(2)) + self.bias).softmax(1)
        return torch.bmm(weights.transpose(1, 2), y).squeeze(1) + self.bias


class Directions(nn.Module):
    """The sum of both directions by a view, gates, and a residual of the input."""

    def __init__(self) -> None:
        super().__init__()
        self.lstm = nn.LSTM(4, 4, bidirectional=True, batch_first=True)
        self.gate = nn.Linear(4, 4)

    def forward(self, x: Tensor) -> Any:
        y, _ = self.lstm(x)
        y = y.view(y.size(0), y.size(1), 2, 4).sum(2)
        gate = torch.sigmoid(self.gate(x))
        return gate * y + (1 - gate) * x


class Speaker(nn.Module):
    """A unit vector of the last state of the last layer."""

    def __init__(self) -> None:
        super().__init__()
        self.lstm = nn.LSTM(3, 5, num_layers=2, batch_first=True)
        self.fc = nn.Linear(5, 4)

    def forward(self, x: Tensor) -> Any:
        y = F.relu(self.fc(self.lstm(x)[1][0][-1]))
        return y / (torch.norm(y, dim=1, keepdim=True) + 1e-5)


class Gelu(nn.Module):
    """A norm and a function that exporters write out, and a flattened linear layer."""

    def __init__(self) -> None:
        super().__init__()
        self.lstm = nn.LSTM(3, 5, batch_first=True)
        self.fc = nn.Linear(5, 2)

    def forward(self, x: Tensor) -> Any:
        y, _ = self.lstm(x)
        y = y / y.pow(2).mean(2, keepdim=True).sqrt()
        y = F.gelu(y)
        return self.fc(y.reshape(-1, 5)).view(x.size(0), -1, 2)


class Learned(nn.Module):
    """Learned initial states."""

    def __init__(self) -> None:
        super().__init__()
        self.lstm = nn.LSTM(3, 5, bidirectional=True, batch_first=True)
        self.h = nn.Parameter(torch.randn(2, 1, 5))
        self.c = nn.Parameter(torch.randn(2, 1, 5))

    def forward(self, x: Tensor) -> Any:
        states = [state.expand(-1, x.size(0), -1).contiguous() for state in (self.h, self.c)]
        return self.lstm(x, (states[0], states[1]))[0]


class Packed(nn.Module):
    """A packed sequence, and the last state."""

    def __init__(self, is_sorted: bool) -> None:
        super().__init__()
        self.is_sorted = is_sorted
        self.lstm = nn.LSTM(3, 5, bidirectional=True, batch_first=True)

    def forward(self, x: Tensor, lengths: Tensor) -> tuple[Tensor, Tensor]:
        packed = pack_padded_sequence(x, lengths, batch_first=True, enforce_sorted=self.is_sorted)
        y, (h, _) = self.lstm(packed)
        return pad_packed_sequence(y, batch_first=True)[0], h.transpose(0, 1).reshape(-1, 10)


class TwoInputs(nn.Module):
    """Ids and features, joined at each step."""

    def __init__(self) -> None:
        super().__init__()
        self.embedding = nn.Embedding(20, 4)
        self.lstm = nn.LSTM(7, 5, batch_first=True)

    def forward(self, ids: Tensor, x: Tensor) -> Any:
        return self.lstm(torch.cat([self.embedding(ids), x], 2))[0]


class Unbatched(nn.Module):
    """One sequence [steps, features]."""

    def __init__(self) -> None:
        super().__init__()
        self.lstm = nn.LSTM(3, 5)

    def forward(self, x: Tensor) -> Any:
        return self.lstm(x)[0]


class Strided(nn.Module):
    """Channels first, a stride, and a frame rate that is halved."""

    def __init__(self) -> None:
        super().__init__()
        self.conv = nn.Conv1d(3, 6, 4, stride=2, padding=1, groups=3)
        self.lstm = nn.LSTM(6, 5, batch_first=True)

    def forward(self, x: Tensor) -> Any:
        return self.lstm(F.leaky_relu(self.conv(x), 0.3).transpose(1, 2))[0]
