"""What the CPU kernel's tests draw, when results have the same bits, and in how many threads."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any, NamedTuple

import pytest
import torch
from hypothesis import strategies as st
from torch import Tensor, nn

from bilstm_server.model.bilstm import BiLSTM, States
from tests.support.lstms import (
    architectures,
    draw_states,
    pair,
    seeds,
)

every_dtype = pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16], ids=str)


class Case(NamedTuple):
    """A ragged batch, and the LSTM that runs it: its sizes meet full and part vectors, tiles,
    blocks of rows and groups of sequences."""

    architecture: dict[str, Any]
    sequences: int
    longest: int
    stateful: bool
    seed: int


def cases(smallest: int = 1) -> st.SearchStrategy[Case]:
    return st.builds(
        Case,
        architectures(smallest, 70),
        st.integers(1, 70),
        st.integers(1, 40),
        st.booleans(),
        seeds,
    )


def architecture(input_size: int, hidden_size: int, **others: Any) -> dict[str, Any]:
    return {"input_size": input_size, "hidden_size": hidden_size, "bidirectional": True} | others


BIG_CASES = [
    Case(architecture(40, 96), 300, 4, True, 0),
    Case(architecture(33, 96, proj_size=65, num_layers=2), 140, 6, True, 1),
    Case(architecture(128, 130, bidirectional=False), 7, 40, False, 2),
]
every_big_case = pytest.mark.parametrize("case", BIG_CASES, ids=["many", "projected", "wide"])


class Drawn(NamedTuple):
    """A case's modules and inputs."""

    judge: nn.LSTM
    ours: BiLSTM
    x: Tensor
    lengths: list[int]
    hx: States | None


def draw(case: Case, dtype: torch.dtype) -> Drawn:
    judge, ours = pair(dtype, case.seed, **case.architecture)
    lengths = torch.randint(1, case.longest + 1, (case.sequences,)).tolist()
    x = torch.randn(sum(lengths), ours.input_size, dtype=dtype)
    hx = draw_states(ours, case.sequences) if case.stateful else None
    return Drawn(judge, ours, x, lengths, hx)


def same_bits(one: Sequence[Tensor], other: Sequence[Tensor]) -> bool:
    """As `torch.equal`, but a NaN equals itself, and 0.0 not -0.0."""
    words = {torch.float32: torch.int32, torch.bfloat16: torch.int16}
    return all(
        torch.equal(a.view(words[a.dtype]), b.view(words[b.dtype]))
        for a, b in zip(one, other, strict=True)
    )


@contextmanager
def threads(count: int) -> Iterator[None]:
    """So many threads compute, in place of the number before."""
    before = torch.get_num_threads()
    torch.set_num_threads(count)
    try:
        yield
    finally:
        torch.set_num_threads(before)
