"""What the operator's tests draw, and with which kernels and types they run."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import pytest
import torch
from hypothesis import strategies as st
from torch import Tensor, nn
from torch.nn.utils.rnn import PackedSequence, pack_sequence

from bilstm_server.model.bilstm import BiLSTM, States
from bilstm_server.model.kernels import (
    NAMES,
    KernelUnavailable,
    choose_kernel,
)

TOLERANCE = {torch.float64: 1e-10, torch.float32: 1e-5}
FORMS = ("time first", "batch first", "unbatched", "packed sorted", "packed unsorted")
LENGTHS = [5, 1, 7, 3, 7]


def kernel_or_skip(name: str) -> Any:
    try:
        return pytest.param(choose_kernel(name, torch.device("cpu")).kernel, id=name)
    except KernelUnavailable as error:
        return pytest.param(None, id=name, marks=pytest.mark.skip(str(error)))


every_kernel = pytest.mark.parametrize("kernel", [kernel_or_skip(name) for name in NAMES])
every_dtype = pytest.mark.parametrize("dtype", TOLERANCE, ids=str)

ragged_lengths = st.lists(st.integers(1, 7), min_size=1, max_size=6)


def draw_input(form: str, lengths: list[int], width: int) -> Tensor | PackedSequence:
    """`lengths` count for the packed forms; the others take the number and the first of them."""
    if form == "unbatched":
        return torch.randn(lengths[0], width, dtype=torch.float64)
    if form == "time first":
        return torch.randn(lengths[0], len(lengths), width, dtype=torch.float64)
    if form == "batch first":
        return torch.randn(len(lengths), lengths[0], width, dtype=torch.float64)
    if form == "packed sorted":
        lengths = sorted(lengths, reverse=True)
    sequences = [torch.randn(length, width, dtype=torch.float64) for length in lengths]
    return pack_sequence(sequences, enforce_sorted=form == "packed sorted")


def gradients(results: tuple[Tensor, States], leaves: Sequence[Tensor]) -> tuple[Tensor, ...]:
    """Of a loss in which every number of y, h_n and c_n counts, and differently.

    All of them count positively: y's and h_n's share of a gradient never cancel each other.
    """
    y, (h_n, c_n) = results
    loss = torch.zeros((), dtype=torch.float64)
    for t in (y, h_n, c_n):
        probe = 2 + torch.arange(t.numel(), dtype=torch.float64).cos().reshape(t.shape)
        loss = loss + (t.double() * probe).sum()
    return torch.autograd.grad(loss, list(leaves))


def named_parameters(lstm: nn.LSTM | BiLSTM) -> tuple[list[str], list[Tensor]]:
    return [n for n, _ in lstm.named_parameters()], [p for _, p in lstm.named_parameters()]
