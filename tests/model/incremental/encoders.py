"""Small random models, packed for a kernel, and what they are fed, for tests of `model/`."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor

from bilstm_server.model import ModelConfig, Pooling
from bilstm_server.model.bilstm import States
from bilstm_server.model.encoder import SequenceEncoder
from bilstm_server.model.kernels import KernelUnavailable, choose_kernel

VOCABULARY = 9


def encoder_of(
    kernel: str,
    dtype: torch.dtype = torch.float32,
    seed: int = 0,
    pooling: Pooling | None = None,
    **sizes: Any,
) -> SequenceEncoder:
    """`pooling`: of a head, if there is one. Skips the test where the kernel can't run."""
    try:
        chosen = choose_kernel(kernel, torch.device("cpu")).kernel
    except KernelUnavailable as error:
        pytest.skip(str(error))
    torch.manual_seed(seed)
    head = None if pooling is None else {"num_classes": 3, "pooling": pooling}
    fields = {"input_size": 5, "hidden_size": 6, "head": head, **sizes}
    config = ModelConfig.model_validate(fields)
    return SequenceEncoder(config, dtype=dtype).requires_grad_(False).freeze(chosen)


def draw_steps(encoder: SequenceEncoder, steps: int) -> Tensor:
    if encoder.embedding is not None:
        return torch.randint(VOCABULARY, (steps,))
    return torch.randn(steps, encoder.config.input_size, dtype=encoder.dtype)


def draw_state(encoder: SequenceEncoder) -> States:
    """[layers*K, P] and [layers*K, H]"""
    config = encoder.config
    h_0, c_0 = (
        torch.randn(config.state_rows, width, dtype=encoder.dtype)
        for width in (config.state_size, config.hidden_size)
    )
    return h_0, c_0
