"""A run of the GPU benchmark: what is measured, noted and timed, on the CPU."""

from __future__ import annotations

import itertools
import subprocess
import sys
import time
from collections.abc import Iterator, Mapping
from dataclasses import replace
from functools import partial
from typing import Any

import pytest
import torch

from bilstm_server.model.kernels import KernelUnavailable, choose_kernel

pytest.importorskip("triton", reason="needs Triton")

from benchmarks.competitors import OURS, PACKED, PADDED
from benchmarks.gpu import __main__ as gpu
from benchmarks.gpu import clock as gpu_clock
from benchmarks.gpu import serving as gpu_serving
from benchmarks.gpu import systems as gpu_systems
from benchmarks.gpu.floor import H200
from benchmarks.gpu.results import Case, Trial, cases
from bilstm_server.model.kernels.gpu.plans import Cost, Processor, Shape, candidates
from bilstm_server.model.kernels.gpu.tuning import Run, Tuner
from tests.benchmarks.gpu_rows import ROOT, row

CPU = torch.device("cpu")


# -- the run -------------------------------------------------------------------------------------


@pytest.fixture
def stand_ins(monkeypatch: pytest.MonkeyPatch) -> pytest.MonkeyPatch:
    """Runs measure in no time, on no GPU."""
    monkeypatch.setattr(gpu, "about", lambda: ["here"])
    monkeypatch.setattr(gpu, "compile_ahead", lambda sizes, seconds: None)
    monkeypatch.setattr(gpu, "ceilings", lambda: H200)
    monkeypatch.setattr(gpu, "chain_step", lambda: 1.5)
    monkeypatch.setattr(gpu, "measure", lambda case, rates: row(case, 1.0, 3.0))
    monkeypatch.setattr(torch.cuda, "synchronize", lambda: None)
    return monkeypatch


def test_a_run_measures_all(stand_ins: pytest.MonkeyPatch) -> None:
    found = gpu.measure_all(seconds=60)
    assert (found.about, found.rates) == (["here"], replace(H200, step=1.5))
    assert list(found.rows) == cases()


def test_without_time_left_no_row_begins(stand_ins: pytest.MonkeyPatch) -> None:
    assert gpu.measure_all(seconds=-1).unmeasured() == cases()


def fail(*_: Any) -> Any:
    raise RuntimeError("ours | is off\nby far")


@pytest.mark.parametrize("part", ["chain_step", "measure"])
def test_what_fails_is_noted_and_the_others_are_measured(
    part: str, stand_ins: pytest.MonkeyPatch
) -> None:
    original = getattr(gpu, part)

    def once(*args: Any) -> Any:
        stand_ins.setattr(gpu, part, original)
        fail()

    stand_ins.setattr(gpu, part, once)
    found = gpu.measure_all(seconds=60)
    assert list(found.failures.values()) == ["ours / is off"] * (part != "chain_step")
    assert len(found.rows) == len(cases()) - len(found.failures)
    assert not found.unmeasured()


def test_nothing_more_runs_on_a_gpu_that_is_lost(stand_ins: pytest.MonkeyPatch) -> None:
    """What there was is reported all the same."""
    first = cases()[0]
    stand_ins.setattr(gpu, "measure", lambda case, _: row(case, 1) if case == first else fail())
    stand_ins.setattr(torch.cuda, "synchronize", fail)
    found = gpu.measure_all(seconds=60)
    assert (len(found.rows), len(found.failures)) == (1, 1)
    assert len(found.unmeasured()) == len(cases()) - 2


def test_the_plans_that_the_tuner_tries_are_noted(monkeypatch: pytest.MonkeyPatch) -> None:
    """Plans that the tuner tries are noted, each with its cost or why it was dropped."""
    shape, processor = Shape(64, 2, torch.float32, "tf32x3"), Processor(132, 227 * 1024)
    first, second = itertools.islice(candidates(shape, processor), 2)
    tried = [(first, Cost(1.0, 2.0, 3.0)), (second, KernelUnavailable("too | large\nby far"))]
    monkeypatch.setattr(Tuner, "trials", lambda self: iter(tried))
    monkeypatch.setattr(gpu_systems, "TRIALS", [])
    assert list(gpu_systems.NotingTuner(shape, processor, CPU).trials()) == tried
    assert [
        Trial(shape, str(first), "start 1.00, step 2.00, more 3.00"),
        Trial(shape, str(second), "KernelUnavailable: too / large"),
    ] == gpu_systems.TRIALS


def test_it_says_that_there_is_no_gpu() -> None:
    if torch.cuda.is_available():
        pytest.skip("there is one")
    for module in ("benchmarks.gpu", "benchmarks.gpu.serving"):
        command = [sys.executable, "-m", module]
        done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True)
        assert (done.returncode, done.stdout) == (2, "")
        assert done.stderr.startswith("no GPU: ")


# -- the clock -----------------------------------------------------------------------------------


def test_runs_take_turns_and_have_the_median_of_all_blocks(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    turns: list[str] = []
    times = {"a": iter([9.0, 1.0, 2.0, 3.0, 4.0, 5.0, 6.0, 7.0, 8.0]), "b": itertools.repeat(2.5)}

    def timed(run: Run, busy_cycles: int) -> float:
        assert busy_cycles == 1000
        return next(times[str(run())])

    def turn(name: str) -> str:
        turns.append(name)
        return name

    monkeypatch.setattr(gpu_clock, "launch_cycles", lambda run: 1000)
    monkeypatch.setattr(gpu_clock, "device_microseconds", timed)
    found = gpu_clock.medians({name: partial(turn, name) for name in times})
    assert found == {"a": 5.0, "b": 2.5}
    blocks = [(name, len(list(group))) for name, group in itertools.groupby(turns)]
    block = 1 + gpu_clock.TIMED  # one is discarded
    assert blocks == [("a", 1), ("b", 1)] + gpu_clock.ROUNDS * [("a", block), ("b", block)]


def test_the_device_waits_while_the_host_launches(monkeypatch: pytest.MonkeyPatch) -> None:
    """A little longer than it took before; at least a little, at most a limit."""
    monkeypatch.setattr(torch.cuda, "synchronize", lambda: None)
    for took, wait in ((0.0, 50e-6), (0.02, 0.03), (1.0, 50e-3)):
        clock = iter([0.0, took])
        monkeypatch.setattr(time, "perf_counter", lambda clock=clock: next(clock))
        cycles = wait * gpu_clock.CYCLES_PER_SECOND
        assert gpu_clock.launch_cycles(lambda: None) == pytest.approx(cycles, abs=1)


# -- what it times, on the CPU -------------------------------------------------------------------


@pytest.fixture
def on_cpu(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """All that is timed is run once, and takes a microsecond."""

    def no_graphs(run: Run) -> Run:
        raise RuntimeError("no CUDA graphs here")

    def run_once(runs: Mapping[str, Run]) -> dict[str, float]:
        return {name: float(run() is not None) for name, run in runs.items()}

    for module in (gpu, gpu_systems):
        monkeypatch.setattr(module, "CUDA", CPU)
    monkeypatch.setattr(gpu_systems, "kernel", lambda: choose_kernel("auto", CPU).kernel)
    monkeypatch.setattr(gpu_systems, "captured", no_graphs)
    monkeypatch.setattr(gpu, "medians", run_once)
    monkeypatch.setattr(gpu, "host_microseconds", lambda run: float(run() is not None))
    monkeypatch.setattr(torch.cuda, "synchronize", lambda: None)
    gpu_systems.models.cache_clear()
    yield
    gpu_systems.models.cache_clear()
    gpu_systems.use("float32")


@pytest.mark.parametrize("arithmetic", ["float32", "bfloat16"])
@torch.inference_mode()
def test_ours_is_compared_with_nn_lstm(on_cpu: None, arithmetic: str) -> None:
    """Outputs and states, in whatever order the sequences are."""
    found = gpu.measure(Case(arithmetic, 64, 8, 29), H200)
    assert 0 < found.error < gpu_systems.TOLERANCES[arithmetic]
    assert found.device == found.host == {OURS: 1.0, PACKED: 1.0, PADDED: 1.0}
    assert found.note == "ours is the cpu kernel's: None"


@torch.inference_mode()
def test_a_wrong_result_is_not_timed(on_cpu: None, monkeypatch: pytest.MonkeyPatch) -> None:
    own = gpu_systems.models("float32", 64)
    right = own.ours.forward_ragged

    def wrong(*args: Any) -> Any:
        y, (h_n, c_n) = right(*args)
        return y, (h_n, c_n.index_fill(1, torch.tensor([3]), torch.nan))

    monkeypatch.setattr(own.ours, "forward_ragged", wrong)
    with pytest.raises(ValueError, match="ours is nan off"):
        gpu.measure(Case("float32", 64, 8, 29), H200)


# -- serving -------------------------------------------------------------------------------------


def test_serving_reports_medians_and_percentiles() -> None:
    loads = {"states": gpu_serving.Load([9_000.0, 11_000.0], [0.1, 0.2])}
    found = gpu_serving.Results("about", [20_000.0], loads, {gpu_serving.WIRE: 1.5})
    lines = list(gpu_serving.report(found))
    assert "| `encode_batch` of 32, states | 10000 | 150 | 199 |" in lines
    assert f"| {gpu_serving.WIRE} | 1.50 |" in lines
    assert not gpu_serving.missed(found)


def test_serving_misses_what_is_slower_or_was_not_measured() -> None:
    slow = gpu_serving.Results("", loads={"states": gpu_serving.Load([9_000.0])})
    assert gpu_serving.missed(slow) == ["9000 sequences a second, required 10000"]
    assert len(gpu_serving.missed(gpu_serving.Results(""))) == 1


def test_what_a_profiler_saw_is_split_into_copies_and_kernels() -> None:
    spans = [
        ("Memcpy HtoD (Pinned -> Device)", 40.0),
        ("recurrence_alone", 300.0),
        ("Memcpy DtoD (Device -> Device)", 20.0),
        ("Memcpy DtoH (Device -> Pinned)", 60.0),
    ]
    assert gpu_serving.device_parts(spans, 2) == {
        gpu_serving.COPY_IN: pytest.approx(0.02),
        gpu_serving.KERNELS: pytest.approx(0.16),
        gpu_serving.COPY_OUT: pytest.approx(0.03),
    }
    assert gpu_serving.device_parts([], 2) == {}
