"""LSTMs for tests: what is drawn, nn.LSTM's results as the judge, and how results compare."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from hypothesis import settings
from hypothesis import strategies as st
from torch import Tensor, nn
from torch.nn.utils.rnn import pack_sequence, unpack_sequence

from bilstm_server.model.bilstm import BiLSTM, States


def examples(count: int) -> settings:
    return settings(deadline=None, derandomize=True, max_examples=count)


seeds = st.integers(0, 2**31)


@st.composite
def architectures(draw: st.DrawFn, smallest: int = 1, largest: int = 6) -> dict[str, Any]:
    """nn.LSTM's arguments but `batch_first` and `dropout`, its sizes within these bounds."""
    hidden_size = draw(st.integers(smallest, largest))
    projections = st.integers(smallest, hidden_size - 1) if smallest < hidden_size else st.nothing()
    return {
        "input_size": draw(st.integers(smallest, largest)),
        "hidden_size": hidden_size,
        "num_layers": draw(st.integers(1, 3)),
        "bias": draw(st.booleans()),
        "bidirectional": draw(st.booleans()),
        "proj_size": draw(st.just(0) | projections),
    }


def pair(dtype: torch.dtype = torch.float64, seed: int = 0, **arguments: Any) -> tuple[Any, BiLSTM]:
    """nn.LSTM, the judge, and a BiLSTM of the same weights."""
    arguments = {"input_size": 3, "hidden_size": 4, "bidirectional": True} | arguments
    torch.manual_seed(seed)
    judge = nn.LSTM(**arguments, dtype=dtype)
    return judge, BiLSTM.from_torch(judge)


def draw_states(lstm: BiLSTM, sequences: int) -> States:
    dtype = lstm.get_parameter("weight_ih_l0").dtype
    rows = lstm.num_layers * lstm.num_directions
    h_0 = torch.randn(rows, sequences, lstm.output_size, dtype=dtype)
    return h_0, torch.randn(rows, sequences, lstm.hidden_size, dtype=dtype)


def judged(
    judge: nn.LSTM, x: Tensor, lengths: Sequence[int], hx: States | None = None
) -> tuple[Tensor, States]:
    """What `forward_ragged` must return, by way of nn.LSTM on the packed batch."""
    packed = pack_sequence(list(torch.split(x, list(lengths))), enforce_sorted=False)
    y, states = judge(packed, hx)
    return torch.cat(unpack_sequence(y)), states


def assert_close(actual: Any, expected: Any, tolerance: float, **options: Any) -> None:
    torch.testing.assert_close(actual, expected, rtol=tolerance, atol=tolerance, **options)


def assert_within(share: float, actual: Tensor, exact: Tensor, what: str = "") -> None:
    """The error's norm is at most this share of the float64 result's."""
    assert actual.shape == exact.shape
    error = (actual.detach().double() - exact.detach()).norm()
    assert error <= share * exact.norm(), what


def assert_near(
    actual: tuple[Tensor, States], exact: tuple[Tensor, States], dtype: torch.dtype
) -> None:
    """Half precision's criterion: y, h_n and c_n are of the type, and within 1e-2 of float64's."""
    for one, other in zip((actual[0], *actual[1]), (exact[0], *exact[1]), strict=True):
        assert one.dtype == dtype
        assert_within(1e-2, one, other)


def by_sequence(
    results: tuple[Tensor, States], lengths: Sequence[int]
) -> list[tuple[Tensor, Tensor, Tensor]]:
    """Each sequence's own y, h_n and c_n."""
    y, (h_n, c_n) = results
    return list(zip(torch.split(y, list(lengths)), h_n.unbind(1), c_n.unbind(1), strict=True))
