"""How large slices are: as large as the time allows that they may take, and no larger
than memory.
"""

from __future__ import annotations

from bilstm_server.batching.pace import SlicePace
from bilstm_server.model.incremental.slices import SLICE_UNIT


def test_slices_grow_and_shrink_to_the_time_they_may_take() -> None:
    """Slices grow and shrink by a factor of two at most, and never below a unit."""
    pace = SlicePace(slice_seconds=0.002, max_sequences=3)
    pace.want(0.0)
    assert (pace.steps, pace.sequences) == (SLICE_UNIT, 1)
    pace.observe(0.0001, 0.0)
    assert (pace.steps, pace.sequences) == (2 * SLICE_UNIT, 2)
    pace.observe(0.001, 0.0)
    assert (pace.steps, pace.sequences) == (4 * SLICE_UNIT, 3)
    pace.observe(0.002, 0.0)
    assert pace.steps == 4 * SLICE_UNIT
    pace.observe(0.1, 0.0)
    assert pace.steps == 2 * SLICE_UNIT
    for _ in range(3):
        pace.observe(0.1, 0.0)
    assert pace.steps == SLICE_UNIT


def test_slices_take_longer_where_nothing_else_comes() -> None:
    """Ten times as long, a second after something else wanted the device last."""
    pace = SlicePace(slice_seconds=0.002, max_sequences=3)
    pace.want(5.0)
    pace.observe(0.002, 6.0)
    assert pace.steps == SLICE_UNIT
    pace.observe(0.002, 6.1)
    assert pace.steps == 2 * SLICE_UNIT
    pace.observe(0.02, 6.2)
    assert pace.steps == 2 * SLICE_UNIT


def test_slices_that_do_not_fit_into_memory_are_halved() -> None:
    """Slices that do not fit into memory are halved, down to one unit and no further."""
    pace = SlicePace(slice_seconds=0.002, max_sequences=3)
    assert not pace.halve()
    pace.observe(0.0001, 0.0)
    pace.observe(0.0001, 0.0)
    assert pace.halve()
    assert pace.steps == 2 * SLICE_UNIT
    assert pace.halve()
    assert not pace.halve()
    assert pace.steps == SLICE_UNIT
