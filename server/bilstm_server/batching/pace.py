"""`SlicePace`: how many steps a slice has, so that it takes the time that it may; `SliceTime`: how
long slices may go on. Pure."""

from __future__ import annotations

import math
from dataclasses import dataclass

from ..model.incremental.slices import SLICE_UNIT

_MAX_STEPS = 256 * SLICE_UNIT
_LONE_SECONDS = 1.0  # for which nothing else wanted the device, before slices may take longer
_LONE_FACTOR = 10.0  # how much longer


@dataclass(frozen=True, slots=True)
class SliceTime:
    """How long slices of long sequences may have the device, in seconds."""

    at_least: float  # whoever else wants it
    at_most: float

    def is_over(self, elapsed: float, wanted: bool) -> bool:
        """Whether to compute no further slice now; `wanted`: something else wants the device."""
        return elapsed >= self.at_most or (wanted and elapsed >= self.at_least)


class SlicePace:
    """Steps of all sequences in a slice, as the time of those before suggests."""

    def __init__(self, slice_seconds: float, max_sequences: int):
        """`slice_seconds`: how long a slice is to take at most, where something else may want the
        device. `max_sequences`: in one slice.
        """
        self._slice_seconds = slice_seconds
        self._max_sequences = max_sequences
        self._wanted_at = -math.inf  # when something else wanted the device last
        self.steps = SLICE_UNIT

    @property
    def sequences(self) -> int:
        """How many sequences may share a slice, at least a unit of steps each."""
        return min(self.steps // SLICE_UNIT, self._max_sequences)

    def want(self, now: float) -> None:
        """Take into account that something else wants the device, or had it just now."""
        self._wanted_at = now

    def observe(self, seconds: float, now: float) -> None:
        """Take into account how long a slice took. The next has half to twice its steps."""
        lone = now - self._wanted_at > _LONE_SECONDS
        target = self._slice_seconds * (_LONE_FACTOR if lone else 1.0)
        steps = int(self.steps * min(max(target / seconds, 0.5), 2.0))
        self.steps = min(max(steps, SLICE_UNIT), _MAX_STEPS)

    def halve(self) -> bool:
        """Have half the steps, as there was no memory for more; False if that can't be."""
        if self.steps == SLICE_UNIT:
            return False
        self.steps = max(self.steps // 2, SLICE_UNIT)
        return True
