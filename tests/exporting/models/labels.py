"""Classifiers that give one label for a sequence, in the ways in which people take it."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from .case import Case


class Classifier(nn.Module):
    """Scores of the whole sequence."""

    def __init__(self) -> None:
        super().__init__()
        self.lstm = nn.LSTM(5, 6, batch_first=True, bidirectional=True)
        self.fc = nn.Linear(12, 4)

    def scores(self, x: Tensor) -> Tensor:
        return self.fc(self.lstm(x)[0].mean(1))

    def forward(self, x: Tensor) -> Tensor:
        return self.scores(x)


class OfLastStep(Classifier):
    """The scores and the label of the last step."""

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:  # type: ignore[override]
        scores = self.fc(self.lstm(x)[0][:, -1])
        return scores, scores.argmax(1)


class Topk(Classifier):
    def forward(self, x: Tensor) -> Tensor:
        return self.scores(x).topk(1)[1]


class KeepsItsDimension(Classifier):
    def forward(self, x: Tensor) -> Tensor:
        return self.scores(x).softmax(-1).argmax(1, keepdim=True)


def _labelled(module: nn.Module, arguments: tuple[Tensor, ...]) -> dict[str, Tensor]:
    scores = module(*arguments)
    return {"logits": scores, "labels": scores.argmax(-1)}


CASES = [
    Case("labelled", Classifier, lambda: torch.randn(1, 9, 5), {"outputs": _labelled}),
    Case("label_of_last_step", OfLastStep, lambda: torch.randn(1, 9, 5)),
    Case("label_by_topk", Topk, lambda: torch.randn(1, 9, 5)),
    Case("label_of_one_dimension", KeepsItsDimension, lambda: torch.randn(1, 9, 5)),
]
