"""Other ways to write, and to call, what can be served."""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torch.nn.utils import parametrizations, prune
from torch.nn.utils.rnn import pack_padded_sequence, pack_sequence, pad_packed_sequence

from .case import Case, ids


class Folded(nn.Module):
    """Weight norm, spectral norm and pruning; an LSTM of torch's with weight norm."""

    def __init__(self) -> None:
        super().__init__()
        self.first = parametrizations.weight_norm(nn.Linear(6, 5))
        self.conv = parametrizations.spectral_norm(nn.Conv1d(5, 5, 3, padding="same"))
        self.lstm = nn.LSTM(5, 4, batch_first=True)
        prune.l1_unstructured(self.lstm, "weight_hh_l0", 0.5)  # type: ignore[no-untyped-call]
        self.fc = nn.Linear(4, 3)
        prune.random_unstructured(self.fc, "weight", 0.4)  # type: ignore[no-untyped-call]

    def forward(self, x: Tensor) -> Tensor:
        y = self.conv(self.first(x).transpose(1, 2)).transpose(1, 2)
        return self.fc(self.lstm(y)[0])


class BackwardStack(nn.Module):
    """The steps reversed by hand: by index, by flip, by a list; both LSTMs bidirectional."""

    def __init__(self) -> None:
        super().__init__()
        self.a = nn.LSTM(6, 3, batch_first=True, bidirectional=True)
        self.b = nn.LSTM(6, 3, 2, batch_first=True)

    def forward(self, x: Tensor) -> Tensor:
        index = torch.arange(x.size(1) - 1, -1, -1)
        y, _ = self.a(x[:, index])
        z, _ = self.b(torch.stack(list(reversed(x.unbind(1))), 1))
        return torch.cat([y.flip(1), z.flip([1]), z], -1)


class Mixture(nn.Module):
    """A learned mixture of the layers' outputs (ELMo's), scaled, with a residual."""

    def __init__(self) -> None:
        super().__init__()
        self.layers = nn.ModuleList(
            [nn.LSTM(6, 3, batch_first=True, bidirectional=True) for _ in range(3)]
        )
        self.weights = nn.Parameter(torch.randn(3))
        self.gamma = nn.Parameter(torch.tensor(1.3))

    def forward(self, x: Tensor) -> Tensor:
        outputs = []
        for layer in self.layers:
            x = layer(x)[0] + x
            outputs.append(x)
        mixed = torch.stack(outputs, dim=-1)
        return (mixed * F.softmax(self.weights, dim=0)).sum(-1) * self.gamma


class LearnedStates(nn.Module):
    """h0 and c0 are parameters; outputs, hidden and cell come back."""

    def __init__(self) -> None:
        super().__init__()
        self.lstm = nn.LSTM(6, 4, 2, bidirectional=True)
        self.h0, self.c0 = nn.Parameter(torch.randn(4, 1, 4)), nn.Parameter(torch.randn(4, 1, 4))

    def forward(self, x: Tensor) -> Any:
        h0, c0 = (s.repeat(1, x.size(1), 1) for s in (self.h0, self.c0))
        return self.lstm(x, (h0, c0))


class Unbatched(nn.Module):
    """One sequence without a batch; in-place operations and slices written into."""

    def __init__(self) -> None:
        super().__init__()
        self.lstm = nn.LSTM(6, 4)
        self.fc = nn.Linear(4, 2)

    def forward(self, x: Tensor) -> dict[str, Tensor]:
        joined = torch.zeros(len(x), 6)
        joined[:, :3] = x[:, 3:]
        joined[:, 3:] = x[:, :3]
        joined.mul_(2).add_(1)
        y, (h, _) = self.lstm(joined)
        y += 1
        scores = self.fc(y)
        scores.relu_()
        return {"scores": scores, "mean": y.mean(0), "hidden": h.squeeze(0)}


class KeywordsOnly(nn.Module):
    """Keyword arguments, features beside ids, a mask of floats, the longest of a padded batch."""

    def __init__(self) -> None:
        super().__init__()
        self.embed = nn.Embedding(20, 5, padding_idx=0)
        self.norm = nn.BatchNorm1d(3)
        self.lstm = nn.LSTM(8, 4, batch_first=True, bidirectional=True)
        self.fc = nn.Linear(8, 2)

    def forward(self, *, tokens: Tensor, features: Tensor, attention_mask: Tensor) -> Tensor:
        f = self.norm(features.transpose(1, 2)).transpose(1, 2)
        x = torch.cat([self.embed(tokens), f], -1)
        lengths = attention_mask.sum(1).long()
        packed = pack_padded_sequence(x, lengths, batch_first=True, enforce_sorted=False)
        y, _ = pad_packed_sequence(self.lstm(packed)[0], batch_first=True)
        y = y.masked_fill(attention_mask.unsqueeze(-1) == 0, float("-inf"))
        return self.fc(torch.tanh(y.max(dim=1).values))


def padded() -> dict[str, Tensor]:
    """Two sequences, of nine steps and of six."""
    tokens, mask = ids(2, 9), torch.ones(2, 9)
    tokens[0, 6:], mask[0, 6:] = 0, 0
    return {"tokens": tokens, "features": torch.randn(2, 9, 3), "attention_mask": mask}


class PackedInside(nn.Module):
    """pack_sequence of a list, and the final state unsorted."""

    def __init__(self) -> None:
        super().__init__()
        self.lstm = nn.LSTM(6, 4, bidirectional=True)
        self.fc = nn.Sequential(
            nn.Linear(8, 6), nn.SELU(), nn.AlphaDropout(0.1), nn.Linear(6, 2), nn.LogSoftmax(-1)
        )

    def forward(self, sequences: list[Tensor]) -> Tensor:
        _, (h, _) = self.lstm(pack_sequence(sequences, enforce_sorted=False))
        return self.fc(h.transpose(0, 1).reshape(len(sequences), -1))


class Gates(nn.Module):
    """Bilinear and multiplicative gates, cosine to a learned vector, hard activations."""

    def __init__(self) -> None:
        super().__init__()
        self.lstm = nn.LSTM(6, 4, batch_first=True)
        self.gate = nn.Linear(6, 4)
        self.vector = nn.Parameter(torch.randn(4))
        self.scale = nn.Parameter(torch.tensor(5.0))

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
        y, _ = self.lstm(x)
        y = torch.where(torch.ones_like(y).bool(), y, torch.zeros_like(y))
        y = y * F.hardsigmoid(self.gate(x)) + F.softplus(y) / (1 + x[..., :4].abs())
        similarity = F.cosine_similarity(y, self.vector.view(1, 1, -1), dim=-1) * self.scale
        return y, similarity


class Conditioned(nn.Module):
    """The final state is joined to each step, and a second LSTM reads both."""

    def __init__(self) -> None:
        super().__init__()
        self.first = nn.LSTM(6, 4, batch_first=True)
        self.second = nn.LSTM(8, 3, batch_first=True)
        self.film = nn.Linear(4, 6)

    def forward(self, x: Tensor) -> Tensor:
        y, (h, _) = self.first(x)
        summary = h[-1].unsqueeze(1).expand(-1, y.size(1), -1)
        z, _ = self.second(torch.cat([y, summary], dim=2))
        gamma, beta = self.film(h[-1]).chunk(2, dim=-1)
        return gamma.unsqueeze(1) * z + beta.unsqueeze(1)


class Autoencoder(nn.Module):
    """The final state at each step is what the second LSTM reads; frames are given back."""

    def __init__(self) -> None:
        super().__init__()
        self.encoder = nn.LSTM(6, 4, batch_first=True)
        self.decoder = nn.LSTM(4, 5, batch_first=True)
        self.out = nn.Linear(5, 6)

    def forward(self, x: Tensor) -> Tensor:
        _, (h, _) = self.encoder(x)
        z = h.squeeze(0).unsqueeze(1).repeat(1, x.shape[1], 1)
        return self.out(self.decoder(z)[0])


class HandWrittenSoftmax(nn.Module):
    """exp of what is less than the maximum, by its sum: attention without a softmax (DeepMoji)."""

    def __init__(self) -> None:
        super().__init__()
        self.embed = nn.Embedding(20, 6)
        self.lstm0 = nn.LSTM(6, 4, batch_first=True, bidirectional=True)
        self.lstm1 = nn.LSTM(8, 4, batch_first=True, bidirectional=True)
        self.vector = nn.Parameter(torch.randn(22))
        self.out = nn.Linear(22, 3)

    def forward(self, ids: Tensor, lengths: np.ndarray) -> Tensor:
        order = np.argsort(-lengths)
        e = torch.tanh(self.embed(ids.index_select(0, torch.from_numpy(order))))
        packed = pack_padded_sequence(e, torch.from_numpy(lengths[order].copy()), batch_first=True)
        a, _ = self.lstm0(packed)
        b, _ = self.lstm1(a)
        a, b = (pad_packed_sequence(p, batch_first=True)[0] for p in (a, b))
        y = torch.cat((b, a, e), dim=2)
        logits = y.matmul(self.vector)
        weights = (logits - logits.max()).exp()
        mask = (torch.arange(y.size(1)) < torch.from_numpy(lengths).unsqueeze(1)).float()
        weights = weights * mask
        weights = weights.div(weights.sum(dim=1, keepdim=True))
        return self.out((y * weights.unsqueeze(-1)).sum(dim=1))


class OwnStatistics(nn.Module):
    """InstanceNorm and GroupNorm over the frames of each sequence; what is zero is padding."""

    def __init__(self) -> None:
        super().__init__()
        self.instance = nn.InstanceNorm1d(6, affine=True)
        self.lstm = nn.LSTM(6, 4, batch_first=True)
        self.group = nn.GroupNorm(2, 4)

    def forward(self, x: Tensor) -> Tensor:
        mask = (x.abs().sum(-1) != 0).unsqueeze(-1)
        y, _ = self.lstm(self.instance(x.transpose(1, 2)).transpose(1, 2))
        return self.group((y * mask).transpose(1, 2)).transpose(1, 2)


class Arrays(nn.Module):
    """Scores as a tensor, the best classes as an array, what is no result as well."""

    def __init__(self) -> None:
        super().__init__()
        self.lstm = nn.LSTM(5, 4, batch_first=True)

    def forward(self, x: Tensor) -> dict[str, Any]:
        y, _ = self.lstm(x)
        best = y.argmax(-1).numpy()
        return {"scores": y, "labels": best[0], "last": best[0, -1], "mask": torch.ones(1, 4)}


class BesideResults(nn.Module):
    """Operations that write beside what they return: noise, running statistics."""

    def __init__(self) -> None:
        super().__init__()
        self.norm = nn.BatchNorm1d(5)
        self.lstm = nn.LSTM(5, 4, batch_first=True)

    def forward(self, x: Tensor) -> Tensor:
        self.norm.train()
        return F.rrelu(self.lstm(self.norm(x.transpose(1, 2)).transpose(1, 2))[0])


CASES = [
    Case("folded", Folded, lambda: torch.randn(1, 9, 6)),
    Case("backward_stack", BackwardStack, lambda: torch.randn(1, 9, 6)),
    Case("mixture", Mixture, lambda: torch.randn(1, 9, 6)),
    Case("learned_states", LearnedStates, lambda: torch.randn(9, 1, 6)),
    Case("unbatched", Unbatched, lambda: torch.randn(9, 6)),
    Case("keywords", KeywordsOnly, lambda: (), {"kwargs": "padded"}),
    Case("packed_inside", PackedInside, lambda: ([torch.randn(9, 6)],)),
    Case("gates", Gates, lambda: torch.randn(1, 9, 6)),
    Case("conditioned", Conditioned, lambda: torch.randn(1, 9, 6)),
    Case("autoencoder", Autoencoder, lambda: torch.randn(1, 9, 6)),
    Case("softmax_by_hand", HandWrittenSoftmax, lambda: (ids(1, 9), np.array([9]))),
    Case("own_statistics", OwnStatistics, lambda: torch.randn(1, 9, 6), lengths=(2, 7, 23)),
    Case("beside_results", BesideResults, lambda: torch.randn(1, 9, 5), lengths=(2, 7, 23)),
    Case("arrays", Arrays, lambda: torch.randn(1, 9, 5)),
]
CASES[5].arguments["kwargs"] = padded()
