"""Train a tagger in plain torch, export it, and prove that what is served is what it gives.

python examples/tagger/train_tagger.py [--out models/tagger]
"""

from __future__ import annotations

import argparse
from pathlib import Path

import torch
from lines import TAGS, WORDS, Line, ids_of, make_lines
from torch import Tensor, nn
from torch.nn import functional as F
from torch.nn.utils.rnn import pack_padded_sequence, pad_packed_sequence, pad_sequence

from bilstm_server import export

STEPS, BATCH, NO_TAG = 120, 32, -100


class Tagger(nn.Module):
    """Scores of each word's tags."""

    def __init__(self) -> None:
        super().__init__()
        self.embedding = nn.Embedding(WORDS, 24)
        self.lstm = nn.LSTM(24, 32, batch_first=True, bidirectional=True)
        self.dropout = nn.Dropout(0.2)
        self.scores = nn.Linear(64, len(TAGS))

    def forward(self, words: Tensor, lengths: Tensor) -> Tensor:
        """[B, T], [B] -> [B, T, tags]"""
        packed = pack_padded_sequence(
            self.embedding(words), lengths, batch_first=True, enforce_sorted=False
        )
        states, _ = pad_packed_sequence(self.lstm(packed)[0], batch_first=True)
        scores: Tensor = self.scores(self.dropout(states))
        return scores


def train(tagger: Tagger) -> None:
    optimizer = torch.optim.Adam(tagger.parameters(), lr=0.01)
    lines = make_lines(STEPS * BATCH, seed=1)
    for first in range(0, len(lines), BATCH):
        words, lengths, tags = padded(lines[first : first + BATCH])
        loss = F.cross_entropy(tagger(words, lengths).flatten(0, 1), tags.flatten())
        optimizer.zero_grad()
        loss.backward()  # type: ignore[no-untyped-call]
        optimizer.step()


def padded(lines: list[Line]) -> tuple[Tensor, Tensor, Tensor]:
    """Words [B, T], lengths [B] and tags [B, T] of a padded batch."""
    words = pad_sequence([torch.tensor(ids_of(line.words)) for line in lines], batch_first=True)
    tags = [torch.tensor(line.tags) for line in lines]
    lengths = torch.tensor([len(line.words) for line in lines])
    return words, lengths, pad_sequence(tags, batch_first=True, padding_value=NO_TAG)


def accuracy(tagger: Tagger) -> float:
    """The share of right tags, in lines that it was not trained with."""
    words, lengths, tags = padded(make_lines(500, seed=2))
    with torch.no_grad():
        right = tagger(words, lengths).argmax(2) == tags
    return float(right.sum() / lengths.sum())


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--out", type=Path, default=Path("models/tagger"))
    out = parser.parse_args().out
    torch.set_num_threads(1)  # the products are small: a second thread would only wait
    torch.manual_seed(0)
    tagger = Tagger()
    train(tagger)
    tagger.eval()
    print(f"{accuracy(tagger):.1%} of the tags are right")
    words, lengths, _ = padded(make_lines(1, seed=3))
    export(
        tagger,
        out,
        example=(words, lengths),
        outputs=lambda tagger, example: {
            "logits": tagger(*example),
            "labels": tagger(*example).argmax(-1),
        },
        labels=TAGS,
        overwrite=True,
    )


if __name__ == "__main__":
    main()
