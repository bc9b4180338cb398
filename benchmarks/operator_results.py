"""What the operator benchmark found: its numbers, tables, plot and targets.

Owns all that can be made of the medians without measuring again; they come from `operator`, or
from a file that it wrote. Runs no system.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, NamedTuple

from benchmarks.competitors import ONNX_RUNTIME, OPENVINO, OURS, PACKED, PADDED, REFERENCE
from benchmarks.tables import markdown, number

LAYERS = 2
MATMUL = "matmul"
MATMUL_SIZE = 1024
SYSTEMS = (OURS, REFERENCE, PACKED, PADDED, ONNX_RUNTIME, OPENVINO)


@dataclass(frozen=True, slots=True)
class Row:
    """One batch."""

    dtype: str
    hidden: int
    sequences: int
    tokens: int
    milliseconds: dict[str, float]  # medians by system, MATMUL among them; some may be missing

    def rate(self, system: str) -> float | None:
        """GFLOP/s, on real tokens."""
        if (milliseconds := self.milliseconds.get(system)) is None:
            return None
        operations = (
            2 * MATMUL_SIZE**3
            if system == MATMUL
            else self.tokens * operations_per_token(self.hidden)
        )
        return operations / milliseconds / 1e6

    def speed_up(self, other: str) -> float | None:
        """Our rate, in the other's."""
        ours, others = self.rate(OURS), self.rate(other)
        return None if ours is None or others is None else ours / others


@dataclass(frozen=True, slots=True)
class Results:
    about: list[str]  # lines on what was measured and how
    rows: list[Row]

    def write(self, path: Path) -> None:
        path.write_text(json.dumps(asdict(self), indent=1) + "\n")

    @classmethod
    def read(cls, path: Path) -> Results:
        stored = json.loads(path.read_text())
        return cls(stored["about"], [Row(**row) for row in stored["rows"]])

    def of(self, dtypes: list[str], hidden: list[int]) -> Results:
        """The rows of these dtypes and hidden sizes."""
        chosen = [row for row in self.rows if row.dtype in dtypes and row.hidden in hidden]
        return Results(self.about, chosen)

    def groups(self) -> dict[tuple[str, int], list[Row]]:
        """The rows of each dtype and hidden size."""
        found: dict[tuple[str, int], list[Row]] = {}
        for row in self.rows:
            found.setdefault((row.dtype, row.hidden), []).append(row)
        return found


def operations_per_token(hidden: int) -> int:
    """Of the products with W_ih [4H, D] and W_hh [4H, H], two operations per weight."""
    widths = [hidden] + [2 * hidden] * (LAYERS - 1)
    return sum(2 * 2 * 4 * hidden * (width + hidden) for width in widths)


# -- tables --------------------------------------------------------------------------------------


def tables(results: Results) -> Iterator[str]:
    """Lines of Markdown."""
    for (dtype, hidden), rows in results.groups().items():
        for title, systems, value in (
            ("milliseconds", SYSTEMS, lambda row, system: row.milliseconds.get(system)),
            ("GFLOP/s", (*SYSTEMS, MATMUL), Row.rate),
            ("speed of ours, in the other's", (*SYSTEMS[1:], MATMUL), Row.speed_up),
        ):
            yield f"\n{dtype}, hidden {hidden}: {title}\n"
            yield from markdown(
                ("sequences", "tokens", *systems),
                (
                    [str(row.sequences), str(row.tokens), *(number(value(row, s)) for s in systems)]
                    for row in rows
                ),
            )


# -- plot ----------------------------------------------------------------------------------------


def plot(results: Results, path: Path) -> None:
    """GFLOP/s against sequences: a row of axes per dtype, a column per hidden size."""
    import matplotlib
    from matplotlib.figure import Figure
    from matplotlib.ticker import LogLocator, NullLocator

    groups = results.groups()
    dtypes = list(dict.fromkeys(dtype for dtype, _ in groups))
    sizes = list(dict.fromkeys(hidden for _, hidden in groups))
    figure = Figure(figsize=(3.4 * len(sizes), 3.4 * len(dtypes) + 0.6), layout="constrained")
    grid = figure.subplots(len(dtypes), len(sizes), squeeze=False, sharex=True, sharey="row")
    for (dtype, hidden), rows in groups.items():
        axes = grid[dtypes.index(dtype)][sizes.index(hidden)]
        for system in (*SYSTEMS, MATMUL):
            points = [(row.sequences, rate) for row in rows if (rate := row.rate(system))]
            if points:
                axes.plot(*zip(*points, strict=True), **_line(system))
        counts = [row.sequences for row in rows]
        axes.set(xscale="log", yscale="log", title=f"hidden {hidden}, {dtype}")
        axes.set_xticks(counts, labels=counts)
        axes.xaxis.set_minor_locator(NullLocator())
        axes.yaxis.set_major_locator(LogLocator(subs=(1, 2, 5)))
        axes.yaxis.set_major_formatter("{x:g}")
        axes.grid(alpha=0.3)
    for axes in grid[-1]:
        axes.set_xlabel("sequences in the batch")
    for axes in grid[:, 0]:
        axes.set_ylabel("GFLOP/s, on real tokens")
    figure.legend(
        *grid[0][0].get_legend_handles_labels(), loc="outside lower center", ncols=1 + len(sizes)
    )
    # Text stays text, and the same numbers give the same file.
    with matplotlib.rc_context({"svg.fonttype": "none", "svg.hashsalt": "operator"}):
        figure.savefig(path, metadata={"Date": None} if path.suffix == ".svg" else None)


def _line(system: str) -> dict[str, Any]:
    if system == MATMUL:
        return {"color": "black", "linestyle": "--", "label": f"torch's {MATMUL_SIZE}³ matmul"}
    width = 2.5 if system == OURS else 1.2
    color = f"C{SYSTEMS.index(system)}"
    return {"color": color, "linewidth": width, "marker": "o", "markersize": 4, "label": system}


# -- targets -------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Target:
    """How many times as fast as another system ours has to be."""

    dtype: str
    hidden: int
    other: str
    at_least: float
    sequences: tuple[int, ...] = ()  # none: however many


MANY = (32, 64, 128)
TARGETS = [
    Target("float32", 256, PACKED, 2),
    Target("float32", 256, ONNX_RUNTIME, 1),
    Target("float32", 256, OPENVINO, 1),
    Target("float32", 256, MATMUL, 0.75, MANY),
    Target("bfloat16", 256, PACKED, 3.5, (1,)),
    Target("bfloat16", 256, PACKED, 8, (8,)),
    Target("bfloat16", 256, PACKED, 4.5, (32,)),
    Target("bfloat16", 256, PACKED, 3.5, (64, 128)),
    Target("bfloat16", 256, PADDED, 2),
    Target("bfloat16", 256, MATMUL, 0.85, MANY),
    *(
        Target(dtype, hidden, other, 1)
        for hidden in (64, 512)
        for dtype, others in (
            ("float32", (PACKED, PADDED, ONNX_RUNTIME, OPENVINO)),
            ("bfloat16", (PACKED, PADDED, OPENVINO)),
        )
        for other in others
    ),
]


class Checked(NamedTuple):
    compared: int
    missed: list[str]  # a line for each
    unmeasured: list[str]  # likewise


def check(results: Results) -> Checked:
    """Every comparison with a target that the results have."""
    compared, missed, unmeasured = 0, [], []
    for target in TARGETS:
        for row in results.groups().get((target.dtype, target.hidden), []):
            if target.sequences and row.sequences not in target.sequences:
                continue
            batch = f"{row.dtype}, hidden {row.hidden}, sequences {row.sequences}"
            speed_up = row.speed_up(target.other)
            if speed_up is None:
                unmeasured.append(f"{batch}: {target.other} was not measured")
                continue
            compared += 1
            if speed_up < target.at_least:
                missed.append(
                    f"{batch}: ours has {speed_up:.2f} times the speed of {target.other}, "
                    f"required {target.at_least}"
                )
    return Checked(compared, missed, unmeasured)
