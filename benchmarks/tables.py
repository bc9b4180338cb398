"""Tables of numbers in Markdown, for all benchmarks."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence


def markdown(
    columns: Sequence[str], rows: Iterable[Sequence[str]], words: int = 0
) -> Iterator[str]:
    """A table's lines. Numbers stand at the right, but the first so many columns are words."""
    yield f"| {' | '.join(columns)} |"
    numbers = len(columns) - words
    yield f"| {' | '.join(['---'] * words + ['---:'] * numbers)} |"
    for row in rows:
        yield f"| {' | '.join(row)} |"


def number(value: float | None) -> str:
    """Three digits that say something, or a dash."""
    if value is None:
        return "–"  # noqa: RUF001
    return f"{value:.0f}" if value >= 100 else f"{value:.1f}" if value >= 10 else f"{value:.2f}"
