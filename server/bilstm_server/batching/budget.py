"""`TokenBudget`: how many tokens a batch may have now, after the device's memory ran out. Pure.

What else uses the device's memory may leave less of it than there was at the start. Each batch that
then fails costs all who are in it a second try, so batches are kept smaller for a while.
"""

from __future__ import annotations

_LEAST_SHARE = 1 / 16  # of the full budget: below it, smaller batches gain little and cost much
_HOLD_SECONDS = 30.0  # without a further failure, until the budget grows
_STEP_SECONDS = 10.0  # from one doubling to the next


class TokenBudget:
    """Lowered to half of what failed, and doubled step by step until it is full again."""

    def __init__(self, max_tokens: int):
        self._max_tokens = max_tokens
        self._least_tokens = max(1, int(max_tokens * _LEAST_SHARE))
        self._lowered: tuple[int, float] | None = None  # to so many tokens, and when

    def tokens(self, now: float) -> int:
        """The most tokens that a batch may have. May be read by any thread."""
        if (lowered := self._lowered) is None:
            return self._max_tokens
        tokens, lowered_at = lowered
        since_hold = now - lowered_at - _HOLD_SECONDS
        steps = 0 if since_hold < 0 else 1 + int(since_hold / _STEP_SECONDS)
        if steps >= self._max_tokens.bit_length():  # from one token on that is enough
            return self._max_tokens
        return min(tokens << steps, self._max_tokens)

    def lower(self, failed_tokens: int, now: float) -> None:
        """Take into account that memory ran out for a batch of so many tokens. A batch that was
        closed before the last failure lowers nothing that this one has not."""
        lowered = min(self.tokens(now), failed_tokens // 2)
        self._lowered = (max(lowered, self._least_tokens), now)

    def restore(self) -> None:
        """Be full again: one sequence alone did not fit. The batches that failed had it in them,
        and whoever sends such sequences is not to make all other batches small."""
        self._lowered = None
