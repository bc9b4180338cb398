"""Which plans there are for a layer, which is chosen for a batch, and what they take of a GPU."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from bilstm_server.model.kernels.gpu.plans import (
    Cost,
    CostTable,
    Phase,
    Plan,
    Processor,
    Shape,
    candidates,
)
from bilstm_server.model.kernels.ragged import RaggedBatch
from tests.support.lstms import examples

pytest.importorskip("triton")

ROOT = Path(__file__).resolve().parents[4]
HOPPER = Processor(multiprocessors=132, shared_bytes=227 * 1024)

ALONE = Plan(64, 1, 64, 16, 64, True, 8, 1)
SHARED = Plan(32, 8, 256, 16, 256, True, 8, 1)

shapes = st.builds(
    Shape,
    st.integers(1, 2100),
    st.sampled_from([1, 2]),
    st.just(torch.float32),
    st.sampled_from(["tf32", "tf32x3"]),
) | st.builds(
    Shape,
    st.integers(1, 2100),
    st.sampled_from([1, 2]),
    st.sampled_from([torch.bfloat16, torch.float16]),
    st.just("ieee"),
)


@given(shapes, st.sampled_from([HOPPER, Processor(40, 64 * 1024)]), st.integers(1, 5000))
@examples(300)
def test_candidates(shape: Shape, processor: Processor, sequences: int) -> None:
    """Slices have all the units, blocks all the depth; what waits for each other fits at once."""
    for plan in candidates(shape, processor):
        assert plan.units * (plan.slices - 1) < shape.hidden <= plan.units * plan.slices
        assert plan.depth >= shape.hidden
        assert plan.depth % plan.block == 0
        for size in (plan.units, plan.rows, plan.block):
            assert size >= 16
            assert size & (size - 1) == 0
        groups = plan.groups(sequences, shape.directions, processor)
        if plan.alone:
            assert plan.units == plan.depth == plan.block
            assert (groups - 1) * plan.rows < sequences <= groups * plan.rows
        else:
            assert groups * plan.slices * shape.directions <= processor.multiprocessors
            assert 1 <= groups <= sequences


@pytest.mark.parametrize("hidden", [64, 128, 256, 512, 1024])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16], ids=str)
def test_every_size_has_plans(hidden: int, dtype: torch.dtype) -> None:
    """And weights of up to two megabytes a direction are held on chip."""
    precision = "tf32" if dtype == torch.float32 else "ieee"
    plans = list(candidates(Shape(hidden, 2, dtype, precision), HOPPER))
    held = 4 * hidden * hidden * dtype.itemsize <= 8 * 2**20 and (hidden, dtype) != (
        1024,
        torch.float32,
    )
    assert any(plan.held for plan in plans) == held
    assert not all(plan.held for plan in plans)


def test_prediction() -> None:
    """An alone plan's tiles run side by side as far as there are multiprocessors, a shared one's
    groups one product after the other in each step."""
    table = CostTable(2, Processor(32, 0), {ALONE: Cost(5, 2, 0), SHARED: Cost(7, 3, 1)})
    alone, shared = Phase(ALONE, 0, 10), Phase(SHARED, 0, 10)
    assert table.predict(alone, [10] * 16) == 5 + 2 * 10
    assert table.predict(alone, [10] * 16 * 16) == 5 + 2 * 10
    assert table.predict(alone, [10] * 16 * 32) == 5 + 2 * 20
    assert table.predict(shared, [10] * 32) == 7 + 3 * 10
    assert table.predict(shared, [10] * 32 + [4]) == 7 + 3 * 10 + 4
    assert table.predict(shared, [10] * 32 + [4] * 33) == 7 + 3 * 10 + 4 + 4
    some = Phase(SHARED, 2, 6)
    assert table.predict(some, [10] * 32 + [4]) == 7 + 3 * 4 + 2
    assert table.predict(some, [10] * 32 + [8]) == 7 + 3 * 4 + 4


def test_phases() -> None:
    """The last steps, which few sequences have, are another plan's, if that pays: the one way and
    the other are what is predicted, all steps are run once, and the weights are the same."""
    many = Plan(32, 8, 256, 64, 256, True, 8, 1)
    other = Plan(16, 16, 256, 16, 256, True, 4, 1)
    ragged = RaggedBatch([10] * 512 + [100])
    costs = {SHARED: Cost(5, 2, 1), many: Cost(5, 3, 1.5), other: Cost(9, 2, 9)}
    table = CostTable(2, HOPPER, costs)
    assert table.schedule(ragged) == (Phase(many, 0, 10), Phase(SHARED, 10, 100))
    assert table.schedule(RaggedBatch([100] * 513)) == (Phase(many, 0, 100),)
    assert table.schedule(RaggedBatch([10, 100])) == (Phase(SHARED, 0, 100),)
    without = CostTable(2, HOPPER, {plan: costs[plan] for plan in (many, other)})
    assert without.schedule(ragged) == (Phase(many, 0, 100),)


@given(st.lists(st.integers(1, 300), min_size=1, max_size=400), st.data())
@examples(100)
def test_schedules(lengths: list[int], data: st.DataObject) -> None:
    """Every batch's phases follow each other to the end of its longest sequence."""
    plans = list(candidates(Shape(256, 2, torch.bfloat16, "ieee"), HOPPER))
    amounts = st.floats(0.1, 20)
    costs = {plan: Cost(*(data.draw(amounts) for _ in range(3))) for plan in plans}
    batch = RaggedBatch(lengths)
    phases = CostTable(2, HOPPER, costs).schedule(batch)
    steps = [step for phase in phases for step in range(phase.begin, phase.end)]
    assert steps == list(range(max(lengths)))
    assert len({phase.plan.packing for phase in phases}) == 1


def test_fastest() -> None:
    """Which plan is the fastest depends on the batch; those that are it for none are left out."""
    few = Plan(16, 16, 256, 16, 256, True, 4, 1)
    useless = Plan(64, 4, 256, 16, 256, True, 8, 1)
    costs = {SHARED: Cost(5, 3, 1), few: Cost(5, 2, 2), useless: Cost(6, 4, 2)}
    table = CostTable(2, HOPPER, costs)
    assert table.schedule(RaggedBatch([50])) == (Phase(few, 0, 50),)
    assert table.schedule(RaggedBatch([50] * 1000)) == (Phase(SHARED, 0, 50),)
    assert table.of_use().costs == {plan: costs[plan] for plan in (SHARED, few)}


def compiling(*command: str) -> subprocess.CompletedProcess[str]:
    """Run Python where Triton compiles."""
    environment = {k: v for k, v in os.environ.items() if k != "TRITON_INTERPRET"}
    path = os.pathsep.join([str(ROOT), environment.get("PYTHONPATH", "")])
    return subprocess.run(
        [sys.executable, *command],
        env=environment | {"PYTHONPATH": path},
        cwd=ROOT,
        capture_output=True,
        text=True,
        check=False,
    )


@pytest.mark.slow
@pytest.mark.parametrize("kind", ["float32", "tf32", "bfloat16", "float16"])
def test_compiled_for_hopper(kind: str) -> None:
    """Every plan compiles for compute capability 9.0 and fits; its products run on the tensor
    cores, and its registers as good as never spill."""
    options = ("--check", "--type", kind, "--hidden", "64", "128", "256", "512", "1024")
    found = compiling("-m", "benchmarks.gpu.resources", *options)
    assert found.returncode == 0, found.stdout + found.stderr


def test_launches() -> None:
    """No batch has a kernel compiled but the first of its form; programs that wait for each other
    are launched so that they run together."""
    found = compiling("-m", "tests.model.kernels.gpu.launches")
    assert found.returncode == 0, found.stderr
    for plan in json.loads(found.stdout):
        assert plan["binaries"] == 2, plan["plan"]  # with both directions together, and apart
        assert plan["launches"] == 4 * 9
        assert plan["cooperative"] == [plan["slices"] > 1]
        if plan["slices"] > 1:
            assert plan["programs"] <= HOPPER.multiprocessors
