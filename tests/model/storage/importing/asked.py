"""An LSTM with a head and what stands around them, as `bilstm-server import` is asked for it."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import torch
from torch import nn

from bilstm_server.model import RaggedBatch, load_model

Import = Callable[..., tuple[int, str]]

WIDTH, HIDDEN, CLASSES = 3, 4, 5


class Module(nn.Module):
    """An LSTM of two layers and a head, and what stands around them."""

    def __init__(self, read: int = 2 * HIDDEN, bidirectional: bool = True, **around: nn.Module):
        super().__init__()
        torch.manual_seed(0)
        self.lstm = nn.LSTM(WIDTH, HIDDEN, 2, bidirectional=bidirectional, batch_first=True)
        self.fc: nn.Module = nn.Linear(read, CLASSES)
        for name, module in around.items():
            setattr(self, name, module)


def assert_own_states(module: Module, folder: Path) -> None:
    """What is served gives the states of the module's LSTM, and nothing of a head."""
    encoder = load_model(folder / "out")
    assert encoder.config.output_names == ("states", "final", "mean", "max", "state")
    x = torch.randn(6, WIDTH)
    with torch.no_grad():
        states = encoder(x, RaggedBatch(np.array([6])))["states"]
        torch.testing.assert_close(states, module.lstm(x[None])[0][0], rtol=0, atol=1e-5)
