"""The operator benchmark's results on a GPU, and floors, as Markdown. Measures nothing."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from itertools import product

from benchmarks.competitors import OURS, PACKED
from benchmarks.gpu.floor import H200, Rates
from benchmarks.gpu.results import (
    ARITHMETICS,
    HIDDEN,
    MEANS,
    OTHERS,
    SEQUENCES,
    SYSTEMS,
    Case,
    Results,
    Row,
    Trial,
)
from benchmarks.operator_results import LAYERS
from benchmarks.tables import markdown, number


def tables(results: Results) -> Iterator[str]:
    """Lines of Markdown."""
    yield from results.about
    yield from _ceilings(results.rates)
    for arithmetic in ARITHMETICS:
        rows = [
            row
            for case in product((arithmetic,), HIDDEN, SEQUENCES, MEANS)
            if (row := results.rows.get(Case(*case)))
        ]
        if rows:
            yield from _device_table(arithmetic, rows)
            yield from _host_table(arithmetic, [row for row in rows if row.host])
    if results.trials:
        yield from _trials_table(results.trials)
    for row in results.rows.values():
        if row.note:
            yield f"\n{row.case}: {row.note}."
    for case, why in results.failures.items():
        yield f"\nFailed: {case}: {why}"
    if unmeasured := results.unmeasured():
        yield f"\nNot measured: {'; '.join(map(str, unmeasured))}."


def _ceilings(rates: Rates) -> Iterator[str]:
    step = "not measured, and not in the floors" if rates.step is None else f"{rates.step:.2f} µs"
    yield (
        f"\nCeilings: products {rates.bfloat16:.0f} TFLOP/s in bfloat16, {rates.tf32:.0f} in TF32, "
        f"{rates.float32:.0f} in float32; memory {rates.memory:.2f} TB/s, L2 {rates.l2:.2f}; "
        f"{rates.on_chip_bytes / 1e6:.1f} MB on chip; a step with next to nothing to compute: "
        f"{step}."
    )


def _device_table(arithmetic: str, rows: Sequence[Row]) -> Iterator[str]:
    yield f"\n{arithmetic}: the device alone, µs of a step of the longest sequence and a layer\n"
    columns = (
        *("hidden", "sequences", "mean", "steps", "ours", "floor", "floor/ours"),
        *(*OTHERS, "× packed", "ours, TFLOP/s", "packed, TFLOP/s", "error"),  # noqa: RUF001
    )
    yield from markdown(
        columns,
        (
            (
                *(str(row.case.hidden), str(row.case.sequences), str(row.case.mean)),
                *(str(row.longest), number(row.step(OURS)), number(row.floor_step)),
                number(row.share_of_floor),
                *(number(row.step(other)) for other in OTHERS),
                *(number(row.speed_up(PACKED)), number(row.rate(OURS)), number(row.rate(PACKED))),
                f"{row.error:.1e}",
            )
            for row in rows
        ),
    )


def _host_table(arithmetic: str, rows: Sequence[Row]) -> Iterator[str]:
    if not rows:
        return
    yield f"\n{arithmetic}: host and device, µs of a forward pass\n"
    columns = ("hidden", "sequences", "mean", "steps", *SYSTEMS, "× packed")  # noqa: RUF001
    yield from markdown(
        columns,
        (
            (
                *(str(row.case.hidden), str(row.case.sequences), str(row.case.mean)),
                str(row.longest),
                *(number(row.host.get(system)) for system in SYSTEMS),
                number(row.speed_up(PACKED, host=True)),
            )
            for row in rows
        ),
    )


def _trials_table(trials: Iterable[Trial]) -> Iterator[str]:
    yield "\nPlans that the tuner tried: microseconds, or why it was dropped\n"
    yield from markdown(
        ("type", "products", "hidden", "plan", "cost"),
        (
            (
                *(str(trial.shape.dtype), trial.shape.precision, str(trial.shape.hidden)),
                *(trial.plan, trial.found),
            )
            for trial in trials
        ),
        words=5,
    )


def floors_table(rates: Rates = H200, mean: int = MEANS[0]) -> Iterator[str]:
    """Floors, by a datasheet: microseconds of a step of the longest sequence and a layer."""
    rows = []
    for arithmetic, hidden in product(ARITHMETICS, HIDDEN):
        row = [arithmetic, str(hidden)]
        for sequences in SEQUENCES:
            case = Case(arithmetic, hidden, sequences, mean)
            row.append(f"{case.floor(rates) / (case.lengths().max() * LAYERS):.2g}")
        rows.append(row)
    yield from markdown(("arithmetic", "hidden", *map(str, SEQUENCES)), rows, words=1)
