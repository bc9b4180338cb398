"""Models that give something for each step: labels, scores, states."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torch.nn.utils.rnn import (
    PackedSequence,
    pack_padded_sequence,
    pad_packed_sequence,
    pad_sequence,
)

from .case import Case, ids


class TimeDistributed(nn.Module):
    def __init__(self, module: nn.Module):
        super().__init__()
        self.module = module

    def forward(self, x: Tensor) -> Tensor:
        b, t = x.size(0), x.size(1)
        return self.module(x.reshape(b * t, *x.shape[2:])).view(b, t, -1)


class KerasLike(nn.Module):
    """Dense layers at each step, the directions joined, softmax."""

    def __init__(self) -> None:
        super().__init__()
        self.dense = TimeDistributed(
            nn.Sequential(nn.Linear(6, 5), nn.BatchNorm1d(5), nn.LeakyReLU(0.1))
        )
        self.bi = nn.LSTM(5, 4, batch_first=True, bidirectional=True)
        self.out = TimeDistributed(nn.Linear(8, 3))

    def forward(self, x: Tensor) -> Tensor:
        return torch.softmax(self.out(self.bi(self.dense(x))[0]), dim=-1)


class LoopOverSteps(nn.Module):
    """The head is called step by step, and the results are stacked."""

    def __init__(self) -> None:
        super().__init__()
        self.lstm = nn.LSTM(6, 4, batch_first=True)
        self.fc = nn.Linear(4, 3)

    def forward(self, x: Tensor) -> Tensor:
        y, _ = self.lstm(x)
        scores = []
        for step in range(y.size(1)):
            scores.append(torch.relu(self.fc(y[:, step, :])))
        return torch.stack(scores, dim=1)


class ArgmaxTagger(nn.Module):
    """One sentence without a batch, log-softmax, then the best class of each token."""

    def __init__(self) -> None:
        super().__init__()
        self.word_embeddings = nn.Embedding(20, 5)
        self.lstm = nn.LSTM(5, 4)
        self.hidden2tag = nn.Linear(4, 3)

    def forward(self, sentence: Tensor) -> tuple[Tensor, Tensor]:
        embeds = self.word_embeddings(sentence)
        lstm_out, _ = self.lstm(embeds.view(len(sentence), 1, -1))
        tag_scores = F.log_softmax(self.hidden2tag(lstm_out.view(len(sentence), -1)), dim=1)
        return tag_scores, torch.max(tag_scores, 1).indices


class Tagged(NamedTuple):
    upos: Tensor
    deprel: Tensor
    labels: Tensor


class Heads(nn.Module):
    """Several classifiers over one encoder, a named tuple of results, scaled embeddings."""

    def __init__(self) -> None:
        super().__init__()
        self.embed = nn.Embedding(20, 5)
        self.scale = 5**0.5
        self.input_norm = nn.LayerNorm(5)
        self.lstm = nn.LSTM(5, 4, 2, batch_first=True, bidirectional=True)
        self.mlps = nn.ModuleList(
            [nn.Sequential(nn.Linear(8, 6), nn.ELU(), nn.Dropout(0.3)) for _ in range(2)]
        )
        self.heads = nn.ModuleList([nn.Linear(6, 4), nn.Linear(6, 3)])

    def forward(self, x: Tensor) -> Tagged:
        y, _ = self.lstm(self.input_norm(self.embed(x) * self.scale))
        upos, deprel = (head(mlp(y)) for head, mlp in zip(self.heads, self.mlps, strict=True))
        return Tagged(upos, deprel, upos.argmax(-1))


@dataclass
class Batch:
    tokens: Tensor
    casing: Tensor
    lengths: list[int]


class ResidualStack(nn.Module):
    """LSTMs with residuals, gates and LayerNorm between, on a dataclass; highway at the end."""

    def __init__(self) -> None:
        super().__init__()
        self.words = nn.Embedding.from_pretrained(torch.randn(20, 6))  # type: ignore[no-untyped-call]
        self.project = nn.Linear(8, 8)
        self.rnns = nn.ModuleList([nn.LSTM(8, 4, bidirectional=True) for _ in range(3)])
        self.norms = nn.ModuleList([nn.LayerNorm(8) for _ in range(3)])
        self.gate = nn.Linear(8, 8)
        self.glu = nn.Linear(8, 10)
        self.out = nn.Linear(5, 4)

    def forward(self, batch: Batch) -> dict[str, Any]:
        casing = F.one_hot(batch.casing, 2).float()
        x = self.project(torch.cat([self.words(batch.tokens), casing], dim=2)).transpose(0, 1)
        for rnn, norm in zip(self.rnns, self.norms, strict=True):
            packed = pack_padded_sequence(x, torch.tensor(batch.lengths), enforce_sorted=False)
            y = pad_packed_sequence(rnn(packed)[0])[0]
            x = norm(x + F.dropout(y, 0.2, self.training))
        g = torch.sigmoid(self.gate(x))
        x = g * torch.tanh(x) + (1 - g) * x
        return {
            "scores": self.out(F.glu(self.glu(x), dim=-1)).transpose(0, 1),
            "nested": {"states": x.transpose(0, 1)},
        }


class Packed(nn.Module):
    """Takes and returns a PackedSequence; sorts and unsorts by length itself."""

    def __init__(self) -> None:
        super().__init__()
        self.embed = nn.Embedding(20, 5)
        self.lstm = nn.LSTM(5, 4, batch_first=True)
        self.fc = nn.Linear(4, 3)

    def forward(self, tokens: list[Tensor]) -> list[Tensor]:
        lengths = torch.tensor([len(t) for t in tokens])
        order = lengths.argsort(descending=True)
        x = pad_sequence([self.embed(tokens[i]) for i in order], batch_first=True)
        packed = pack_padded_sequence(x, lengths[order], batch_first=True)
        y, _ = self.lstm(packed)
        y = PackedSequence(self.fc(y.data), y.batch_sizes, y.sorted_indices, y.unsorted_indices)
        padded, _ = pad_packed_sequence(y, batch_first=True)
        back = order.argsort()
        return [padded[back[i], : lengths[i]] for i in range(len(tokens))]


class WithoutBoundaries(nn.Module):
    """A convolution without padding: two steps less; and a causal one, cut to length."""

    def __init__(self) -> None:
        super().__init__()
        self.causal = nn.Conv1d(6, 5, 3, padding=4, dilation=2)
        self.valid = nn.Conv1d(5, 5, 3, groups=5)
        self.lstm = nn.LSTM(5, 4, batch_first=True)
        self.fc = nn.Linear(4, 2)

    def forward(self, x: Tensor) -> Tensor:
        y = F.gelu(self.causal(x.transpose(1, 2))[:, :, :-4]) + x.transpose(1, 2)[:, :5]
        y = self.valid(y)
        return self.fc(self.lstm(y.transpose(1, 2))[0])


class WeightDrop(nn.Module):
    """An LSTM whose recurrent weight is set anew in each forward, as AWD-LSTM does."""

    def __init__(self) -> None:
        super().__init__()
        self.module = nn.LSTM(5, 4)
        raw: Any = self.module.weight_hh_l0
        del self.module._parameters["weight_hh_l0"]
        self.module.register_parameter("weight_hh_l0_raw", nn.Parameter(raw.data))
        self.encoder = nn.Embedding(20, 5)
        self.decoder = nn.Linear(4, 20)

    def forward(self, tokens: Tensor) -> Tensor:
        raw: Any = self.module.weight_hh_l0_raw
        self.module.weight_hh_l0 = F.dropout(raw, p=0.5, training=self.training)
        self.module._flat_weights = [
            getattr(self.module, n) for n in self.module._flat_weights_names
        ]
        return self.decoder(self.module(self.encoder(tokens))[0])


class ManyLabels(nn.Module):
    """What is beyond a threshold, as each label's own; what is not is set to zero."""

    def __init__(self) -> None:
        super().__init__()
        self.lstm = nn.LSTM(6, 4, batch_first=True)
        self.fc = nn.Linear(4, 3)

    def forward(self, x: Tensor) -> dict[str, Tensor]:
        y, _ = self.lstm(x)
        y = torch.where(y > 0, y, y * 0.1).masked_fill(y < -0.2, 0.0)
        p = torch.sigmoid(self.fc(y))
        counts = (p >= 0.4).float().sum(1)
        return {"probs": p, "active": p > 0.5, "quiet": (p <= 0.45).long(), "counts": counts}


CASES = [
    Case("keras_like", KerasLike, lambda: torch.randn(1, 9, 6)),
    Case("loop_over_steps", LoopOverSteps, lambda: torch.randn(1, 9, 6)),
    Case("argmax", ArgmaxTagger, lambda: ids(9), {"labels": ["A", "B", "C"]}),
    Case("heads", Heads, lambda: ids(1, 9)),
    Case(
        "residual_stack",
        ResidualStack,
        lambda: Batch(ids(1, 9), torch.tensor([[0, 1, 0, 1, 1, 0, 0, 1, 0]]), [9]),
    ),
    Case("packed", Packed, lambda: ([ids(9)],)),
    Case("without_boundaries", WithoutBoundaries, lambda: torch.randn(1, 9, 6)),
    Case("weight_drop", WeightDrop, lambda: ids(9, 1)),
    Case("many_labels", ManyLabels, lambda: torch.randn(1, 9, 6)),
]
