"""The GPU benchmark's order, tables and targets, without a GPU."""

from __future__ import annotations

import itertools

import pytest
import torch

pytest.importorskip("triton", reason="needs Triton")

from benchmarks.competitors import OURS, PACKED
from benchmarks.gpu import __main__ as gpu
from benchmarks.gpu.floor import H200, Rates
from benchmarks.gpu.results import GRAPH, Case, Results, Row, Trial, cases, check
from benchmarks.gpu.tables import floors_table, tables
from benchmarks.operator_results import LAYERS
from bilstm_server.model.kernels.gpu.plans import Shape
from tests.benchmarks.gpu_rows import ROOT, row

SMALL = Case("bfloat16", 256, 8, 29)
LARGE = Case("bfloat16", 512, 512, 29)


def results(*rows: Row, rates: Rates = H200) -> Results:
    return Results(["about"], rates, rows={own.case: own for own in rows})


# -- cases ---------------------------------------------------------------------------------------


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


# -- rows ----------------------------------------------------------------------------------------


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


# -- tables --------------------------------------------------------------------------------------


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


# -- targets -------------------------------------------------------------------------------------


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
    """One sequence is held to padded, which is right there: it has no padding."""
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
