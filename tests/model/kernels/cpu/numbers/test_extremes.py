"""At the ends of the numbers the CPU kernel gives what nn.LSTM gives: saturated, overflowing, and
not finite.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from bilstm_server.model.bilstm import BiLSTM, States
from bilstm_server.model.kernels.cpu.kernel import CpuKernel
from tests.model.kernels.cpu.numbers.drawn import every_dtype, same_bits
from tests.support.lstms import (
    assert_close,
    by_sequence,
    draw_states,
    judged,
    pair,
)

pytestmark = [
    pytest.mark.usefixtures("one_thread"),
    pytest.mark.filterwarnings("ignore:TF32 acceleration on top of oneDNN"),  # of switching it off
]

# Powers of two, so that with the weights below every sum is exact, in whatever order.
LARGE = [2.0**7, 2.0**13, 2.0**100]


def signs(shape: Sequence[int]) -> Tensor:
    return torch.randint(-1, 2, tuple(shape)).float()


def draw_of_signs(dtype: torch.dtype, weights: float, **arguments: Any) -> tuple[nn.LSTM, BiLSTM]:
    """Modules whose weights are 0, `weights` and -`weights`."""
    judge, ours = pair(dtype, input_size=21, hidden_size=37, **arguments)
    with torch.no_grad():
        for parameter in judge.parameters():
            parameter.copy_(signs(parameter.shape) * weights)
    ours.load_state_dict(judge.state_dict())
    return judge, ours


def assert_like_float32(
    judge: nn.LSTM, ours: BiLSTM, x: Tensor, lengths: list[int], hx: States
) -> None:
    """The results are those of nn.LSTM in float32, where a bfloat16 has the same range."""
    with torch.inference_mode(), torch.backends.mkldnn.flags(enabled=False):
        states = (hx[0].float(), hx[1].float())
        expected = judged(judge.float(), x.float(), lengths, states)
    tolerance = 1e-5 if x.dtype == torch.float32 else 1e-2
    actual = ours.forward_ragged(x, lengths, hx)
    assert_close(actual, expected, tolerance, equal_nan=True, check_dtype=False)


@every_dtype
@pytest.mark.parametrize("weights", [1.0, 2.0**13])
@pytest.mark.parametrize("inputs", [1.0, *LARGE])
def test_saturated(kernel: CpuKernel, dtype: torch.dtype, inputs: float, weights: float) -> None:
    """Gates far beyond saturation give what they give in nn.LSTM."""
    judge, ours = draw_of_signs(dtype, weights, bias=False)
    x = (signs((50, 21)) * inputs).to(dtype)
    h_0, c_0 = draw_states(ours, 50)
    hx = ((signs(h_0.shape) * inputs).to(dtype), (signs(c_0.shape) * inputs).to(dtype))
    assert_like_float32(judge, ours.freeze(kernel), x, [1] * 50, hx)


@every_dtype
def test_overflow(kernel: CpuKernel, dtype: torch.dtype) -> None:
    """Products beyond the largest number give what they give in nn.LSTM."""
    judge, ours = draw_of_signs(dtype, 2.0**100, bias=False)
    with torch.no_grad():
        for parameter in judge.parameters():  # of one sign in a row: no infinity meets another
            parameter.abs_().mul_(signs((len(parameter), 1)))
    ours.load_state_dict(judge.state_dict())
    x = torch.full((50, 21), 2.0**100, dtype=dtype)
    h_0, c_0 = draw_states(ours, 50)
    assert_like_float32(judge, ours.freeze(kernel), x, [1] * 50, (h_0 * 0, c_0 * 2.0**100))


@every_dtype
@pytest.mark.parametrize("inputs", LARGE)
def test_large_inputs(kernel: CpuKernel, dtype: torch.dtype, inputs: float) -> None:
    """Steps of saturated gates give what they give in nn.LSTM."""
    judge, ours = draw_of_signs(dtype, 0.25, bias=False, proj_size=5)
    lengths = [1, 9, 4, 30, 4]
    x = (signs((sum(lengths), 21)) * inputs).to(dtype)
    assert_like_float32(judge, ours.freeze(kernel), x, lengths, draw_states(ours, 5))


@every_dtype
@pytest.mark.parametrize("value", [float("inf"), -float("inf"), float("nan")])
@pytest.mark.parametrize("place", ["x", "h_0", "c_0"])
@pytest.mark.parametrize("proj_size", [0, 5])
def test_not_finite(
    kernel: CpuKernel, dtype: torch.dtype, value: float, place: str, proj_size: int
) -> None:
    """An infinity or a NaN, in x or a state, gives what it gives in nn.LSTM, and changes no bit of
    the sequences that have none."""
    judge, ours = draw_of_signs(dtype, 0.25, proj_size=proj_size)
    ours.freeze(kernel)
    lengths = [1 + index % 7 for index in range(30)]
    x = torch.randn(sum(lengths), 21, dtype=dtype)
    h_0, c_0 = draw_states(ours, len(lengths))
    clean = by_sequence(ours.forward_ragged(x, lengths, (h_0, c_0)), lengths)
    sick = range(0, len(lengths), 3)
    rows = torch.split(x, lengths)
    for index in sick:
        row = {"x": rows[index][-1], "h_0": h_0[1, index], "c_0": c_0[0, index]}[place]
        row[index % len(row)] = value
    assert_like_float32(judge, ours, x, lengths, (h_0, c_0))
    actual = by_sequence(ours.forward_ragged(x, lengths, (h_0, c_0)), lengths)
    for index in set(range(len(lengths))) - set(sick):
        assert same_bits(actual[index], clean[index])


@every_dtype
@pytest.mark.parametrize("gate", [-200.0, -float("inf")])
def test_infinite_cell_forgotten(kernel: CpuKernel, dtype: torch.dtype, gate: float) -> None:
    """An infinite cell times a forget gate of exactly 0 is a NaN, as in nn.LSTM."""
    judge, ours = draw_of_signs(dtype, 0.0)
    with torch.no_grad():
        for name, parameter in judge.named_parameters():
            if name.startswith("bias_ih"):
                parameter[37:74] = gate
    ours.load_state_dict(judge.state_dict())
    hx = draw_states(ours, 3)
    hx[1][:, 1] = float("inf")
    x = torch.randn(6, 21, dtype=dtype)
    ours.freeze(kernel)
    assert ours.forward_ragged(x, [2, 2, 2], hx)[1][1][:, 1].isnan().all()
    assert_like_float32(judge, ours, x, [2, 2, 2], hx)


@every_dtype
def test_leftovers(kernel: CpuKernel, dtype: torch.dtype) -> None:
    """What a wider layer of NaNs left in a thread's buffers reaches no result."""
    _, narrow = pair(dtype, input_size=21, hidden_size=37, proj_size=13)
    _, wide = pair(dtype, input_size=70, hidden_size=90, proj_size=65)
    x = torch.randn(20, 21, dtype=dtype)
    narrow.freeze(kernel)
    expected, _ = narrow.forward_ragged(x, [20])
    wide.freeze(kernel)(torch.full((9, 40, 70), float("nan"), dtype=dtype))
    assert torch.equal(narrow.forward_ragged(x, [20])[0], expected)
