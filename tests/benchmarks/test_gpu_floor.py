"""The floors of the GPU benchmark: each term, where it alone is large. Needs no GPU."""

from __future__ import annotations

import pytest

from benchmarks.gpu.floor import H200, Rates, floor

# A GPU on which nothing takes any time but what a test makes slow.
ENDLESS = 1e30


def rates(**slow: float) -> Rates:
    given = dict.fromkeys(("bfloat16", "tf32", "float32", "memory", "l2"), ENDLESS)
    return Rates(**(given | {"on_chip_bytes": 2**40} | slow))  # type: ignore[arg-type]


def test_operations_are_those_of_both_directions_and_all_gates() -> None:
    """W_ih x and W_hh h: 2 * 2 * 4H * (W + H) operations for each step of each sequence."""
    operations = 2 * 2 * 4 * 64 * (128 + 64) * (3 + 2)
    assert floor("bfloat16", 128, 64, [3, 2], rates(bfloat16=2.0)) == pytest.approx(
        operations / 2e6
    )


def test_float32_may_come_from_the_tensor_cores() -> None:
    """float32 comes from three products of TF32 where that is faster than its own."""
    own = floor("float32", 64, 64, [1], rates(float32=10.0, tf32=3.0))
    three = floor("float32", 64, 64, [1], rates(float32=1.0, tf32=30.0))
    assert own == pytest.approx(three)
    assert floor("tf32", 64, 64, [1], rates(float32=1.0, tf32=10.0)) == pytest.approx(own)


@pytest.mark.parametrize(("arithmetic", "item"), [("bfloat16", 2), ("tf32", 4), ("float32", 4)])
def test_inputs_are_read_and_outputs_written_once(arithmetic: str, item: int) -> None:
    found = floor(arithmetic, 128, 64, [3, 2], rates(memory=0.5))
    assert found == pytest.approx(5 * (128 + 2 * 64) * item / 0.5e6)


def test_only_weights_that_do_not_fit_on_chip_come_from_l2() -> None:
    """In each step, once for all its sequences."""
    weights = 2 * 4 * 64 * 64 * 2
    fits = rates(l2=2.0, on_chip_bytes=weights)
    assert floor("bfloat16", 64, 64, [8, 8, 1], fits) == pytest.approx(0, abs=1e-12)
    half = rates(l2=2.0, on_chip_bytes=weights // 2)
    assert floor("bfloat16", 64, 64, [8, 8, 1], half) == pytest.approx(3 * weights / 2 / 2e6)


def test_a_chain_of_steps_waits_for_each() -> None:
    """A step takes what it computes or what it waits, whichever is longer."""
    assert floor("bfloat16", 64, 64, [1] * 10, rates(step=1.5)) == pytest.approx(15)
    one = 2 * 2 * 4 * 64 * 64 / 1e6  # of one sequence, at 1 TFLOP/s
    found = floor("bfloat16", 64, 64, [8, 1], rates(bfloat16=1.0, step=2 * one))
    assert found == pytest.approx(9 * one + 8 * one + 2 * one)  # projection, and the two steps


def test_no_wait_is_known_from_a_datasheet() -> None:
    assert H200.step is None
    assert floor("bfloat16", 64, 64, [1], H200) < 0.01
