"""The demo's picture, as SVG: who was taken for whom, and what one utterance's states are.

Knows arrays only; needs nothing that draws.
"""

from __future__ import annotations

from collections.abc import Iterator
from itertools import pairwise

import numpy as np
from numpy.typing import NDArray

CELL = 38  # pixels of a speaker's row and column
LEFT, TOP, GAP = 60, 92, 96
HEAT_WIDTH = 464
WHITE, BLUE, RED = (255, 255, 255), (33, 102, 172), (178, 24, 43)

Color = tuple[int, int, int]


def picture(named: NDArray[np.int64], spoke: NDArray[np.int64], states: NDArray[np.float32]) -> str:
    """SVG of both; `named` and `spoke` [utterances] are speakers, `states` [T, 2H] one utterance's.

    The first H columns of `states` are the forward direction's.
    """
    size = CELL * (int(spoke.max()) + 1)
    heat_left = LEFT + size + GAP
    width, height = heat_left + HEAT_WIDTH + 40, TOP + size + 64
    right = sum(named == spoke)
    return "\n".join(
        [
            f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {width} {height}" '
            f'width="{width}" height="{height}" font-family="sans-serif" font-size="13">',
            f'<rect width="{width}" height="{height}" fill="white"/>',
            _text(LEFT, 36, f"{right} of {len(spoke)} speakers named right", size=17),
            _text(LEFT, 58, "rows: who spoke; columns: who was named", fill="#666"),
            *_confusion(named, spoke),
            _text(
                heat_left,
                36,
                "One utterance, read from both ends",
                size=17,
            ),
            _text(
                heat_left,
                58,
                f"a row is a hidden unit ({states.shape[1]} in all), from -1 (red) to 1 (blue)",
                fill="#666",
            ),
            *_heat(states, heat_left, size),
            "</svg>\n",
        ]
    )


def _confusion(named: NDArray[np.int64], spoke: NDArray[np.int64]) -> Iterator[str]:
    speakers = int(spoke.max()) + 1
    for row in range(speakers):
        yield _text(LEFT - 12, TOP + CELL * (row + 0.62), str(row), anchor="end")
        yield _text(LEFT + CELL * (row + 0.5), TOP - 8, str(row), anchor="middle")
        for column in range(speakers):
            count = int(((spoke == row) & (named == column)).sum())
            share = count / int((spoke == row).sum())
            color = _blend(BLUE if row == column else RED, share**0.5)
            x, y = LEFT + CELL * column, TOP + CELL * row
            yield _cell(x, y, CELL - 1, CELL - 1, color if count else "#f2f2f2")
            if count:
                yield _text(
                    x + CELL / 2,
                    y + CELL * 0.62,
                    str(count),
                    anchor="middle",
                    fill="white" if share > 0.3 else "black",
                )


def _heat(states: NDArray[np.float32], left: int, size: int) -> Iterator[str]:
    """Each direction's units, sorted by their mean, so that those that are alike lie together."""
    forward, backward = np.split(states, 2, axis=1)
    height = (size - 28) / 2
    for part, top, words in (
        (forward, TOP, "forward →"),
        (backward, TOP + height + 28, "← backward"),
    ):
        yield _text(left, top - 8, words)
        units = part[:, np.argsort(-part.mean(axis=0))].T
        columns = np.linspace(left, left + HEAT_WIDTH, part.shape[0] + 1)
        rows = np.linspace(top, top + height, part.shape[1] + 1)
        for unit, (y, below) in zip(units, pairwise(rows), strict=True):
            for value, (x, after) in zip(unit, pairwise(columns), strict=True):
                color = _blend(BLUE if value > 0 else RED, abs(float(value)))
                yield _cell(x, y, after - x + 0.3, below - y + 0.3, color)
    yield _text(left, TOP + size + 22, "step 1")
    yield _text(left + HEAT_WIDTH, TOP + size + 22, f"step {len(states)}", anchor="end")


def _blend(color: Color, share: float) -> str:
    parts = (round(w + (c - w) * share) for w, c in zip(WHITE, color, strict=True))
    return "#" + "".join(f"{part:02x}" for part in parts)


def _cell(x: float, y: float, width: float, height: float, fill: str) -> str:
    return (
        f'<rect x="{x:.1f}" y="{y:.1f}" width="{width:.1f}" height="{height:.1f}" fill="{fill}"/>'
    )


def _text(
    x: float, y: float, words: str, anchor: str = "start", fill: str = "black", size: int = 13
) -> str:
    return (
        f'<text x="{x:.1f}" y="{y:.1f}" text-anchor="{anchor}" fill="{fill}" font-size="{size}">'
        f"{words}</text>"
    )
