"""Which plans a GPU can run, that they compute rightly there, and what they cost."""

from __future__ import annotations

import subprocess
from collections.abc import Callable, Iterator

import torch
from torch import Tensor
from triton import TritonError

from ..interface import DirectionInput, DirectionWeights, KernelUnavailable, Results, state_type
from ..ragged import RaggedBatch
from ..reference import ReferenceLayer
from .layer import GpuLayer
from .plans import Cost, CostTable, Plan, Processor, Shape, candidates

Run = Callable[[], object]

# Of a plan: it does not fit, is wrong, or can't be compiled or kept in Triton's cache.
_FAILURES = (KernelUnavailable, TritonError, RuntimeError, OSError, subprocess.SubprocessError)

_WIDTH = 16  # of a layer's input, which is not what is measured
_TOLERANCES = {"tf32x3": 1e-5, "tf32": 3e-3, torch.float16: 3e-3, torch.bfloat16: 2e-2}
_FEW_STEPS, _MANY_STEPS = 8, 32
_TIMES = 7
_BUSY_CYCLES = 5_000_000  # some milliseconds


def device_microseconds(run: Run, busy_cycles: int = _BUSY_CYCLES) -> float:
    """Time what `run` launches, on the device alone: it is busy for so many cycles while the host
    launches.
    """
    start, end = (torch.cuda.Event(enable_timing=True) for _ in range(2))  # type: ignore[no-untyped-call]
    torch.cuda._sleep(busy_cycles)  # type: ignore[no-untyped-call]
    start.record()
    run()
    end.record()
    end.synchronize()
    return 1e3 * float(start.elapsed_time(end))


def microseconds(run: Run) -> float:
    """Time what `run` launches, on the device alone: the least of some times."""
    run()
    return min(device_microseconds(run) for _ in range(_TIMES))


class Tuner:
    """Tries the plans for layers of one shape, with weights of its own."""

    def __init__(
        self,
        shape: Shape,
        processor: Processor,
        device: torch.device,
        measure: Callable[[Run], float] = microseconds,
    ):
        self.shape = shape
        self._processor = processor
        self._device = device
        self._measure = measure
        self._generator = torch.Generator().manual_seed(0)
        self._directions = [self._draw_direction() for _ in range(shape.directions)]
        self._exact = ReferenceLayer([d.map(Tensor.double) for d in self._directions])

    def table(self) -> CostTable:
        """Measure the plans, and compile and keep those that are the fastest for some batch.

        Raises `KernelUnavailable` if there is none.
        """
        costs: dict[Plan, Cost] = {}
        problems: list[str] = []
        fallback_reason: str | None = None
        for plan, found in self.trials():
            if isinstance(found, Cost):
                costs[plan] = found
                continue
            problems.append(f"{plan}: {found}")
            if isinstance(found, KernelUnavailable):
                reason = f"the gpu kernel does without a plan: {problems[-1]}"
                fallback_reason = fallback_reason or reason
        if not costs:
            why = problems[0] if problems else f"it does not fit in {self._processor}"
            raise KernelUnavailable(f"the gpu kernel has no plan for {self.shape}: {why}")
        table = CostTable(self.shape.directions, self._processor, costs, fallback_reason).of_use()
        for plan in table.costs:
            self._check_per_direction(self._layer(plan), self._batch(plan))
        return table

    def trials(self) -> Iterator[tuple[Plan, Cost | Exception]]:
        """Try each plan: gives it with its cost, or with what is wrong with it."""
        for plan in candidates(self.shape, self._processor):
            try:
                layer = self._layer(plan)
                self._check(layer, self._batch(plan))
                yield plan, self._cost(layer, plan)
            except torch.OutOfMemoryError:
                raise
            except _FAILURES as error:
                if self._device.type == "cuda":
                    torch.cuda.synchronize(self._device)  # raises if the plan has lost it
                yield plan, error

    # -- is it right ---------------------------------------------------------------------------

    def _check(self, layer: GpuLayer, batch: RaggedBatch) -> None:
        """Compare with float64, and with itself: if two runs differ, programs race."""
        operands = self._draw_operands(batch)
        x, h_0, c_0 = (operand.double() for operand in operands)
        exact = self._exact(x, batch, h_0, c_0)
        first, second = (layer(operands[0], batch, *operands[1:]) for _ in range(2))
        self._compare(first, exact)
        if not all(map(torch.equal, first, second)):
            raise KernelUnavailable("two runs gave different results")

    def _check_per_direction(self, layer: GpuLayer, batch: RaggedBatch) -> None:
        x, h_0, c_0 = self._draw_operands(batch)
        wide = state_type(self.shape.dtype)
        states = zip(h_0.to(wide), c_0.to(wide), strict=True)
        inputs = [DirectionInput(x, batch, h, c) for h, c in states]
        exact = self._exact.per_direction(
            [DirectionInput(x.double(), batch, i.h_0.double(), i.c_0.double()) for i in inputs]
        )
        for actual, expected in zip(layer.per_direction(inputs), exact, strict=True):
            assert actual is not None
            assert expected is not None
            self._compare(actual, expected)

    def _compare(self, actual: Results, exact: Results) -> None:
        shape = self.shape
        tolerance = _TOLERANCES.get(shape.precision) or _TOLERANCES[shape.dtype]
        for one, other in zip(actual, exact, strict=True):
            error = float((one.double() - other).norm() / other.norm())
            if not error <= tolerance:
                raise KernelUnavailable(f"its results are off by {error:.1e}")

    def _batch(self, plan: Plan) -> RaggedBatch:
        """A batch of which a group has the sequences of three products, the last of each so long
        that programs wait for each other, and end at steps of their own.
        """
        sequences = 2 * self._full(plan) + 3
        return RaggedBatch([3 + index % 7 for index in range(sequences)], self._device)

    # -- and how fast --------------------------------------------------------------------------

    def _cost(self, layer: GpuLayer, plan: Plan) -> Cost:
        few = self._time(layer, plan.rows, _FEW_STEPS)
        many = self._time(layer, plan.rows, _MANY_STEPS)
        step = (many - few) / (_MANY_STEPS - _FEW_STEPS)
        start = max(few - _FEW_STEPS * step, 0.0)
        if step <= 0:
            raise KernelUnavailable("its time could not be measured")
        if plan.alone:
            return Cost(start, step, 0.0)
        full = self._full(plan)
        once, twice = (self._time(layer, n * full, _MANY_STEPS) for n in (1, 2))
        return Cost(start, step, max(twice - once, 0.0) / _MANY_STEPS)

    def _time(self, layer: GpuLayer, sequences: int, steps: int) -> float:
        """The microseconds of the recurrence alone."""
        batch = RaggedBatch([steps] * sequences, self._device)
        x, h_0, c_0 = self._draw_operands(batch)
        return self._measure(layer.prepare(x, batch, h_0, c_0))

    def _full(self, plan: Plan) -> int:
        """The number of sequences that keep all multiprocessors at work with one product a step."""
        at_once = self._processor.multiprocessors // (plan.slices * self.shape.directions)
        return plan.rows * max(at_once, 1)

    # -- with what -----------------------------------------------------------------------------

    def _layer(self, plan: Plan) -> GpuLayer:
        costs = {plan: Cost(0.0, 0.0, 0.0)}
        table = CostTable(self.shape.directions, self._processor, costs)
        return GpuLayer(self._directions, self.shape, table)

    def _draw_direction(self) -> DirectionWeights:
        lines, hidden = 4 * self.shape.hidden, self.shape.hidden
        return DirectionWeights(
            self._draw(lines, _WIDTH) / _WIDTH**0.5,
            self._draw(lines, hidden) / hidden**0.5,
            self._draw(lines),
            self._draw(lines),
            None,
        )

    def _draw_operands(self, batch: RaggedBatch) -> tuple[Tensor, Tensor, Tensor]:
        states = (self.shape.directions, len(batch), self.shape.hidden)
        return self._draw(batch.steps, _WIDTH), self._draw(*states), self._draw(*states)

    def _draw(self, *shape: int) -> Tensor:
        numbers = torch.randn(shape, generator=self._generator)
        return numbers.to(self._device, self.shape.dtype)
