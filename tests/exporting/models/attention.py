"""Attention with one query, however its products are written."""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from .case import Case


class Encoder(nn.Module):
    """An LSTM, and what is computed of its outputs."""

    def __init__(self) -> None:
        super().__init__()
        self.lstm = nn.LSTM(6, 4, batch_first=True)
        self.fc = nn.Linear(4, 3)

    def encode(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """The outputs [batch, steps, 4], and the last hidden state [batch, 4]."""
        y, (h, _) = self.lstm(x)
        return y, h[-1]


class LearnedQuery(Encoder):
    """nn.MultiheadAttention with a parameter as its only query, and the mean of its weights."""

    def __init__(self) -> None:
        super().__init__()
        self.query = nn.Parameter(torch.randn(1, 1, 4))
        self.attention = nn.MultiheadAttention(4, 2, batch_first=True)

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
        y, _ = self.encode(x)
        pooled, weights = self.attention(self.query.expand(x.size(0), -1, -1), y, y)
        return self.fc(pooled.squeeze(1)), weights


class FinalQuery(Encoder):
    """nn.MultiheadAttention with the final state as its query, without weights."""

    def __init__(self) -> None:
        super().__init__()
        self.attention = nn.MultiheadAttention(4, 2, batch_first=True)

    def forward(self, x: Tensor) -> Tensor:
        y, h = self.encode(x)
        pooled, _ = self.attention(h.unsqueeze(1), y, y, need_weights=False)
        return self.fc(pooled.squeeze(1))


class LastStepQuery(Encoder):
    """scaled_dot_product_attention with the last step as its query."""

    def __init__(self) -> None:
        super().__init__()
        self.q, self.k = nn.Linear(4, 4), nn.Linear(4, 4)

    def forward(self, x: Tensor) -> Tensor:
        y, _ = self.encode(x)
        pooled = F.scaled_dot_product_attention(self.q(y[:, -1:]), self.k(y), y)
        return self.fc(pooled).squeeze(1)


class General(Encoder):
    """Luong's general score, and a bilinear layer of the context and the final state."""

    def __init__(self) -> None:
        super().__init__()
        self.w = nn.Parameter(torch.randn(4, 4))
        self.bilinear = nn.Bilinear(4, 4, 3)

    def forward(self, x: Tensor) -> Tensor:
        y, h = self.encode(x)
        scores = (y @ self.w @ h.unsqueeze(-1)).squeeze(-1)
        context = (torch.softmax(scores, 1).unsqueeze(-1) * y).sum(1)
        return self.bilinear(context, h)


class Gated(Encoder):
    """tanh and sigmoid gate the scores; steps are rows of a matrix without a batch."""

    def __init__(self) -> None:
        super().__init__()
        self.v, self.u, self.w = nn.Linear(4, 5), nn.Linear(4, 5), nn.Linear(5, 2)

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
        y = self.encode(x)[0].squeeze(0)
        scores = self.w(torch.tanh(self.v(y)) * torch.sigmoid(self.u(y))).t()
        weights = F.softmax(scores, dim=1)
        return self.fc(torch.mm(weights, y).mean(0, keepdim=True)), weights


class Prototypes(Encoder):
    """Cosine of the length-1 state with length-1 vectors of classes."""

    def __init__(self) -> None:
        super().__init__()
        self.classes = nn.Parameter(torch.randn(3, 4))

    def forward(self, x: Tensor) -> Tensor:
        z = F.normalize(self.encode(x)[1], dim=-1)
        return z @ F.normalize(self.classes, dim=-1).t() * 10


class Layers(nn.Module):
    """The final states of all layers, mixed; the directions' maximum."""

    def __init__(self) -> None:
        super().__init__()
        self.lstm = nn.LSTM(6, 4, 3, batch_first=True, bidirectional=True)
        self.weights = nn.Parameter(torch.randn(6))

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        y, (h, c) = self.lstm(x)
        mixed = torch.einsum("lbh,l->bh", h, self.weights.softmax(0))
        return torch.maximum(*y.chunk(2, -1)), mixed, (c[-1] + c[-2]) / 2


def frames() -> Tensor:
    """One sequence of floats."""
    return torch.randn(1, 9, 6)


CASES = [
    Case("learned_query", LearnedQuery, frames),
    Case("final_query", FinalQuery, frames),
    Case("last_step_query", LastStepQuery, frames),
    Case("general", General, frames),
    Case("gated", Gated, frames),
    Case("prototypes", Prototypes, frames),
    Case("layers", Layers, frames),
]
