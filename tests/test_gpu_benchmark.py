"""The GPU benchmark without a GPU: order, tables, targets; what it times, on the CPU."""

from __future__ import annotations

import itertools
import subprocess
import sys
import time
from collections.abc import Iterator, Mapping
from dataclasses import replace
from functools import partial
from pathlib import Path
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
from benchmarks.gpu.floor import H200, Rates
from benchmarks.gpu.results import GRAPH, Case, Results, Row, Trial, cases, check
from benchmarks.gpu.tables import floors_table, tables
from benchmarks.operator_results import LAYERS
from bilstm_server.model.kernels.gpu.plans import Cost, Processor, Shape, candidates
from bilstm_server.model.kernels.gpu.tuning import Run, Tuner

ROOT = Path(__file__).parents[1]
CPU = torch.device("cpu")
SMALL = Case("bfloat16", 256, 8, 29)
LARGE = Case("bfloat16", 512, 512, 29)


def row(case: Case, ours: float, packed: float | None = None, longest: int = 100) -> Row:
    """`ours`, `packed`: microseconds of a step and layer."""
    device = {OURS: ours, PADDED: 4.0} | ({} if packed is None else {PACKED: packed})
    times = {name: own * longest * LAYERS for name, own in device.items()}
    steps = int(case.lengths().sum())
    return Row(case, steps, longest, 1e-3, case.floor(H200), times)


def results(*rows: Row, rates: Rates = H200) -> Results:
    return Results(["about"], rates, rows={own.case: own for own in rows})


# -- cases -----------------------------------------------------------------------------------------


def test_cases_are_all_that_is_asked_for_the_most_important_first() -> None:
    found = cases()
    assert len(found) == len(set(found)) == 3 * 5 * 5 * 2
    assert all(case.must_step_fast or case.must_fill for case in found[:20])
    assert found[0].arithmetic == "bfloat16"
    leading = [case.must_lead for case in found[20:]]
    assert leading == sorted(leading, reverse=True)


def test_a_case_has_the_same_lengths_each_time_and_the_mean_that_it_says() -> None:
    for mean in (29, 200):
        case = Case("float32", 64, 512, mean)
        assert (case.lengths() == case.lengths()).all()
        assert case.lengths().mean() == pytest.approx(mean, rel=0.1)


# -- rows ------------------------------------------------------------------------------------------


def test_a_row_counts_steps_of_the_longest_sequence_and_real_tokens() -> None:
    found = row(SMALL, ours=2.0, packed=8.0)
    assert found.step(OURS) == pytest.approx(2.0)
    assert found.speed_up(PACKED) == pytest.approx(4.0)
    assert found.speed_up(GRAPH) is None
    per_token = 2 * 2 * 4 * 256 * ((256 + 256) + (512 + 256))
    microseconds = 2.0 * 100 * LAYERS
    assert found.rate(OURS) == pytest.approx(found.steps * per_token / microseconds / 1e6)
    assert found.share_of_floor == pytest.approx(found.floor / microseconds)
    assert found.share_of_floor == pytest.approx(found.floor_step / 2.0)


# -- tables ----------------------------------------------------------------------------------------


def test_tables_have_each_row_and_what_is_missing() -> None:
    found = results(row(SMALL, 2.0, 8.0))
    found.failures[LARGE] = "out of memory"
    found.trials.append(Trial(Shape(256, 2, torch.bfloat16, "ieee"), "a plan", "does not fit"))
    lines = list(tables(found))
    text = "\n".join(lines)
    assert "about" in lines
    (line,) = (line for line in lines if line.startswith("| 256 | 8 | 29 |"))
    cells = line.strip("| ").split(" | ")
    assert cells[3:5] == ["100", "2.00"]
    assert cells[7:12] == ["8.00", "4.00", "–", "–", "4.00"]  # noqa: RUF001
    assert f"Failed: {LARGE}: out of memory" in text
    assert "| torch.bfloat16 | ieee | 256 | a plan | does not fit |" in lines
    assert "float32, hidden 1024, sequences 512, mean 200" in text  # not measured
    for table in itertools.groupby(lines, lambda line: line.startswith("|")):
        assert len({line.count("|") for line in table[1]} if table[0] else {0}) == 1


def test_the_documentation_has_the_floors_that_are_computed() -> None:
    text = (ROOT / "docs" / "gpu-performance.md").read_text(encoding="utf-8")
    assert "\n".join(floors_table()) in text


# -- targets ---------------------------------------------------------------------------------------


def missed(*rows: Row, rates: Rates = H200) -> list[str]:
    return check(results(*rows, rates=rates)).missed


def test_small_batches_at_hidden_256_have_2_5_microseconds_a_step() -> None:
    assert not missed(row(SMALL, 2.5, 10.0))
    (miss,) = missed(row(SMALL, 2.6, 10.0))
    assert "2.60 µs" in miss
    assert not missed(row(Case("bfloat16", 256, 128, 29), 2.6, 10.0))


def test_three_times_packed_up_to_128_sequences_and_hidden_512() -> None:
    assert not missed(row(SMALL, 2.0, 6.0))
    (miss,) = missed(row(SMALL, 2.0, 5.9))
    assert "2.95 times" in miss


@pytest.mark.parametrize(
    "case", [Case("tf32", 1024, 1, 29), Case("float32", 64, 512, 200)], ids=str
)
def test_elsewhere_never_slower_than_packed(case: Case) -> None:
    assert not missed(row(case, 2.0, 2.0))
    assert len(missed(row(case, 2.0, 1.9))) == 1


def test_one_sequence_never_slower_than_padded() -> None:
    """It has no padding, so padded is right there."""
    alone = Case("bfloat16", 1024, 1, 29)
    assert not missed(row(alone, 4.0, 13.0))
    assert len(missed(row(alone, 4.1, 13.0))) == 1
    assert not missed(row(Case("bfloat16", 1024, 8, 29), 4.1, 13.0))


def test_large_batches_reach_a_share_of_the_product_rate() -> None:
    fast = row(LARGE, 1.0, 1.0)
    rate = fast.rate(OURS)
    assert rate is not None
    rates = Rates(rate / 0.4, 494, 67, 4.8, 5, 0)
    assert not missed(fast, rates=rates)
    assert len(missed(row(LARGE, 1.01, 1.01), rates=rates)) == 1


def test_what_was_not_measured_is_not_missed() -> None:
    found = check(results(row(SMALL, 2.0)))
    assert (found.compared, found.missed) == (1, [])
    assert len(found.unmeasured) == len(cases())


def test_nothing_measured_is_not_a_success(capsys: pytest.CaptureFixture[str]) -> None:
    assert gpu.report(results(), is_checked=True) == 1
    assert gpu.report(results(row(SMALL, 2.0, 8.0)), is_checked=True) == 0
    assert gpu.report(results(row(SMALL, 2.0, 2.0)), is_checked=True) == 1
    assert "1 of 2 targets missed" in capsys.readouterr().out


# -- the run ---------------------------------------------------------------------------------------


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
    """Each with its cost, or why it was dropped."""
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


# -- the clock -------------------------------------------------------------------------------------


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


# -- what it times, on the CPU ---------------------------------------------------------------------


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


# -- serving ---------------------------------------------------------------------------------------


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
