"""Under autocast, and with types and devices that do not match, `BiLSTM` gives what nn.LSTM gives,
or says what it expects.
"""

from __future__ import annotations

import pytest
import torch
from torch import Tensor
from torch.nn.utils.rnn import PackedSequence

from bilstm_server.model.bilstm import BiLSTM, States
from bilstm_server.model.kernels import (
    Kernel,
)
from tests.model.operator.drawing import (
    FORMS,
    LENGTHS,
    draw_input,
    every_kernel,
    gradients,
    named_parameters,
)
from tests.support.lstms import (
    assert_close,
    assert_within,
    draw_states,
    judged,
    pair,
)

pytestmark = pytest.mark.usefixtures("one_thread")


@pytest.mark.filterwarnings("ignore:TF32 acceleration on top of oneDNN")  # of switching it off
@pytest.mark.parametrize("form", FORMS)
@pytest.mark.parametrize("proj_size", [0, 24])
@pytest.mark.parametrize("state_dtype", [None, torch.float32, torch.bfloat16], ids=str)
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16], ids=str)
def test_autocast(
    dtype: torch.dtype, state_dtype: torch.dtype | None, proj_size: int, form: str
) -> None:
    """Under autocast, inputs and states of other types than the weights' give results of the types
    that nn.LSTM gives, frozen or not, and right ones."""
    batch_first = form == "batch first"
    judge, ours = pair(torch.float32, hidden_size=32, num_layers=2, proj_size=proj_size,
                       batch_first=batch_first)  # fmt: skip
    x = draw_input(form, LENGTHS, 3).to(dtype)
    hx = None
    if state_dtype is not None:
        h_0, c_0 = draw_states(ours, len(LENGTHS))
        hx = (h_0.to(state_dtype), c_0.to(state_dtype))
        hx = (hx[0][:, 0], hx[1][:, 0]) if form == "unbatched" else hx
    # Without oneDNN, whose types depend on what the CPU can do: some CPUs refuse.
    with torch.autocast("cpu", torch.bfloat16), torch.backends.mkldnn.flags(enabled=False):
        expected = judge(x, hx)
        runs = [ours(x, hx), ours.freeze()(x, hx)]
    exact = judge.double()(x.double(), (hx[0].double(), hx[1].double()) if hx else None)
    for actual in runs:
        for own, theirs, right in zip(*map(flat, (actual, expected, exact)), strict=True):
            assert own.dtype == theirs.dtype
            assert_within(1e-2, own, right)


def flat(results: tuple[Tensor | PackedSequence, States]) -> tuple[Tensor, Tensor, Tensor]:
    y, (h_n, c_n) = results
    return (y if isinstance(y, Tensor) else y.data), h_n, c_n


def test_training_under_autocast() -> None:
    """Under autocast, the gradients are nn.LSTM's, in the weights' type."""
    judge, ours = pair(torch.float32, hidden_size=32, proj_size=24)
    x = torch.randn(sum(LENGTHS), 3, dtype=torch.bfloat16)
    hx = draw_states(ours, len(LENGTHS))
    exact = judged(judge.double(), x.double(), LENGTHS, (hx[0].double(), hx[1].double()))
    with torch.autocast("cpu", torch.bfloat16):
        actual = ours.forward_ragged(x, LENGTHS, hx)
    (_, theirs), (_, own) = named_parameters(judge), named_parameters(ours)
    for one, other in zip(gradients(actual, own), gradients(exact, theirs), strict=True):
        assert one.dtype == torch.float32
        assert_within(3e-2, one, other)


def test_double_under_autocast() -> None:
    """Autocast leaves float64 alone, as it does in nn.LSTM."""
    judge, ours = pair()
    x = torch.randn(sum(LENGTHS), 3, dtype=torch.float64)
    with torch.autocast("cpu", torch.bfloat16):
        assert_close(ours.forward_ragged(x, LENGTHS), judged(judge, x, LENGTHS), 1e-10)


@pytest.mark.parametrize("autocast", [False, True])
@pytest.mark.parametrize(
    ("weights", "x", "state", "reason"),
    [
        (torch.float32, torch.float64, torch.float64, "x must be torch.float32"),
        (torch.float64, torch.float32, torch.float32, "x must be torch.float64"),
        (torch.float32, torch.int64, torch.float32, "x must be torch.float32"),
        (torch.float32, torch.float32, torch.float64, "hx must be torch.float32"),
    ],
)
def test_invalid_types(
    weights: torch.dtype, x: torch.dtype, state: torch.dtype, reason: str, autocast: bool
) -> None:
    """Types that nothing converts raise a ValueError that says which is expected."""
    ours = BiLSTM(3, 4, dtype=weights)
    hx = (torch.zeros(2, 1, 4, dtype=state), torch.zeros(2, 1, 4, dtype=state))
    with (
        torch.autocast("cpu", torch.bfloat16, enabled=autocast),
        pytest.raises(ValueError, match=reason),
    ):
        ours.forward_ragged(torch.zeros(5, 3, dtype=x), [5], hx)


@every_kernel
@pytest.mark.parametrize("place", ["x", "h_0", "c_0"])
def test_invalid_device(place: str, kernel: Kernel) -> None:
    """An input or state on another device raises a ValueError that names it: a kernel reads what
    it is given."""
    ours = BiLSTM(3, 4).freeze(kernel)
    given = {"x": torch.zeros(5, 3), "h_0": torch.zeros(2, 1, 4), "c_0": torch.zeros(2, 1, 4)}
    given[place] = given[place].to("meta")
    with pytest.raises(ValueError, match=f"{place} must be on cpu, got meta"):
        ours.forward_ragged(given["x"], [5], (given["h_0"], given["c_0"]))
