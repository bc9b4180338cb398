"""Modules that are called in their own ways: states, options, lengths, subsampling."""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torch.nn.utils.rnn import pack_padded_sequence, pad_packed_sequence

from bilstm_server.model.bilstm import BiLSTM

from .case import Case, ids


class Options(nn.Module):
    """Arguments that may be left out, a loss that is computed for labels only."""

    def __init__(self) -> None:
        super().__init__()
        self.words, self.types = nn.Embedding(20, 6, padding_idx=0), nn.Embedding(2, 6)
        self.norm = nn.LayerNorm(6)
        self.lstm = nn.LSTM(6, 4, batch_first=True, bidirectional=True)
        self.classifier = nn.Linear(8, 3)

    def forward(
        self,
        input_ids: Tensor,
        attention_mask: Tensor | None = None,
        token_type_ids: Tensor | None = None,
        labels: Tensor | None = None,
    ) -> tuple[Tensor, ...]:
        if token_type_ids is None:
            token_type_ids = torch.zeros_like(input_ids)
        if attention_mask is None:
            attention_mask = torch.ones_like(input_ids)
        x = self.norm(self.words(input_ids) + self.types(token_type_ids))
        lengths = attention_mask.sum(-1).cpu()
        packed = pack_padded_sequence(x, lengths, batch_first=True, enforce_sorted=False)
        y, _ = pad_packed_sequence(self.lstm(packed)[0], batch_first=True)
        logits = self.classifier(y)
        if labels is not None:
            return F.cross_entropy(logits.view(-1, 3), labels.view(-1)), logits, y
        return logits, y


class Subsampling(nn.Module):
    """Packed again after each layer, with fewer frames and their new lengths (ESPnet)."""

    def __init__(self) -> None:
        super().__init__()
        for layer in range(3):
            setattr(self, f"birnn{layer}", nn.LSTM(4, 4, batch_first=True, bidirectional=True))
            setattr(self, f"bt{layer}", nn.Linear(8, 4))

    def forward(self, xs: Tensor, ilens: Any) -> tuple[Tensor, Tensor]:
        for layer, subsample in enumerate((2, 2, 1)):
            ilens = torch.as_tensor(ilens)
            rnn = getattr(self, f"birnn{layer}")
            rnn.flatten_parameters()
            ys, _ = rnn(pack_padded_sequence(xs, ilens.cpu(), batch_first=True))
            ys, ilens = pad_packed_sequence(ys, batch_first=True)
            if subsample > 1:
                ys = ys[:, ::subsample]
                ilens = torch.tensor([int(n + 1) // subsample for n in ilens])
            projected = getattr(self, f"bt{layer}")(ys.contiguous().view(-1, ys.size(2)))
            xs = torch.tanh(projected.view(ys.size(0), ys.size(1), -1))
        return xs, ilens


class SentencePair(nn.Module):
    """A tuple of frames and lengths as an array, sorted with numpy; maximum over time."""

    def __init__(self) -> None:
        super().__init__()
        self.enc_lstm = nn.LSTM(6, 4, 1, bidirectional=True)

    def forward(self, sent_tuple: tuple[Tensor, np.ndarray]) -> Tensor:
        sent, sent_len = sent_tuple
        order = np.argsort(-sent_len)
        sent = sent.index_select(1, torch.from_numpy(order))
        packed = pack_padded_sequence(sent, torch.from_numpy(sent_len[order].copy()))
        y = pad_packed_sequence(self.enc_lstm(packed)[0])[0]
        y = y.index_select(1, torch.from_numpy(np.argsort(order)))
        emb = torch.max(y, 0)[0]
        if emb.ndimension() == 3:
            emb = emb.squeeze(0)
            assert emb.ndimension() == 2
        return emb


class LanguageModel(nn.Module):
    """States go in and out; the output's matrix is the embedding's."""

    def __init__(self) -> None:
        super().__init__()
        self.encoder = nn.Embedding(20, 6)
        self.rnn = nn.LSTM(6, 6, 2)
        self.decoder = nn.Linear(6, 20)
        self.decoder.weight = self.encoder.weight

    def forward(self, tokens: Tensor, hidden: tuple[Tensor, Tensor]) -> tuple[Tensor, Any]:
        output, hidden = self.rnn(self.encoder(tokens), hidden)
        decoded = self.decoder(output.view(output.size(0) * output.size(1), output.size(2)))
        return decoded.view(output.size(0), output.size(1), decoded.size(1)), hidden


class Detector(nn.Module):
    """Channels first, a scripted part, double precision within."""

    def __init__(self) -> None:
        super().__init__()
        self.conv = nn.Conv1d(4, 6, 3, padding=1)
        self.lstm = nn.LSTM(6, 4, batch_first=True).double()
        self.head = nn.Sequential(nn.Dropout(0.1), nn.ReLU(), nn.Conv1d(4, 1, 1), nn.Sigmoid())

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
        y, (h, _) = self.lstm(F.relu(self.conv(x)).permute(0, 2, 1).double())
        return self.head(y.float().permute(0, 2, 1)).squeeze(1), h


class Categories(nn.Module):
    """Several columns of ids in one tensor, integers as numbers in another."""

    def __init__(self) -> None:
        super().__init__()
        sizes = ((20, 4), (7, 2), (3, 1))
        self.embeddings = nn.ModuleList([nn.Embedding(n, width) for n, width in sizes])
        self.lstm = nn.LSTM(9, 4, batch_first=True)

    def forward(self, categories: Tensor, counts: Tensor) -> Tensor:
        columns = [embed(categories[:, :, i]) for i, embed in enumerate(self.embeddings)]
        return self.lstm(torch.cat([*columns, counts.float() / 10], -1))[0]


class ConcatPooling(nn.Module):
    """Last, maximum and mean of the steps that are no padding (ULMFiT)."""

    def __init__(self) -> None:
        super().__init__()
        self.embed = nn.Embedding(20, 5, padding_idx=1)
        self.lstm = nn.LSTM(5, 4, batch_first=True)
        self.head = nn.Sequential(nn.BatchNorm1d(12), nn.Linear(12, 2))

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
        mask = x == 1
        y, _ = self.lstm(self.embed(x))
        lengths = y.shape[1] - mask.long().sum(dim=1)
        padding = mask[:, -70:].long().sum(dim=1)
        mean = y.masked_fill(mask[:, :, None], 0).sum(dim=1)
        mean.div_(lengths.type(mean.dtype)[:, None])
        most = y.masked_fill(mask[:, :, None], -float("inf")).max(dim=1)[0]
        last = y[torch.arange(0, y.size(0)), -padding - 1]
        return self.head(torch.cat([last, most, mean], 1)), y


class House(nn.Module):
    """The operator of this house, trained within a module."""

    def __init__(self) -> None:
        super().__init__()
        self.lstm = BiLSTM(5, 4, num_layers=2, batch_first=True)
        self.fc = nn.Linear(8, 2)

    def forward(self, x: Tensor) -> Tensor:
        return self.fc(self.lstm(x)[0])


CASES = [
    Case("options_left_out", Options, lambda: ids(1, 9)),
    Case("options", Options, lambda: (ids(1, 9), torch.ones(1, 9).long(), ids(1, 9, most=2))),
    Case("subsampling", Subsampling, lambda: (torch.randn(1, 12, 4), [12])),
    Case("array_of_lengths", SentencePair, lambda: ((torch.randn(9, 1, 6), np.array([9])),)),
    Case(
        "states_in_and_out",
        LanguageModel,
        lambda: (ids(9, 1), (torch.zeros(2, 1, 6), torch.zeros(2, 1, 6))),
    ),
    Case("detector", Detector, lambda: torch.randn(1, 4, 9)),
    Case(
        "categories",
        Categories,
        lambda: (
            torch.stack([ids(1, 9), ids(1, 9, most=7), ids(1, 9, most=3)], -1),
            torch.randint(0, 99, (1, 9, 2)),
        ),
    ),
    Case("concat_pooling", ConcatPooling, lambda: ids(1, 9, most=18) + 1),
    Case("wrapped", lambda: nn.DataParallel(ConcatPooling()), lambda: ids(1, 9, most=18) + 1),
    Case("house", House, lambda: torch.randn(1, 9, 5)),
]
