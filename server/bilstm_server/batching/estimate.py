"""`BatchEstimate`: what a batch will take, as those before it tell. Pure.

A batch takes a time of its own, one for each step of its longest sequence, and one for each of its
tokens. These three are the line through what batches have taken (least squares of the relative
errors, none of the three below zero), which forgets slowly. How much slower or faster than the line
the device is just now, its pace, is the median of the last batches, and so follows within a few.

Where batches tell too little, what they had in common is put down to their tokens. Of many more
tokens than the largest batch had, little is known: a batch is kept as small as the line says, but
nobody is refused for it. Whoever is let in wrongly teaches it, and whoever is refused does not.
"""

from __future__ import annotations

import math
from collections import deque

from .recent import Recent

_FORGETTING = 0.98  # of what the line goes by, with each batch
_SWEEPS = 6  # towards the best line, with each batch
_BATCH_DOUBT, _STEPS_DOUBT = 1e-3, 3e-3  # about what does not go to tokens: see the module
_REACH = 16.0  # times the largest batch's tokens: of more than that nothing can be said
_SETTLED_BATCHES = 16
_PACE_BATCHES = 7
_MOST_ERROR = 2.0  # that the line is told of: beyond, a batch was held up, or the pace changes
_JUMP = 1.5  # the device has changed, and what the line goes by with it
_MARGIN_BATCHES, _MARGIN_SECONDS = 64, 5.0  # in which misjudgements are remembered
_LATE, _EARLY = 0.98, 0.05  # the quantiles of misjudgements that count as possible
_LEAST_MARGIN, _MOST_MARGIN = 0.05, 1.0  # of what a batch is said to take


class BatchEstimate:
    """What batches of one model take, in seconds."""

    def __init__(self) -> None:
        # Of the batches' tokens, 1 and their steps, each by the seconds that it took: the products
        # of each pair, in that order, and the sums.
        self._squares = (0.0,) * 6
        self._sums = (0.0,) * 3
        self._line = (0.0,) * 3  # seconds for each token, for a batch, for each step
        self._batches = 0
        self._largest = 0.0  # tokens
        self._last = deque[tuple[int, int, float]](maxlen=_PACE_BATCHES)  # and what they took
        self._misjudged = Recent(_MARGIN_BATCHES, _MARGIN_SECONDS)
        self._pace = 1.0
        self._latest = 1.0 + _LEAST_MARGIN  # of what is said to be likely
        self._earliest = 1.0 - _LEAST_MARGIN

    @property
    def is_known(self) -> bool:
        """Whether any batch was computed."""
        return self._largest > 0.0

    @property
    def is_settled(self) -> bool:
        """Whether so many batches were computed that the line can tell what a batch costs beside
        its tokens."""
        return self._batches >= _SETTLED_BATCHES

    @property
    def reach(self) -> float:
        """The most tokens of a batch of which something can be said; infinite as long as nothing
        is known."""
        return _REACH * self._largest if self.is_known else math.inf

    @property
    def longest(self) -> float:
        """The steps of the longest sequence of a typical batch; 0 as long as nothing is known."""
        _, _, _, bb, bc, _ = self._squares
        return bc / bb if bb else 0.0

    def observe(self, longest: int, tokens: int, seconds: float, now: float) -> None:
        """Take into account a batch of that many tokens, its longest sequence of so many steps,
        which took that long."""
        if seconds <= 0.0:  # less than the clock can tell
            return
        self._batches += 1
        plausible = seconds
        if self.is_known:
            likely = self.seconds(longest, tokens)
            self._misjudged.add(seconds / likely, now)
            plausible = min(max(seconds, likely / _MOST_ERROR), likely * _MOST_ERROR)
        self._largest = max(float(tokens), _FORGETTING * self._largest)
        self._fit(longest, tokens, plausible)
        self._last.append((longest, tokens, seconds))
        per_token, batch, per_step = self._line
        paces = sorted(
            [
                took / (many * per_token + batch + steps * per_step)
                for steps, many, took in self._last
            ]
        )
        self._pace = paces[len(paces) // 2]
        if not 1.0 / _JUMP < self._pace < _JUMP:
            self._jump(self._pace)
        late = self._misjudged.quantile(_LATE, 1.0)
        early = self._misjudged.quantile(_EARLY, 1.0)
        self._latest = 1.0 + min(max(late - 1.0, _LEAST_MARGIN), _MOST_MARGIN)
        self._earliest = min(early, 1.0 - _LEAST_MARGIN)

    def _fit(self, longest: int, tokens: int, seconds: float) -> None:
        """Move the line towards the one that is best for all batches, by one more: each coefficient
        in turn. Written out, since every batch comes by here."""
        kept, one = _FORGETTING, 1.0 / seconds
        many, steps = tokens * one, longest * one
        aa, ab, ac, bb, bc, cc = self._squares
        aa, ab, ac = kept * aa + many * many, kept * ab + many * one, kept * ac + many * steps
        bb, bc, cc = kept * bb + one * one, kept * bc + one * steps, kept * cc + steps * steps
        sum_a, sum_b, sum_c = self._sums
        sum_a, sum_b, sum_c = kept * sum_a + many, kept * sum_b + one, kept * sum_c + steps
        self._squares = aa, ab, ac, bb, bc, cc
        self._sums = sum_a, sum_b, sum_c
        bb, cc = bb * (1.0 + _BATCH_DOUBT), cc * (1.0 + _STEPS_DOUBT)
        a, b, c = self._line
        for _ in range(_SWEEPS):
            a = max((sum_a - ab * b - ac * c) / aa, 0.0)
            b = max((sum_b - ab * a - bc * c) / bb, 0.0)
            c = max((sum_c - ac * a - bc * b) / cc, 0.0)
        self._line = a, b, c

    def _jump(self, slower: float) -> None:
        """Have the line, and all that it goes by, as if batches had always taken so much longer."""
        a, b, c = (slower * each for each in self._line)
        aa, ab, ac, bb, bc, cc = (each / slower**2 for each in self._squares)
        self._line = a, b, c
        self._squares = aa, ab, ac, bb, bc, cc
        self._sums = (
            aa * a + ab * b + ac * c,
            ab * a + bb * b + bc * c,
            ac * a + bc * b + cc * c,
        )
        self._pace = 1.0

    def _at_pace(self, longest: float, tokens: float) -> float:
        """What a batch takes by the line."""
        per_token, batch, per_step = self._line
        return tokens * per_token + batch + longest * per_step

    # -- what it says -----------------------------------------------------------------------------

    def seconds(self, longest: float, tokens: float) -> float:
        """What a batch is likely to take; 0 as long as nothing is known."""
        return self._pace * self._at_pace(longest, tokens)

    def known_seconds(self, longest: float, tokens: float) -> float:
        """What a batch takes as far as that is known: no more for many more tokens than the largest
        batch had than for some times as many."""
        return self.seconds(longest, min(tokens, self.reach))

    @property
    def seconds_per_token(self) -> float:
        """What a batch takes for each of its tokens; 0 as long as nothing is known."""
        return self._pace * self._line[0]

    def overhead(self, longest: float) -> float:
        """What of that does not depend on the number of tokens."""
        return self.seconds(longest, 0)

    def tokens_within(self, seconds: float, longest: float) -> float:
        """How many tokens a batch may have to take no longer than that, as far as is known."""
        per_token = self.seconds_per_token
        left = max(seconds - self.overhead(longest), 0.0)
        is_all = not self.is_known or left >= self.reach * per_token
        return math.inf if is_all else left / per_token

    def latest(self, seconds: float) -> float:
        """What may be the case, unfavourably, where so many seconds are likely."""
        return seconds * self._latest

    def earliest(self, seconds: float) -> float:
        """What may be the case, favourably, where so many seconds are likely."""
        return seconds * self._earliest
