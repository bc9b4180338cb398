"""Small random models, packed for a kernel, and what they are fed, for tests of `model/`."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor

from bilstm_server.model import ModelConfig, PlainConfig, Pooling, SequenceEncoder
from bilstm_server.model.bilstm import States
from bilstm_server.model.kernels import KernelUnavailable, choose_kernel

VOCABULARY = 9


def encoder_of(
    kernel: str,
    dtype: torch.dtype = torch.float32,
    seed: int = 0,
    pooling: Pooling | None = None,
    **sizes: Any,
) -> SequenceEncoder:
    """A model of the first format. `pooling`: of a head, if there is one. Skips the test where the
    kernel can't run."""
    head = None if pooling is None else {"num_classes": 3, "pooling": pooling}
    fields = {"input_size": 5, "hidden_size": 6, "head": head, **sizes}
    return frozen(PlainConfig.model_validate(fields).graph(), kernel, dtype, seed)


def graph_of(kernel: str, inputs: dict[str, Any], *layers: dict[str, Any]) -> SequenceEncoder:
    """A model of these layers, each of whose values is an output of the same name, in float32;
    parts have `_` for `.`."""
    fields = {"inputs": inputs, "layers": layers}
    values = ModelConfig.model_validate(fields | {"outputs": {"x": layers[0]["name"]}}).values
    outputs = {name.replace(".", "_"): name for name in values}
    return frozen(ModelConfig.model_validate(fields | {"outputs": outputs}), kernel)


def frozen(
    config: ModelConfig, kernel: str, dtype: torch.dtype = torch.float32, seed: int = 0
) -> SequenceEncoder:
    """A model of random weights. Skips the test where the kernel can't run."""
    try:
        chosen = choose_kernel(kernel, torch.device("cpu")).kernel
    except KernelUnavailable as error:
        pytest.skip(str(error))
    torch.manual_seed(seed)
    encoder = SequenceEncoder(config).to(dtype).requires_grad_(False)
    for lstm in encoder.lstms:
        if lstm.config.initial_states:
            lstm.h_0.normal_()
            lstm.c_0.normal_()
    return encoder.freeze(chosen)


def draw_inputs(encoder: SequenceEncoder, steps: int) -> list[Tensor]:
    """[T, width] of floats or [T] of ids for each input"""
    return [
        torch.randint(value.ids, (steps,))
        if value.ids
        else torch.randn(steps, value.width, dtype=encoder.dtype)
        for value in (of.value for of in encoder.config.inputs.values())
    ]


def draw_state(encoder: SequenceEncoder) -> States:
    """[L*K, P] and [L*K, H]"""
    assert encoder.config.state is not None
    rows, *widths, _ = encoder.config.state
    h_0, c_0 = (torch.randn(rows, width, dtype=encoder.dtype) for width in widths)
    return h_0, c_0
