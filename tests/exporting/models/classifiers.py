"""Classifiers of sequences: every way to make one vector of many."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torch.nn.utils.rnn import pack_padded_sequence, pad_packed_sequence

from .case import Case, ids


class StatisticsPooling(nn.Module):
    """Weighted mean and deviation over the frames, as speaker encoders have."""

    def __init__(self, width: int = 6):
        super().__init__()
        self.lstm = nn.LSTM(width, 4, batch_first=True, bidirectional=True)
        self.attention = nn.Sequential(
            nn.Linear(8, 5), nn.Tanh(), nn.Linear(5, 8), nn.Softmax(dim=1)
        )
        self.bn = nn.BatchNorm1d(16)
        self.fc = nn.Linear(16, 7)

    def forward(self, x: Tensor) -> Tensor:
        h, _ = self.lstm(x)
        w = self.attention(h)
        mu = torch.sum(h * w, dim=1)
        sg = torch.sqrt((torch.sum((h**2) * w, dim=1) - mu**2).clamp(min=1e-5))
        return self.fc(self.bn(torch.cat((mu, sg), 1)))


class DirectionsSeparately(nn.Module):
    """The forward direction's last output and the backward one's first, taken from the outputs."""

    def __init__(self) -> None:
        super().__init__()
        self.lstm = nn.LSTM(5, 4, batch_first=True, bidirectional=True)
        self.out = nn.Linear(8, 3)

    def forward(self, x: Tensor) -> Tensor:
        y, _ = self.lstm(x)
        return self.out(F.relu(torch.cat([y[:, -1, :4], y[:, 0, 4:]], dim=-1)))


class HiddenView(nn.Module):
    """h_n viewed as layers and directions."""

    def __init__(self) -> None:
        super().__init__()
        self.lstm = nn.LSTM(5, 4, num_layers=2, batch_first=True, bidirectional=True, dropout=0.5)
        self.fc = nn.Linear(8, 3)

    def forward(self, x: Tensor) -> Tensor:
        _, (h, c) = self.lstm(x)
        h = h.view(2, 2, x.size(0), 4)[-1]
        h = h.permute(1, 0, 2).contiguous().view(x.size(0), -1)
        return F.log_softmax(self.fc(h), dim=1)


class MaxOverTime(nn.Module):
    """F.max_pool1d with the number of steps as its window."""

    def __init__(self) -> None:
        super().__init__()
        self.embed = nn.Embedding(20, 5)
        self.lstm = nn.LSTM(5, 4, batch_first=True, bidirectional=True)
        self.linear = nn.Linear(13, 6)
        self.fc = nn.Linear(6, 2)

    def forward(self, text: Tensor) -> Tensor:
        e = self.embed(text)
        y, _ = self.lstm(e)
        y = torch.cat((y, e), 2)
        y = torch.tanh(self.linear(y)).permute(0, 2, 1)
        y = F.max_pool1d(y, y.size(2)).squeeze(2)
        return self.fc(y)


class AdaptivePools(nn.Module):
    """AdaptiveMaxPool1d and AdaptiveAvgPool1d to one step, and the last output."""

    def __init__(self) -> None:
        super().__init__()
        self.embed = nn.Embedding(20, 5, padding_idx=0)
        self.gru = nn.LSTM(5, 4, bidirectional=True)
        self.fc = nn.Linear(24, 2)

    def forward(self, x: Tensor) -> Tensor:
        y, _ = self.gru(self.embed(x).transpose(0, 1))
        y = y.permute(1, 2, 0)
        a = F.adaptive_avg_pool1d(y, 1).view(x.size(0), -1)
        m = F.adaptive_max_pool1d(y, 1).view(x.size(0), -1)
        return self.fc(torch.cat([y[:, :, -1], m, a], dim=1))


class MaskedMean(nn.Module):
    """Mean of the steps that the mask has, computed from the ids themselves."""

    def __init__(self) -> None:
        super().__init__()
        self.embed = nn.Embedding(20, 5, padding_idx=0)
        self.lstm = nn.LSTM(5, 4, batch_first=True)
        self.fc = nn.Linear(4, 2)

    def forward(self, input_ids: Tensor) -> dict[str, Tensor]:
        mask = (input_ids != 0).float().unsqueeze(-1)
        y, _ = self.lstm(self.embed(input_ids))
        pooled = (y * mask).sum(1) / mask.sum(1).clamp(min=1.0)
        logits = self.fc(pooled)
        return {"logits": logits, "probabilities": torch.sigmoid(logits), "pooled": pooled}


class AdditiveAttention(nn.Module):
    """Bahdanau's scores with the last hidden state as the query."""

    def __init__(self) -> None:
        super().__init__()
        self.embedding = nn.Embedding(20, 5)
        self.lstm = nn.LSTM(5, 4, batch_first=True, bidirectional=True)
        self.w_h, self.w_q = nn.Linear(8, 6), nn.Linear(8, 6, bias=False)
        self.v = nn.Parameter(torch.randn(6))
        self.fc = nn.Linear(16, 3)

    def forward(self, x: Tensor, lengths: Tensor) -> tuple[Tensor, Tensor]:
        packed = pack_padded_sequence(
            self.embedding(x), lengths.cpu(), batch_first=True, enforce_sorted=False
        )
        y, (h, _) = self.lstm(packed)
        y, _ = pad_packed_sequence(y, batch_first=True)
        q = torch.cat((h[-2], h[-1]), dim=-1)
        e = torch.tanh(self.w_h(y) + self.w_q(q).unsqueeze(1)) @ self.v
        e = e.masked_fill(torch.arange(y.size(1))[None, :] >= lengths[:, None], -1e9)
        a = torch.softmax(e, dim=-1)
        context = torch.einsum("bt,btd->bd", a, y)
        return self.fc(torch.cat([context, q], -1)), a


class SelfAttentiveHeads(nn.Module):
    """Several heads, flattened; each weights the whole row."""

    def __init__(self) -> None:
        super().__init__()
        self.lstm = nn.LSTM(5, 4, batch_first=True, bidirectional=True)
        self.ws1, self.ws2 = nn.Linear(8, 6, bias=False), nn.Linear(6, 3, bias=False)
        self.fc = nn.Linear(24, 2)

    def forward(self, x: Tensor) -> Tensor:
        h, _ = self.lstm(x)
        a = F.softmax(self.ws2(torch.tanh(self.ws1(h))), dim=1).transpose(1, 2)
        return self.fc(torch.bmm(a, h).view(x.size(0), -1))


class SplitHeads(nn.Module):
    """Heads that have their own part of the row: a learned query for each."""

    def __init__(self) -> None:
        super().__init__()
        self.lstm = nn.LSTM(5, 6, batch_first=True)
        self.keys = nn.Linear(6, 6)
        self.query = nn.Parameter(torch.randn(2, 3))
        self.out = nn.Linear(6, 4)

    def forward(self, x: Tensor) -> Tensor:
        y, _ = self.lstm(x)
        b, t, _ = y.shape
        k = self.keys(y).view(b, t, 2, 3).transpose(1, 2)
        v = y.view(b, t, 2, 3).transpose(1, 2)
        scores = torch.einsum("bhtd,hd->bht", k, self.query) / 3**0.5
        pooled = torch.matmul(scores.softmax(-1).unsqueeze(2), v)
        return self.out(pooled.reshape(b, -1))


class LastStepOfSorted(nn.Module):
    """The last output by index of length, as `gather` takes it."""

    def __init__(self) -> None:
        super().__init__()
        self.embed = nn.Embedding(20, 5)
        self.lstm = nn.LSTM(5, 4, batch_first=True)
        self.fc = nn.Linear(4, 2)

    def forward(self, x: Tensor, lengths: Tensor) -> Tensor:
        y, _ = self.lstm(self.embed(x))
        index = (lengths - 1).view(-1, 1, 1).expand(-1, 1, y.size(2))
        return self.fc(y.gather(1, index).squeeze(1))


class Sentiment(nn.Module):
    """A sigmoid on the last step, hidden states carried by the caller, everything flattened."""

    def __init__(self) -> None:
        super().__init__()
        self.embedding = nn.Embedding(20, 5)
        self.lstm = nn.LSTM(5, 4, 2, dropout=0.5, batch_first=True)
        self.dropout = nn.Dropout(0.3)
        self.fc = nn.Linear(4, 1)
        self.sig = nn.Sigmoid()

    def forward(self, x: Tensor, hidden: tuple[Tensor, Tensor]) -> tuple[Tensor, Any]:
        batch_size = x.size(0)
        lstm_out, hidden = self.lstm(self.embedding(x.long()), hidden)
        lstm_out = lstm_out.contiguous().view(-1, 4)
        out = self.sig(self.fc(self.dropout(lstm_out)))
        return out.view(batch_size, -1)[:, -1], hidden


class SpeakerEncoder(nn.Module):
    """Mean of squares kept apart: three LSTM layers, a projection, length 1 (GE2E)."""

    def __init__(self) -> None:
        super().__init__()
        self.lstm = nn.LSTM(6, 8, num_layers=3, batch_first=True, proj_size=4)
        self.linear = nn.Linear(4, 5)
        self.relu = nn.ReLU()

    def forward(self, utterances: Tensor) -> Tensor:
        out, (hidden, cell) = self.lstm(utterances, None)
        raw = self.relu(self.linear(hidden[-1]))
        return raw / (torch.norm(raw, dim=1, keepdim=True) + 1e-5)


class MeanAndDeviation(nn.Module):
    """Statistics pooling: mean and std, unbiased, over the frames."""

    def __init__(self) -> None:
        super().__init__()
        self.lstm = nn.LSTM(6, 4, batch_first=True)
        self.fc = nn.Linear(8, 5)

    def forward(self, x: Tensor) -> Tensor:
        y, _ = self.lstm(x)
        return self.fc(torch.cat((y.mean(dim=1), y.std(dim=1)), dim=1))


class NormalizedFeatures(nn.Module):
    """Frames minus their own mean over time, and divided by their deviation."""

    def __init__(self) -> None:
        super().__init__()
        self.lstm = nn.LSTM(6, 4, batch_first=True)
        self.fc = nn.Linear(4, 5)

    def forward(self, x: Tensor) -> Tensor:
        x = (x - x.mean(dim=1, keepdim=True)) / (x.std(dim=1, keepdim=True, unbiased=False) + 1e-6)
        y, _ = self.lstm(x)
        return F.normalize(self.fc(y[:, -1]), p=2, dim=1)


class Siamese(nn.Module):
    """One encoder twice: on ids, and on the same ids reversed."""

    def __init__(self) -> None:
        super().__init__()
        self.embed = nn.Embedding(20, 5)
        self.fwd, self.bwd = nn.LSTM(5, 4, batch_first=True), nn.LSTM(5, 4, batch_first=True)
        self.fc = nn.Linear(8, 2)

    def forward(self, x: Tensor) -> Tensor:
        e = self.embed(x)
        a, _ = self.fwd(e)
        b, _ = self.bwd(torch.flip(e, dims=[1]))
        return self.fc(torch.cat([a[:, -1], b[:, -1]], dim=1))


CASES = [
    Case("statistics_pooling", StatisticsPooling, lambda: torch.randn(1, 9, 6)),
    Case("directions_separately", DirectionsSeparately, lambda: torch.randn(1, 9, 5)),
    Case("hidden_view", HiddenView, lambda: torch.randn(1, 9, 5)),
    Case("max_over_time", MaxOverTime, lambda: ids(1, 9)),
    Case("adaptive_pools", AdaptivePools, lambda: ids(1, 9)),
    Case("masked_mean", MaskedMean, lambda: ids(1, 9)),
    Case("additive_attention", AdditiveAttention, lambda: (ids(1, 9), torch.tensor([9]))),
    Case("self_attentive_heads", SelfAttentiveHeads, lambda: torch.randn(1, 9, 5)),
    Case("split_heads", SplitHeads, lambda: torch.randn(1, 9, 5)),
    Case("last_of_lengths", LastStepOfSorted, lambda: (ids(1, 9), torch.tensor([9]))),
    Case("sentiment", Sentiment, lambda: (ids(1, 9), (torch.zeros(2, 1, 4), torch.zeros(2, 1, 4)))),
    Case("speaker_encoder", SpeakerEncoder, lambda: torch.randn(1, 9, 6)),
    Case("mean_and_deviation", MeanAndDeviation, lambda: torch.randn(1, 9, 6)),
    Case("normalized_features", NormalizedFeatures, lambda: torch.randn(1, 9, 6)),
    Case("siamese", Siamese, lambda: ids(1, 9)),
    Case(
        "batch_of_three",
        MaskedMean,
        lambda: torch.nn.functional.pad(ids(3, 9), (0, 3)),
        {"lengths": [9, 9, 9]},
    ),
]
