"""A classifier as model owners have it, and its checkpoint as a file."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import safetensors.torch
import torch
from torch import Tensor, nn

from tests.model.storage.files import saved


class Classifier(nn.Module):
    """The usual one: zero initial states, and a linear layer over the output at the last step."""

    def __init__(
        self,
        input_size: int = 3,
        hidden_size: int = 4,
        num_layers: int = 2,
        num_classes: int = 5,
        vocabulary: int = 0,
        **options: Any,
    ):
        super().__init__()
        options = {"bidirectional": True} | options
        self.embedding = nn.Embedding(vocabulary, input_size) if vocabulary else None
        self.lstm = nn.LSTM(input_size, hidden_size, num_layers, batch_first=True, **options)
        self.directions = 2 if options["bidirectional"] else 1
        self.width = options.get("proj_size", 0) or hidden_size
        self.fc = nn.Linear(self.directions * self.width, num_classes)

    def forward(self, x: Tensor) -> Tensor:
        """[B, T, D], or token ids [B, T] -> [B, classes]"""
        return self.fc(self.outputs(x)[:, -1, :])  # type: ignore[no-any-return]

    def outputs(self, x: Tensor) -> Tensor:
        if self.embedding is not None:
            x = self.embedding(x)
        rows = self.lstm.num_layers * self.directions
        h0 = torch.zeros(rows, x.size(0), self.width, dtype=x.dtype)
        c0 = torch.zeros(rows, x.size(0), self.lstm.hidden_size, dtype=x.dtype)
        out, _ = self.lstm(x, (h0, c0))
        return out  # type: ignore[no-any-return]


def classifier(seed: int = 0, **options: Any) -> Classifier:
    torch.manual_seed(seed)
    return Classifier(**options).eval()


def write(tensors: Mapping[str, Tensor], path: Path) -> Path:
    """The tensors as a checkpoint, in the format that the file's name says."""
    if path.suffix == ".safetensors":
        own = {name: tensor.contiguous().clone() for name, tensor in tensors.items()}
        safetensors.torch.save_file(own, path)
    else:
        torch.save(tensors, path)
    return path


def good_pt() -> bytes:
    return saved(classifier().state_dict())


Failing = Callable[..., str]
