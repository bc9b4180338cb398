"""Settings that suit what a model costs on this machine. Pure."""

from __future__ import annotations

from dataclasses import dataclass
from math import ceil

import numpy as np

from .measuring import Measured

_ROUND_TOKENS = 64  # what recommended numbers are multiples of
_LEAST_RATE = 0.95  # of the best rate, that a recommended batch must reach


@dataclass(frozen=True, slots=True)
class Line:
    """What a batch costs: seconds by itself, and seconds more for each token."""

    fixed: float
    per_token: float

    @classmethod
    def fit(cls, measured: Measured) -> Line:
        """The line that fits the batches, by least squares of relative errors."""
        tokens = np.array([batch.tokens for batch in measured.batches])
        seconds = np.array([batch.seconds for batch in measured.batches])
        if len(tokens) == 1:
            return cls(0.0, float(seconds[0] / tokens[0]))
        per_token, fixed = np.polyfit(tokens, seconds, 1, w=1 / seconds)
        return cls(max(0.0, float(fixed)), max(float(per_token), 1e-12))

    def seconds(self, tokens: int) -> float:
        """Seconds of a batch of so many tokens."""
        return self.fixed + self.per_token * tokens

    def rate(self, tokens: int) -> float:
        """Tokens a second, in batches of so many."""
        return tokens / self.seconds(tokens)

    def tokens(self, rate: float) -> float:
        """The tokens of the smallest batches that reach a rate, which must be one that some do."""
        return rate * self.fixed / (1 - rate * self.per_token)


@dataclass(frozen=True, slots=True)
class Recommended:
    """Settings, and whether a batch keeps to the time that it is to take."""

    max_batch_tokens: int
    max_queue_tokens: int
    max_whole_tokens: int
    in_time: bool  # False: no batch that does reaches nearly the best rate

    @property
    def settings(self) -> dict[str, int]:
        """The settings, by their names."""
        return {
            "max_batch_tokens": self.max_batch_tokens,
            "max_queue_tokens": self.max_queue_tokens,
            "max_whole_tokens": self.max_whole_tokens,
        }


def recommend(measured: Measured, batch_seconds: float, queue_seconds: float) -> Recommended:
    """Recommend settings for batches of at most `batch_seconds`, and a queue of at most
    `queue_seconds`.

    A batch takes longer only where no smaller one reaches nearly the best rate, as the line has it.
    A sequence that alone would take a quarter of such a batch's time is computed in slices.
    """
    line = Line.fit(measured)
    # Beyond what was measured nothing is known.
    most = measured.batches[-1].tokens
    enough = _ROUND_TOKENS * ceil(line.tokens(_LEAST_RATE * line.rate(most)) / _ROUND_TOKENS)
    in_time = _most_in_time(measured, line, batch_seconds)
    batch = _rounded(min(max(enough, in_time), most))
    whole = min(_rounded(int(batch_seconds / 4 / measured.long_step_seconds)), batch)
    queue = max(_rounded(round(queue_seconds * line.rate(batch))), 2 * batch)
    return Recommended(batch, queue, whole, in_time=batch <= in_time)


def _most_in_time(measured: Measured, line: Line, batch_seconds: float) -> int:
    """The most tokens of a batch that takes no longer, neither by the line nor as measured."""
    by_line = int((batch_seconds - line.fixed) / line.per_token)
    too_long = (b.tokens - 1 for b in measured.batches if b.seconds > batch_seconds)
    return min(by_line, next(too_long, by_line))


def _rounded(tokens: int) -> int:
    return max(tokens // _ROUND_TOKENS, 1) * _ROUND_TOKENS
