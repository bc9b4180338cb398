"""A small module, frozen or not, what it is given, and its judge."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor, nn

from bilstm_server.model import BiLSTM
from bilstm_server.model.kernels import (
    KernelUnavailable,
)


@pytest.fixture(params=["unfrozen", "reference", "cpu"])
def module(request: pytest.FixtureRequest) -> BiLSTM:
    """Of two layers, both directions: input 3, hidden 4."""
    torch.manual_seed(0)
    lstm = BiLSTM(3, 4, num_layers=2).eval()
    if request.param == "unfrozen":
        return lstm
    try:
        return lstm.freeze(request.param)
    except KernelUnavailable as error:
        pytest.skip(str(error))


@pytest.fixture
def judge(module: BiLSTM) -> nn.LSTM:
    return module.to_torch()


@pytest.fixture
def x() -> Tensor:
    """[T, B, D]"""
    return torch.randn(5, 2, 3, generator=torch.Generator().manual_seed(1))
