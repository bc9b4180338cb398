"""`torch.from_numpy`, which torch shows to nobody: arrays of a recording come back as tensors."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor

from ..symbols import SymbolicArray


@contextmanager
def arrays_return() -> Iterator[None]:
    """Within, tensors of arrays that depend on an input depend on it too."""
    plain = torch.from_numpy

    def recorded(ndarray: Any) -> Tensor:
        return torch.as_tensor(ndarray) if isinstance(ndarray, SymbolicArray) else plain(ndarray)

    torch.from_numpy = recorded
    try:
        yield
    finally:
        torch.from_numpy = plain
