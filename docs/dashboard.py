"""Draws docs/dashboard.svg, the layout of Grafana's dashboard, from the dashboard's JSON.

python docs/dashboard.py [--check]

Rows, panels, titles, units and legends are the dashboard's own. Curves and figures are made up.
"""

from __future__ import annotations

import argparse
import json
import math
import re
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from html import escape
from pathlib import Path
from typing import Any

DOCS = Path(__file__).parent
DASHBOARD = DOCS.parent / "deploy" / "grafana" / "dashboards" / "bilstm.json"
PICTURE = DOCS / "dashboard.svg"

COLUMN, LINE = 50, 26  # pixels of one unit of Grafana's grid of 24 columns
MARGIN, HEADER, GAP = 14, 52, 8
INK, FAINT, EDGE, PAPER, PAGE = "#1f2430", "#6a7280", "#d8dce3", "#ffffff", "#f3f4f7"
COLOURS = ("#3274d9", "#e0752d", "#56a64b", "#8f3bb8", "#d64550", "#1a9c9c")
UNITS = {"s": "seconds", "reqps": "requests/s", "percentunit": "%", "none": "", "short": ""}
FIGURES = {"s": "3.2 h", "percentunit": "0 %"}  # of a single value, by its unit
POINTS = 40

Json = Any


@dataclass(frozen=True)
class Box:
    """A rectangle of the picture, in pixels."""

    x: float
    y: float
    width: float
    height: float

    @classmethod
    def of(cls, panel: Json) -> Box:
        grid = panel["gridPos"]
        return cls(
            MARGIN + grid["x"] * COLUMN + GAP / 2,
            HEADER + grid["y"] * LINE + GAP / 2,
            grid["w"] * COLUMN - GAP,
            grid["h"] * LINE - GAP,
        )

    def inner(self, top: float, bottom: float, side: float = 14) -> Box:
        return Box(self.x + side, self.y + top, self.width - 2 * side, self.height - top - bottom)


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--check", action="store_true", help="write nothing; fail if out of date")
    check = parser.parse_args().check
    picture = draw(json.loads(DASHBOARD.read_text(encoding="utf-8")))
    if PICTURE.exists() and PICTURE.read_text(encoding="utf-8") == picture:
        return 0
    if check:
        print("docs/dashboard.svg is out of date: run docs/dashboard.py", file=sys.stderr)
        return 1
    PICTURE.write_text(picture, encoding="utf-8")
    return 0


def draw(dashboard: Json) -> str:
    panels = dashboard["panels"]
    lines = max(p["gridPos"]["y"] + p["gridPos"]["h"] for p in panels)
    width, height = 24 * COLUMN + 2 * MARGIN, HEADER + lines * LINE + 34
    parts = [
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {width} {height}" '
        f'width="{width}" height="{height}" font-family="Helvetica, Arial, sans-serif">',
        f"<title>Layout of the dashboard {escape(dashboard['title'])}</title>",
        f'<rect width="{width}" height="{height}" rx="8" fill="{PAGE}"/>',
        _text(MARGIN + 8, 34, dashboard["title"], 20, INK, weight="bold"),
        *_variables(dashboard["templating"]["list"]),
    ]
    for number, panel in enumerate(panels):
        parts += _row(panel) if panel["type"] == "row" else _panel(panel, number)
    note = "Layout, drawn from the dashboard's JSON. Curves and figures are made up."
    parts += [_text(MARGIN + 8, height - 14, note, 12, FAINT), "</svg>"]
    return "\n".join(parts) + "\n"


def _variables(variables: Json) -> Iterator[str]:
    x = MARGIN + 104.0
    for variable in variables:
        label = f"{variable['label']}: all"
        width = 24 + 7 * len(label)
        yield _rect(Box(x, 16, width, 25), PAPER, EDGE)
        yield _text(x + 12, 33, label, 13, FAINT)
        x += width + GAP


def _row(panel: Json) -> list[str]:
    box = Box.of(panel)
    return [_text(box.x + 2, box.y + 15, f"▾ {panel['title']}", 15, INK, weight="bold")]


def _panel(panel: Json, number: int) -> Iterator[str]:
    box = Box.of(panel)
    unit = panel["fieldConfig"]["defaults"]["unit"]
    unit_name = UNITS.get(unit, unit.removeprefix("suffix: "))
    kind = panel["type"].replace("timeseries", "time series")
    right = " · ".join(filter(None, (unit_name, kind)))
    yield "<g>"
    yield f"<title>{escape(panel['description'])}</title>"
    yield _rect(box, PAPER, EDGE)
    yield _text(box.x + 14, box.y + 22, panel["title"], 13, INK, weight="bold")
    yield _text(box.x + box.width - 14, box.y + 22, right, 11, FAINT, anchor="end")
    if panel["type"] == "stat":
        yield from _stat(box, panel, unit)
    elif panel["type"] == "table":
        yield from _table(box.inner(38, 14), panel)
    else:
        yield from _curves(box.inner(38, 40), panel, number)
        yield from _legend(box, panel)
    yield "</g>"


def _stat(box: Box, panel: Json, unit: str) -> Iterator[str]:
    first = panel["fieldConfig"]["defaults"]["thresholds"]["steps"][0]["color"]
    figure = FIGURES.get(unit, "0" if first == "green" else "1")
    middle = box.x + box.width / 2
    yield _text(middle, box.y + box.height / 2 + 26, figure, 34, COLOURS[2], "bold", "middle")


def _table(box: Box, panel: Json) -> Iterator[str]:
    columns = panel["transformations"][0]["options"]["indexByName"]
    step = box.width / len(columns)
    for index, name in enumerate(sorted(columns, key=columns.__getitem__)):
        x = box.x + index * step
        yield _text(x, box.y + 12, name, 12, FAINT, weight="bold")
        for line in range(1, 5):
            wide = step * (0.4 + 0.1 * ((index + 2 * line) % 4))
            yield _rect(Box(x, box.y + 28 * line + 2, wide, 8), PAGE, PAGE)
    for line in range(5):
        y = box.y + 20 + 28 * line
        yield _path([(box.x, y), (box.x + box.width, y)], EDGE)


def _curves(box: Box, panel: Json, number: int) -> Iterator[str]:
    """One curve for each legend, or areas one on the other where the panel stacks them."""
    for line in range(4):
        y = box.y + box.height * line / 3
        yield _path([(box.x, y), (box.x + box.width, y)], EDGE)
    stacked = panel["fieldConfig"]["defaults"]["custom"]["stacking"]["mode"] == "normal"
    curves = 4 if stacked else max(len(panel["targets"]), 2)
    for index in reversed(range(curves)):
        level = (index + 1) / (curves + 0.6)
        points = [
            (box.x + box.width * i / POINTS, box.y + box.height * (1 - level * _wave(i, seed)))
            for i in range(POINTS + 1)
            for seed in [number if stacked else number + 3 * index]
        ]
        colour = COLOURS[index % len(COLOURS)]
        floor = [(box.x + box.width, box.y + box.height), (box.x, box.y + box.height)]
        yield _path(points + floor, "none", colour, 0.3 if stacked else 0.06)
        yield _path(points, colour, width=1.6)


def _wave(i: int, seed: int) -> float:
    """A made-up course of events, between 0.7 and 1."""
    slow, fast = math.sin(i / 5 + seed), math.sin(i * 1.3 + 2 * seed)
    return 0.85 + 0.1 * slow + 0.05 * fast


def _legend(box: Box, panel: Json) -> Iterator[str]:
    x, y = box.x + 14, box.y + box.height - 14
    for index, target in enumerate(panel["targets"]):
        name = re.sub(r"{{(\w+)}}", r"<\1>", target["legendFormat"])
        yield _rect(Box(x, y - 8, 10, 4), COLOURS[index % len(COLOURS)], "none")
        yield _text(x + 15, y - 2, name, 11, FAINT)
        x += 32 + 6.2 * len(name)


def _rect(box: Box, fill: str, stroke: str) -> str:
    return (
        f'<rect x="{box.x:g}" y="{box.y:g}" width="{box.width:g}" height="{box.height:g}" '
        f'rx="{min(4, box.height / 2):g}" fill="{fill}" stroke="{stroke}"/>'
    )


def _path(
    points: list[tuple[float, float]],
    stroke: str,
    fill: str = "none",
    opacity: float = 1,
    width: float = 1,
) -> str:
    course = " ".join(f"{x:.1f},{y:.1f}" for x, y in points)
    return (
        f'<polyline points="{course}" fill="{fill}" fill-opacity="{opacity:g}" '
        f'stroke="{stroke}" stroke-width="{width:g}"/>'
    )


def _text(
    x: float, y: float, text: str, size: int, fill: str, weight: str = "normal", anchor: str = ""
) -> str:
    anchored = f' text-anchor="{anchor}"' if anchor else ""
    return (
        f'<text x="{x:g}" y="{y:g}" font-size="{size}" font-weight="{weight}" '
        f'fill="{fill}"{anchored}>{escape(text)}</text>'
    )


if __name__ == "__main__":
    sys.exit(main())
