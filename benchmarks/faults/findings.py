"""What a trial found, and the table of it. Knows no server."""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator
from dataclasses import asdict, dataclass
from typing import Any

_MOOD = 4


@dataclass(frozen=True, slots=True)
class Finding:
    """One figure. With a limit it is held or missed; without one it is told."""

    trial: str
    sent: str
    measured: str
    figure: float
    unit: str = ""
    most: float = math.inf
    least: float = -math.inf

    @property
    def held(self) -> bool:
        return self.least <= self.figure <= self.most  # NaN is not

    @property
    def nearly(self) -> bool:
        """Whether it is missed by so little that it may have been the machine's mood."""
        return self.most < self.figure <= _MOOD * self.most

    @property
    def limit(self) -> str:
        if self.most < math.inf:
            return f"at most {self.most:g} {self.unit}".strip()
        if self.least > -math.inf:
            return f"at least {self.least:g} {self.unit}".strip()
        return ""

    @property
    def verdict(self) -> str:
        if not self.limit:
            return ""
        return "held" if self.held else "MISSED"

    def as_json(self) -> dict[str, Any]:
        """Without figures that JSON does not have."""
        values = {
            name: value
            for name, value in asdict(self).items()
            if not (isinstance(value, float) and not math.isfinite(value))
        }
        return values | {"held": self.held}


_COLUMNS = (("trial", 18), ("sent", 64), ("measured", 48), ("figure", 14), ("limit", 18))


def heading() -> str:
    return "".join(f"{name:{width}}" for name, width in _COLUMNS)


def row(finding: Finding) -> str:
    """Words that are too long for their column have two spaces after them all the same."""
    words = (
        finding.trial,
        finding.sent,
        finding.measured,
        f"{finding.figure:,.{0 if abs(finding.figure) >= 100 else 2}f} {finding.unit}".strip(),
        finding.limit,
    )
    cells = (f"{word:{width - 2}}  " for word, (_, width) in zip(words, _COLUMNS, strict=True))
    return "".join(cells) + finding.verdict


def told(findings: Iterable[Finding]) -> Iterator[Finding]:
    """The same, each printed as it comes."""
    for finding in findings:
        print(row(finding), flush=True)
        yield finding
