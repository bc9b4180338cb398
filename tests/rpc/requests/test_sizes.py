"""How large outputs are is known before they are computed: torch's own windows are the judge."""

from __future__ import annotations

import torch
from hypothesis import given
from hypothesis import settings as examples
from hypothesis import strategies as st

from bilstm.sizes import output_elements, output_rows

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
            assert output_rows(steps, described) == 0
            return
        weight = torch.zeros(1, 1, kernel)
        rows = torch.conv1d(rows, weight, None, stride, padding, dilation)
    assert output_rows(steps, described) == rows.shape[2]
    assert output_elements(steps, 3, per_step=True, windows=described) == 3 * rows.shape[2]


def test_one_row_for_the_sequence() -> None:
    """An output of the whole sequence has one row, however long the sequence is."""
    assert output_elements(1000, 20, per_step=False) == 20
