"""The gpu kernel's numbers without a GPU: its programs in Triton's interpreter, judged by nn.LSTM.

How fast plans are is measured on a device only; that they are found right, dropped and chosen is
tested here too. With a GPU, test_gpu_device.py runs the same and more.
"""

from __future__ import annotations

import copy
import pickle
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import hypothesis
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from lstms import assert_within, draw_states, judged, pair, seeds
from torch import Tensor

from bilstm_server.model.bilstm import BiLSTM
from bilstm_server.model.kernels.interface import (
    DirectionInput,
    DirectionWeights,
    KernelUnavailable,
)
from bilstm_server.model.kernels.ragged import RaggedBatch
from bilstm_server.model.kernels.reference import ReferenceLayer

interpreted = pytest.importorskip("interpreted", reason="needs Triton")

from bilstm_server.model.kernels.gpu import layer as gpu_layer  # noqa: E402
from bilstm_server.model.kernels.gpu import packing  # noqa: E402
from bilstm_server.model.kernels.gpu.layer import GpuLayer, shape_of  # noqa: E402
from bilstm_server.model.kernels.gpu.packing import gate_order  # noqa: E402
from bilstm_server.model.kernels.gpu.plans import (  # noqa: E402
    Cost,
    CostTable,
    Phase,
    Plan,
    Processor,
    Shape,
)
from bilstm_server.model.kernels.gpu.tuning import Tuner  # noqa: E402

pytestmark = pytest.mark.skipif(
    torch.cuda.is_available(), reason="Triton compiles here: test_gpu_device.py"
)

CPU = torch.device("cpu")
FEW = Processor(multiprocessors=4, shared_bytes=227 * 1024)
TOLERANCES = {torch.float32: 1e-6, torch.float16: 2e-3, torch.bfloat16: 1e-2}

every_dtype = pytest.mark.parametrize("dtype", TOLERANCES, ids=str)


@pytest.fixture(autouse=True, scope="module")
def mended() -> Iterator[None]:
    with interpreted.mended_interpreter():
        yield


def alone(hidden: int, rows: int = 16) -> Plan:
    units = max(16, 1 << (hidden - 1).bit_length())
    return Plan(units, 1, units, rows, units, True, 4, 1)


def shared(hidden: int, units: int, held: bool, rows: int = 16) -> Plan:
    depth = -(-hidden // 32) * 32
    return Plan(units, -(-hidden // units), depth, rows, 32, held, 4, 1)


@dataclass
class OnePlan:
    """A kernel whose layers know this plan only."""

    plan: Plan
    processor: Processor = FEW
    name: str = "gpu"

    def __call__(self, directions: Sequence[DirectionWeights]) -> GpuLayer:
        costs = {self.plan: Cost(0.0, 1.0, 1.0)}
        table = CostTable(len(directions), self.processor, costs)
        return GpuLayer(directions, shape_of(directions), table)

    linear = staticmethod(ReferenceLayer.linear)


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


# -- any batch -----------------------------------------------------------------------------------


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


@every_dtype
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
    judge(alone(6), [3, 1, 2], torch.float32, input_size=3, hidden_size=6, num_layers=3)


# -- each direction over rows of its own ---------------------------------------------------------


def draw_directions(hidden: int, dtype: torch.dtype) -> list[DirectionWeights]:
    _, lstm = pair(dtype, input_size=3, hidden_size=hidden)
    return [direction.copy() for direction in lstm.directions(0)]


def draw_input(lengths: list[int], hidden: int, dtype: torch.dtype) -> DirectionInput:
    batch = RaggedBatch(lengths)
    x = torch.randn(batch.steps, 3).to(dtype)
    return DirectionInput(
        x, batch, torch.randn(len(batch), hidden), torch.randn(len(batch), hidden)
    )


def double(part: DirectionInput | None) -> DirectionInput | None:
    if part is None:
        return None
    return DirectionInput(part.x.double(), part.batch, part.h_0.double(), part.c_0.double())


@pytest.mark.parametrize("plan", [alone(20), shared(20, 32, False)], ids=str)
def test_states_that_lie_otherwise(plan: Plan) -> None:
    """Initial states are read as they are shaped, however they lie in memory."""
    torch.manual_seed(0)
    (direction, _) = draw_directions(20, torch.float32)
    layer = OnePlan(plan)([direction])
    x, batch = torch.randn(4, 3), RaggedBatch([1, 3])
    h_0, c_0 = torch.randn(2, 1, 2, 20)
    h_across, c_across = (state.mT.contiguous().mT for state in (h_0, c_0))
    assert not c_across.is_contiguous()
    for one, other in zip(
        layer(x, batch, h_across, c_across), layer(x, batch, h_0, c_0), strict=True
    ):
        assert torch.equal(one, other)
    across, plain = (
        layer.per_direction([DirectionInput(x, batch, h[0], c[0])])[0]
        for h, c in ((h_across, c_across), (h_0, c_0))
    )
    assert across is not None
    assert plain is not None
    assert all(map(torch.equal, across, plain))


@every_dtype
@pytest.mark.parametrize("plan", [alone(20), shared(20, 32, False)], ids=str)
def test_per_direction(plan: Plan, dtype: torch.dtype) -> None:
    """Directions run over batches of their own, or only one does; states are float32."""
    torch.manual_seed(0)
    directions = draw_directions(20, dtype)
    layer = OnePlan(plan)(directions)
    exact = ReferenceLayer([d.map(Tensor.double) for d in directions])
    forward, backward = draw_input([2, 5, 1], 20, dtype), draw_input([3, 3] * 9, 20, dtype)
    for parts in ([forward, backward], [forward, None], [None, backward], [None, None]):
        expected = exact.per_direction([double(part) for part in parts])
        for result, right in zip(layer.per_direction(parts), expected, strict=True):
            assert (result is None) == (right is None)
            if result and right:
                assert [part.dtype for part in result] == [dtype, torch.float32, torch.float32]
                for one, other in zip(result, right, strict=True):
                    assert_within(TOLERANCES[dtype], one, other)


@pytest.mark.parametrize("plan", [alone(20), shared(20, 32, False)], ids=str)
def test_continued(plan: Plan) -> None:
    """A sequence in two parts has the results that it has whole."""
    torch.manual_seed(0)
    layer = OnePlan(plan)(draw_directions(20, torch.float32))
    whole = draw_input([7], 20, torch.float32)
    expected, _ = layer.per_direction([whole, None])
    first = DirectionInput(whole.x[:4], RaggedBatch([4]), whole.h_0, whole.c_0)
    begun, _ = layer.per_direction([first, None])
    assert begun is not None
    ended, _ = layer.per_direction(
        [DirectionInput(whole.x[4:], RaggedBatch([3]), *begun[1:]), None]
    )
    assert expected is not None
    assert ended is not None
    assert_within(1e-6, torch.cat([begun[0], ended[0]]), expected[0])
    assert_within(1e-6, ended[1], expected[1])
    assert_within(1e-6, ended[2], expected[2])


# -- a layer among others ------------------------------------------------------------------------


def test_gradients() -> None:
    """Where a gradient is to reach the input, it is the reference's."""
    directions = draw_directions(6, torch.float32)
    x, batch = torch.randn(3, 3, requires_grad=True), RaggedBatch([2, 1])
    states = torch.zeros(2, 2, 6), torch.zeros(2, 2, 6)
    y, _, _ = OnePlan(alone(6))(directions)(x, batch, *states)
    (gradient,) = torch.autograd.grad(y.sum(), x)
    y, _, _ = ReferenceLayer(directions)(x, batch, *states)
    assert torch.equal(gradient, torch.autograd.grad(y.sum(), x)[0])


@pytest.mark.parametrize("copied", [copy.deepcopy, lambda own: pickle.loads(pickle.dumps(own))])
def test_copies(copied: Callable[[BiLSTM], BiLSTM]) -> None:
    """A copy is frozen for the machine it finds: here the reference's, with the same weights."""
    lstm = BiLSTM(3, 6).requires_grad_(False).freeze(OnePlan(alone(6)))
    x, lengths = torch.randn(3, 3), [2, 1]
    twin = copied(lstm)
    assert (lstm.layers()[0].kernel, twin.layers()[0].kernel) == ("gpu", "reference")
    (y, states), (other_y, other_states) = (own.forward_ragged(x, lengths) for own in (lstm, twin))
    for one, other in zip((y, *states), (other_y, *other_states), strict=True):
        assert_within(1e-6, one, other)


@given(st.integers(1, 100), st.sampled_from([16, 32, 64, 128]))
def test_gate_order(hidden: int, units: int) -> None:
    """Every row of nn.LSTM's is there once, a slice's within the slice; the rest is padding."""
    order = gate_order(hidden, units)
    assert sorted(row for row in order.tolist() if row < 4 * hidden) == list(range(4 * hidden))
    for number, part in enumerate(torch.split(order, 4 * units)):
        own = part[part < 4 * hidden] % hidden
        assert own.min() == number * units
        assert own.max() == min((number + 1) * units, hidden) - 1


# -- finding the plans ---------------------------------------------------------------------------


def tuner(measure: Callable[[Callable[[], object]], float], hidden: int = 4) -> Tuner:
    processor = Processor(multiprocessors=2, shared_bytes=227 * 1024)
    return Tuner(Shape(hidden, 1, torch.float32, "tf32x3"), processor, CPU, measure)


def test_plans_are_run_before_they_are_chosen() -> None:
    """Every plan of a small layer is right, and what is kept was measured."""
    measured: list[Callable[[], object]] = []

    def measure(run: Callable[[], object]) -> float:
        measured.append(run)
        return float(len(measured))

    found = tuner(measure)
    kinds = {(plan.alone, plan.held) for plan, cost in found.trials() if isinstance(cost, Cost)}
    assert kinds == {(True, True), (False, False)}
    assert len(measured) >= 2 * len(kinds)


def test_wrong_plans_are_dropped(monkeypatch: pytest.MonkeyPatch) -> None:
    """A plan whose results are off is not used; if none is left, it is said why."""
    pack = packing.pack

    def wrong(*args: Any) -> Any:
        packed = pack(*args)
        packed.bias.add_(0.001)
        return packed

    monkeypatch.setattr(gpu_layer, "pack", wrong)
    with pytest.raises(KernelUnavailable, match=r"no plan for .*: 1 x 16 units.*: .*off by"):
        tuner(lambda _: 1.0).table()


def test_dropped_plan_is_told(monkeypatch: pytest.MonkeyPatch) -> None:
    """A server that does without a plan that was not right knows which, and why."""
    check = Tuner._check

    def doubt(found: Tuner, layer: GpuLayer, batch: RaggedBatch) -> None:
        check(found, layer, batch)
        (plan,) = layer._table.costs
        if plan.alone:
            raise KernelUnavailable("it is not to be trusted")

    monkeypatch.setattr(Tuner, "_check", doubt)
    times = iter(range(1, 1000))
    found = tuner(lambda _: float(next(times)), hidden=16)
    table = found.table()
    layer = GpuLayer(draw_directions(16, torch.float32)[:1], found.shape, table)
    assert not any(plan.alone for plan in table.costs)
    assert layer.fallback_reason is not None
    assert layer.fallback_reason.startswith(
        "the gpu kernel does without a plan: 1 x 16 units, 16 rows"
    )
    assert layer.fallback_reason.endswith("it is not to be trusted")


def test_racing_plans_are_dropped(monkeypatch: pytest.MonkeyPatch) -> None:
    """Two runs of a batch must have the same bits."""
    run = GpuLayer.__call__
    shift = iter(range(1000))

    def racing(self: GpuLayer, *args: Any) -> Any:
        y, h_n, c_n = run(self, *args)
        return y + next(shift) % 2 * 1e-7, h_n, c_n

    monkeypatch.setattr(GpuLayer, "__call__", racing)
    with pytest.raises(KernelUnavailable, match="two runs gave different results"):
        tuner(lambda _: 1.0).table()


def test_costs(monkeypatch: pytest.MonkeyPatch) -> None:
    """What a step costs, and more sequences in it, is told from runs of different sizes."""
    seen: list[tuple[Plan, RaggedBatch]] = []

    def prepare(layer: GpuLayer, x: Tensor, batch: RaggedBatch, *_: Tensor) -> Callable[[], None]:
        (plan,) = layer._table.costs
        return lambda: seen.append((plan, batch))

    def measure(run: Callable[[], object]) -> float:
        run()
        plan, batch = seen[-1]
        full = plan.rows * (2 // plan.slices)  # of two multiprocessors
        return 10 + float(batch.descending[0]) * (2 + 3 * (len(batch) > full))

    monkeypatch.setattr(GpuLayer, "prepare", prepare)
    monkeypatch.setattr(Tuner, "_check", lambda *_: None)
    for plan, cost in tuner(measure).trials():
        assert cost == Cost(10, 2, 0 if plan.alone else 3)


@pytest.fixture
def allow_tf32() -> Iterator[None]:
    torch.backends.cuda.matmul.allow_tf32 = True
    yield
    torch.backends.cuda.matmul.allow_tf32 = False


def test_precision() -> None:
    """float32 products have the precision of float32."""
    directions = draw_directions(6, torch.float32)
    assert shape_of(directions) == Shape(6, 2, torch.float32, "tf32x3")


def test_tf32(allow_tf32: None) -> None:
    """Unless torch is told that TF32 will do."""
    assert shape_of(draw_directions(6, torch.float32)).precision == "tf32"


def test_tf32_in_torchs_newer_words() -> None:
    directions = draw_directions(6, torch.float32)
    torch.backends.cuda.matmul.fp32_precision = "tf32"
    try:
        assert shape_of(directions).precision == "tf32"
    finally:
        torch.backends.cuda.matmul.fp32_precision = "ieee"
