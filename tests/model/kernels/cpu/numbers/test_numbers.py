"""The compiled CPU kernel's numbers are nn.LSTM's, in every variant and type."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given

from bilstm_server.model.kernels.cpu.kernel import CpuKernel
from tests.model.kernels.cpu.numbers.drawn import (
    Case,
    Drawn,
    cases,
    draw,
    every_big_case,
    every_dtype,
)
from tests.support.lstms import (
    assert_close,
    assert_near,
    examples,
    judged,
)

pytestmark = [
    pytest.mark.usefixtures("one_thread"),
    pytest.mark.filterwarnings("ignore:TF32 acceleration on top of oneDNN"),  # of switching it off
]


def assert_right(drawn: Drawn, kernel: CpuKernel) -> None:
    judge, ours, x, lengths, hx = drawn
    with torch.inference_mode():
        actual = ours.freeze(kernel).forward_ragged(x, lengths, hx)
        exact_hx = None if hx is None else (hx[0].double(), hx[1].double())
        exact = judged(judge.double(), x.double(), lengths, exact_hx)
    if x.dtype == torch.float32:
        assert_close(actual, exact, 1e-5, check_dtype=False)
    else:
        assert_near(actual, exact, x.dtype)


@examples(25)
@given(cases())
def test_float32(kernel: CpuKernel, case: Case) -> None:
    """In float32, outputs and final states are within 1e-5 of nn.LSTM's in float64."""
    assert_right(draw(case, torch.float32), kernel)


@examples(25)
@given(cases(smallest=8))
def test_bfloat16(kernel: CpuKernel, case: Case) -> None:
    """In bfloat16, outputs and final states are within 1e-2 of float64's of the same weights."""
    assert_right(draw(case._replace(stateful=True), torch.bfloat16), kernel)


@every_big_case
@every_dtype
def test_big(kernel: CpuKernel, dtype: torch.dtype, case: Case) -> None:
    """Results are right where many sequences make several groups, and many units several panels."""
    assert_right(draw(case, dtype), kernel)
