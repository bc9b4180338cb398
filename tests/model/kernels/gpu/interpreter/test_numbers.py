"""The gpu kernel's numbers without a GPU are nn.LSTM's, in any batch, by both kinds of programs."""

from __future__ import annotations

from typing import Any

import hypothesis
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from bilstm_server.model.bilstm import BiLSTM
from bilstm_server.model.kernels.ragged import RaggedBatch
from bilstm_server.model.kernels.reference import ReferenceLayer
from tests.support.lstms import assert_within, draw_states, judged, pair, seeds

pytest.importorskip("triton", reason="needs Triton")

from bilstm_server.model.kernels.gpu.layer import GpuLayer, shape_of
from bilstm_server.model.kernels.gpu.plans import (
    Cost,
    CostTable,
    Phase,
    Plan,
    Processor,
)
from tests.model.kernels.gpu.interpreter.layers import (
    FEW,
    TOLERANCES,
    OnePlan,
    alone,
    double,
    draw_directions,
    draw_input,
    shared,
)

pytestmark = pytest.mark.skipif(
    torch.cuda.is_available(), reason="Triton compiles here: test_device.py"
)


def judge(
    plan: Plan,
    lengths: list[int],
    dtype: torch.dtype,
    processor: Processor = FEW,
    seed: int = 0,
    stateful: bool = True,
    **architecture: Any,
) -> None:
    """Run a batch, and compare with nn.LSTM in float64."""
    exact, _ = pair(torch.float64, seed, **architecture)
    exact = exact.to(dtype).double()
    lstm = BiLSTM.from_torch(exact).to(dtype).freeze(OnePlan(plan, processor))
    x = torch.randn(sum(lengths), lstm.input_size, dtype=dtype)
    hx = draw_states(lstm, len(lengths)) if stateful else None
    with torch.no_grad():
        y, states = lstm.forward_ragged(x, lengths, hx)
        wide = None if hx is None else (hx[0].double(), hx[1].double())
        judged_y, judged_states = judged(exact, x.double(), lengths, wide)
    for actual, expected in zip((y, *states), (judged_y, *judged_states), strict=True):
        assert actual.dtype == dtype
        assert_within(TOLERANCES[dtype], actual, expected)


@st.composite
def plans(draw: st.DrawFn) -> tuple[int, Plan]:
    """A hidden size, and one program for it."""
    hidden = draw(st.integers(1, 40))
    if draw(st.booleans()):
        return hidden, alone(hidden)
    return hidden, shared(hidden, 16 if hidden <= 16 else 64, held=False)


@given(
    plans(),
    st.lists(st.integers(1, 5), min_size=1, max_size=40),
    st.sampled_from(sorted(TOLERANCES, key=str)),
    st.integers(1, 40),
    st.booleans(),
    st.booleans(),
    st.booleans(),
    seeds,
)
@settings(derandomize=True, deadline=None, max_examples=25, phases=[hypothesis.Phase.generate])
def test_any_batch(
    hidden_and_plan: tuple[int, Plan],
    lengths: list[int],
    dtype: torch.dtype,
    width: int,
    bidirectional: bool,
    bias: bool,
    stateful: bool,
    seed: int,
) -> None:
    """Ragged batches of every form give nn.LSTM's results, by both kinds of programs."""
    hidden, plan = hidden_and_plan
    judge(
        plan,
        lengths,
        dtype,
        seed=seed,
        stateful=stateful,
        input_size=width,
        hidden_size=hidden,
        bidirectional=bidirectional,
        bias=bias,
    )


@pytest.mark.parametrize(
    "dtype",
    [
        torch.bfloat16,
        pytest.param(torch.float16, marks=pytest.mark.slow),
        pytest.param(torch.float32, marks=pytest.mark.slow),
    ],
    ids=str,
)
@pytest.mark.parametrize("held", [True, False], ids=["held", "streamed"])
def test_programs_that_wait_for_each_other(dtype: torch.dtype, held: bool) -> None:
    """Three slices, in groups with more sequences than one product has, some of which end early."""
    processor = Processor(multiprocessors=12, shared_bytes=0)  # two groups of each direction
    lengths = [4, 6, 3, 5, 3] * 14
    judge(shared(40, 16, held), lengths, dtype, processor, input_size=3, hidden_size=40)


class TwoPhases(CostTable):
    """Whose first two steps are the first plan's."""

    def schedule(self, batch: RaggedBatch) -> tuple[Phase, ...]:
        first, last = self.costs
        longest = int(batch.descending[0])
        return Phase(first, 0, 2), Phase(last, 2, longest)


def test_phases() -> None:
    """Another plan goes on where the first one ended, over the sequences that are left, in each
    direction, where these have batches of their own too."""
    plans = shared(40, 16, True, rows=32), shared(40, 16, False)
    directions = draw_directions(40, torch.float32)
    costs = dict.fromkeys(plans, Cost(0.0, 0.0, 0.0))
    table = TwoPhases(2, Processor(multiprocessors=12, shared_bytes=0), costs)
    layer = GpuLayer(directions, shape_of(directions), table)
    exact = ReferenceLayer([d.map(Tensor.double) for d in directions])
    many, few = [4, 6, 3, 5, 5] * 14, [3]
    parts = [draw_input(lengths, 40, torch.float32) for lengths in (many, few)]
    for found, right in zip(
        layer.per_direction(parts), exact.per_direction(list(map(double, parts))), strict=True
    ):
        assert found is not None
        assert right is not None
        for one, other in zip(found, right, strict=True):
            assert_within(1e-6, one, other)


def test_more_programs_than_sequences() -> None:
    """One sequence of one step, in many slices."""
    processor = Processor(multiprocessors=64, shared_bytes=0)
    judge(shared(64, 16, True), [1], torch.float32, processor, input_size=3, hidden_size=64)


def test_small_numbers() -> None:
    """Digits are not lost where tanh is nearly the identity."""
    exact, _ = pair(torch.float64, input_size=3, hidden_size=6, bias=False)
    exact = exact.float().double()
    x = torch.randn(5, 3) * 1e-5
    lstm = BiLSTM.from_torch(exact).float().freeze(OnePlan(alone(6)))
    with torch.no_grad():
        y, _ = lstm.forward_ragged(x, [5])
        expected, _ = judged(exact, x.double(), [5])
    assert_within(1e-6, y, expected)


def test_one_sequences_nan() -> None:
    """What is not a number in one sequence stays there."""
    for plan in (alone(6), shared(6, 16, held=False)):
        _, lstm = pair(torch.float32, input_size=3, hidden_size=6)
        lstm.freeze(OnePlan(plan))
        x = torch.randn(9, 3)
        with torch.no_grad():
            expected, _ = lstm.forward_ragged(x, [3, 3, 3])
            x[4] = torch.nan
            y, (h_n, _) = lstm.forward_ragged(x, [3, 3, 3])
        assert torch.equal(y[[0, 1, 2, 6, 7, 8]], expected[[0, 1, 2, 6, 7, 8]])
        assert y[4:6, :6].isnan().all()
        assert h_n[:, 1].isnan().all()


def test_several_layers() -> None:
    """Layers on top of each other give nn.LSTM's results."""
    judge(alone(6), [3, 1, 2], torch.float32, input_size=3, hidden_size=6, num_layers=3)
