"""The fastest variant that this CPU runs, and how a missing one is refused."""

from __future__ import annotations

import pytest
import torch

from bilstm_server.model.kernels.cpu import build
from bilstm_server.model.kernels.cpu.build import Variant

CPU = torch.device("cpu")
FASTEST = next(iter(build.runnable()), None)

needs_avx2 = pytest.mark.skipif(FASTEST is None, reason=build.NO_VARIANT)


def fastest() -> Variant:
    assert FASTEST is not None
    return FASTEST
