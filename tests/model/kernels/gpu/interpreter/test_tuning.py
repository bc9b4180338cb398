"""Plans of the gpu kernel are found right, dropped and chosen; how fast they are is measured on a
device only.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

import pytest
import torch
from torch import Tensor

from bilstm_server.model.kernels.interface import (
    KernelUnavailable,
)
from bilstm_server.model.kernels.ragged import RaggedBatch

pytest.importorskip("triton", reason="needs Triton")

from bilstm_server.model.kernels.gpu import layer as gpu_layer
from bilstm_server.model.kernels.gpu import packing
from bilstm_server.model.kernels.gpu.layer import GpuLayer, shape_of
from bilstm_server.model.kernels.gpu.plans import (
    Cost,
    Plan,
    Processor,
    Shape,
)
from bilstm_server.model.kernels.gpu.tuning import Tuner
from tests.model.kernels.gpu.interpreter.layers import draw_directions

pytestmark = pytest.mark.skipif(
    torch.cuda.is_available(), reason="Triton compiles here: test_device.py"
)

CPU = torch.device("cpu")


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


@pytest.mark.slow
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
    """TF32 is also taken where torch is told so by `fp32_precision`."""
    directions = draw_directions(6, torch.float32)
    torch.backends.cuda.matmul.fp32_precision = "tf32"
    try:
        assert shape_of(directions).precision == "tf32"
    finally:
        torch.backends.cuda.matmul.fp32_precision = "ieee"
