"""The bytes of checkpoints, arrays and archives, as files hold them."""

from __future__ import annotations

import io
import zipfile
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn


def lstm_tensors() -> dict[str, Tensor]:
    torch.manual_seed(0)
    return {f"lstm.{name}": tensor for name, tensor in nn.LSTM(3, 4).state_dict().items()}


def saved(content: object, **options: Any) -> bytes:
    buffer = io.BytesIO()
    torch.save(content, buffer, **options)
    return buffer.getvalue()


def archive(*names: str) -> bytes:
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w") as made:
        for name in names:
            made.writestr(name, b"")
    return buffer.getvalue()


def array() -> bytes:
    buffer = io.BytesIO()
    np.save(buffer, np.ones(2))
    return buffer.getvalue()
