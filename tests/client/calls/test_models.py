"""What the client knows of a model's outputs: torch's own windows are the judge of their rows."""

from __future__ import annotations

import torch
from hypothesis import given
from hypothesis import settings as examples
from hypothesis import strategies as st

from bilstm_client import OutputInfo

windows = st.tuples(*(st.integers(1, 4) for _ in range(3)), st.integers(0, 3))


@given(steps=st.integers(1, 40), layers=st.lists(windows, max_size=3))
@examples(deadline=None, derandomize=True)
def test_rows_after_windows(steps: int, layers: list[tuple[int, int, int, int]]) -> None:
    """Convolutions in a row leave as many rows as torch's, or none where torch has none to give."""
    rows = torch.zeros(1, 1, steps)
    described = []
    for kernel, stride, dilation, padding in layers:
        described.append((2 * padding - dilation * (kernel - 1) - 1, stride))
        if rows.shape[2] + 2 * padding <= dilation * (kernel - 1):
            rows = rows[:, :, :0]
            break
        weight = torch.zeros(1, 1, kernel)
        rows = torch.conv1d(rows, weight, None, stride, padding, dilation)
    info = OutputInfo("logits", per_step=True, width=1, windows=tuple(described))
    assert info.rows(steps) == rows.shape[2]
