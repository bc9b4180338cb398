"""What a `SlicedRun` takes and holds, what a failure leaves of it, and what it refuses."""

from __future__ import annotations

import weakref
from typing import Any, cast

import pytest
from torch import Tensor

from bilstm_server.model.incremental.slices import SLICE_UNIT, SlicedRun, advance
from bilstm_server.model.layers.interface import Accumulator, WholeLayer
from tests.model.incremental.encoders import draw_inputs, graph_of
from tests.model.incremental.slicing import (
    EVERY,
    assert_same_bits,
    encoder_of,
    finish,
    run_of,
    whole,
)

pytestmark = pytest.mark.usefixtures("one_thread")


@pytest.mark.parametrize("steps", [0, 1, 63, 64, 127])
def test_smallest_slice(steps: int) -> None:
    """A slice is a multiple of the unit, and at least one; what is left over goes to the backward
    direction's first."""
    encoder = encoder_of("cpu", num_layers=1)
    asked: list[tuple[int, int]] = []
    (x,) = draw_inputs(encoder, 150)

    def rows(start: int, stop: int) -> list[Tensor]:
        asked.append((start, stop))
        return [x[start:stop]]

    run = SlicedRun(encoder, rows, len(x), EVERY)
    assert advance([run], steps) == (64 + 86) // 2
    assert asked == [(0, SLICE_UNIT), (64, 150)]
    assert advance([run], steps) == 64
    assert asked[2:] == [(64, 128), (0, 64)]
    assert advance([run], steps) == 150 - 75 - 64
    assert asked[4:] == [(128, 150)]
    assert run.done


def test_input_is_dropped() -> None:
    """The input is let go of once the first layer has read it."""
    encoder = encoder_of("cpu")
    x = draw_inputs(encoder, 200)
    steps = x[0].clone()

    def rows(start: int, stop: int) -> list[Tensor]:
        return [steps[start:stop]]

    run = SlicedRun(encoder, rows, len(steps), EVERY)
    held = weakref.ref(rows)
    del rows
    first = run.stage
    while run.stage == first:
        assert held() is not None
        advance([run], 64)
    assert held() is None
    finish([run], [64])
    assert_same_bits(run.encodings(), whole(encoder, x))


def test_failure_moves_no_run() -> None:
    """Where something fails no run has moved: the next attempt goes on from there."""
    encoder = encoder_of("cpu")
    xs = [draw_inputs(encoder, 300), draw_inputs(encoder, 200)]
    failing = False

    def rows(start: int, stop: int) -> list[Tensor]:
        if failing:
            raise MemoryError
        return [xs[1][0][start:stop]]

    runs = [run_of(encoder, xs[0]), SlicedRun(encoder, rows, 200, EVERY)]
    advance(runs, 64)
    failing, left = True, [run.tokens_left for run in runs]
    with pytest.raises(MemoryError):
        advance(runs, 64)
    assert [run.tokens_left for run in runs] == left
    failing = False
    finish(runs, [64])
    for run, x in zip(runs, xs, strict=True):
        assert_same_bits(run.encodings(), whole(encoder, x))


def test_failure_within_a_sweep(monkeypatch: pytest.MonkeyPatch) -> None:
    """Where a layer that reads the whole sequence fails, those that had read the same steps do not
    read them again, also if the next attempt has fewer."""
    encoder = graph_of(
        "cpu",
        {"x": {"width": 5}},
        {"name": "lstm", "type": "lstm", "hidden_size": 6},
        {"name": "scores", "type": "linear", "width": 2},
        {"name": "attention", "type": "attention", "inputs": ["lstm", "scores"]},
        {"name": "weights", "type": "softmax_steps", "inputs": ["scores"]},
    )
    outputs = ["attention", "weights"]
    xs = [draw_inputs(encoder, 300) for _ in range(2)]
    runs = [run_of(encoder, x, outputs) for x in xs]
    while runs[0].tokens_left > 300:
        advance(runs, 300)
    advance(runs, 64)
    left = [run.tokens_left for run in runs]
    softmax = cast(WholeLayer, encoder.get_submodule("weights"))
    accumulator = type(softmax.sliced(1, encoder.dtype))
    add: Any = accumulator.add
    added = 0

    def failing(self: Accumulator, start: int, *rows: Tensor) -> None:
        nonlocal added
        added += 1
        if added == 2:
            raise MemoryError
        add(self, start, *rows)

    monkeypatch.setattr(accumulator, "add", failing)
    with pytest.raises(MemoryError):
        advance(runs, 192)
    assert [run.tokens_left for run in runs] == left
    finish(runs, [64])
    for run, x in zip(runs, xs, strict=True):
        assert_same_bits(run.encodings(), whole(encoder, x, outputs))


def test_runs_that_do_not_go_together() -> None:
    """Runs of several encoders or stages, or done, or none at all, are a ValueError."""
    encoder, other = encoder_of("reference"), encoder_of("reference")
    x = draw_inputs(encoder, 10)
    done, further = run_of(encoder, x), run_of(encoder, x)
    finish([done], [64])
    advance([further], 64)
    new = run_of(encoder, x)
    for runs in ([], [done], [new, further], [new, run_of(other, x)]):
        with pytest.raises(ValueError, match="runs must be"):
            advance(runs, 64)


def test_too_early() -> None:
    """The encodings of a sequence that is not done are a ValueError."""
    encoder = encoder_of("reference")
    run = run_of(encoder, draw_inputs(encoder, 10))
    with pytest.raises(ValueError, match="not encoded yet"):
        run.encodings()


def test_unknown_output() -> None:
    """Asking for an output that the model does not have is a KeyError at once."""
    encoder = encoder_of("reference", pooling=None)
    with pytest.raises(KeyError, match="logits"):
        run_of(encoder, draw_inputs(encoder, 10))
