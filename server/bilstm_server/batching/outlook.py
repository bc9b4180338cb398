"""`Outlook`: when what comes to one model would be answered, and how long its batches may be. Pure.

An answer comes once the device is free, the batches before it are computed and its own one is, and
its reply has been written. What batches take is `BatchEstimate`'s to say. What passes between them
(slices of long sequences, turns of other models) and until replies are written is learned here, and
how soon callers want to be answered.
"""

from __future__ import annotations

import math

from ..errors import DeadlineExpired
from ..settings import QueueLimits
from .estimate import BatchEstimate
from .recent import Recent

LEAST_RETRY_SECONDS = 0.01

_GUESSED_SECONDS = 0.5  # for a batch, until there was one
_REMEMBERED_SECONDS = 5.0
_STALE_SECONDS = 0.5  # without a batch, after which one is let through whatever is expected of it
# Of what the longest batch computes in a second: no batch is so short that it computes less, be it
# for callers that may come, or for one that is there.
_EFFICIENT_FOR_ALL, _EFFICIENT_FOR_ONE = 0.9, 0.98
_PATIENCE_SHARE = 0.5  # of the time that callers have, for a batch, so that the next one is theirs
_STAGING_MARGIN, _LEAST_STAGING_SECONDS = 1.5, 0.002  # a timer alone may be a millisecond late
_MOST_REPLY_SECONDS = 1.0  # if it was longer, the process stood still, or so
_WAY_SECONDS = 0.001  # of a reply to its caller, and what their clocks tell differently
_ROUNDED = 0.01  # of a caller's time, at most: gRPC rounds it up on the way


class Outlook:
    """When what comes to one model would be answered. Times are seconds of one clock."""

    def __init__(self, limits: QueueLimits):
        self._max_batch_tokens = limits.max_batch_tokens
        self.estimate = BatchEstimate()
        self._gaps = Recent(16, _REMEMBERED_SECONDS)  # between batches where one waited
        self._replies = Recent(32, _REMEMBERED_SECONDS)  # from a batch's end to its last reply
        self._came = Recent(64, _REMEMBERED_SECONDS)  # with which time until their deadlines
        self._patience = math.inf  # the least of these, but for a few
        self._idle_since = -math.inf  # when the last batch ended; infinite while one is computed
        self._stagings = Recent(16, _REMEMBERED_SECONDS)  # of batches that were staged ahead
        self._reply_seconds = self._gap_seconds = 0.0
        self.staging_seconds = math.inf  # in which a batch is staged, with a margin
        self.last_seconds = _GUESSED_SECONDS  # which the last batch took

    # -- what happens -----------------------------------------------------------------------------

    def arrive(self, seconds: float, now: float) -> None:
        """Take into account that a caller came, and has so many seconds until its deadline."""
        if seconds < math.inf:
            self._came.add(seconds, now)
            self._patience = min(self._patience, seconds)

    def begin(self, waited_since: float, now: float) -> None:
        """Take into account that a batch begins to be computed, the first of whose sequences has
        waited since then."""
        if waited_since < self._idle_since < now:
            self._gaps.add(now - self._idle_since, now)
            self._gap_seconds = self._gaps.quantile(0.5, 0.0)
        self._idle_since = math.inf
        self._came.forget(now)
        self._patience = self._came.quantile(0.1, math.inf)

    def end(self, longest: int, tokens: int, seconds: float, now: float) -> None:
        """Take into account that a batch was computed, in so many seconds."""
        self.estimate.observe(longest, tokens, seconds, now)
        self.last_seconds = seconds
        self._idle_since = now

    def fail(self, now: float) -> None:
        """Take into account that a batch failed."""
        self._idle_since = now

    def stage(self, seconds: float, now: float) -> None:
        """Take into account how long it took to stage a batch, from when it was to be closed."""
        self._stagings.add(seconds, now)
        likely = self._stagings.quantile(0.5, math.inf)
        self.staging_seconds = _STAGING_MARGIN * likely + _LEAST_STAGING_SECONDS

    def reply(self, seconds: float, now: float) -> None:
        """Take into account how long it took from a batch's end until its replies were written."""
        self._replies.add(min(seconds, _MOST_REPLY_SECONDS), now)
        self._reply_seconds = self._replies.quantile(0.9, 0.0)

    # -- what it says -----------------------------------------------------------------------------

    def is_stale(self, now: float) -> bool:
        """Whether nothing was computed for so long that one job is let through as a trial."""
        return now - self._idle_since > _STALE_SECONDS

    def is_late(self, seconds: float, deadline: float, now: float) -> bool:
        """Whether a caller that is likely to have to wait for so long would be answered too late,
        even if all goes well."""
        return now + self.estimate.earliest(seconds) > self.due_at(deadline, now)

    def lateness(
        self, seconds: float, alone: float, deadline: float, now: float
    ) -> DeadlineExpired:
        """What a caller is told that `is_late`, and would take so long `alone`, with nothing before
        it: with how much time it would be answered, and when with as much as it has, if ever."""
        left, due = max(0.0, deadline - now), self.due_at(deadline, now) - now
        enough = (seconds + self._reply_seconds + _WAY_SECONDS) / (1.0 - _ROUNDED)
        words = (
            f"would take about {1e3 * seconds:.0f} ms, {1e3 * left:.0f} ms are left: allow at "
            f"least {math.ceil(1e3 * enough)} ms"
        )
        if self.is_late(alone, deadline, now):
            return DeadlineExpired(words)
        pause = max(seconds - due, LEAST_RETRY_SECONDS)
        return DeadlineExpired(f"{words}, or try again in {math.ceil(1e3 * pause)} ms", pause)

    def due_at(self, deadline: float, came_at: float) -> float:
        """When the batch of a job that came then must have ended, so that it is answered in
        time."""
        if deadline == math.inf:
            return math.inf
        left = (1.0 - _ROUNDED) * (deadline - came_at)
        return came_at + left - self._reply_seconds - _WAY_SECONDS

    @property
    def gap_seconds(self) -> float:
        """How long it is likely to take from a batch's end until the next one begins."""
        return self._gap_seconds

    def batch_seconds(self, waiting: float) -> float:
        """How long a batch may be, where so many tokens wait. Where callers have deadlines, it
        ends so early that one who comes while it is computed can be answered by the next one, but
        not so early that the device computes much less."""
        if self._patience == math.inf or not self.estimate.is_settled:
            return math.inf
        return max(
            _PATIENCE_SHARE * self._patience, self._least_seconds(waiting, _EFFICIENT_FOR_ALL)
        )

    def efficient_seconds(self, waiting: float) -> float:
        """How long a batch must be at least, where so many tokens wait, so that hardly less is
        computed in a second than by the longest one."""
        return self._least_seconds(waiting, _EFFICIENT_FOR_ONE)

    def _least_seconds(self, waiting: float, efficient: float) -> float:
        estimate = self.estimate
        overhead = estimate.overhead(estimate.longest)
        if overhead == 0.0:
            return 0.0
        most = estimate.known_seconds(estimate.longest, min(waiting, self._max_batch_tokens))
        return overhead / (1.0 - efficient * (1.0 - overhead / most))

    def seconds(self, ahead: float, longest: int = 0, tokens: int = 0) -> float:
        """How long it is likely to take from when the device is free until a job is computed that
        has so many steps in its longest sequence, and `ahead` tokens before it; 0 as long as
        nothing is known."""
        estimate = self.estimate
        if not estimate.is_known:
            return 0.0
        typical = estimate.longest
        within = estimate.tokens_within(self.batch_seconds(ahead + tokens), typical)
        room = max(1.0, min(float(self._max_batch_tokens), within))
        batches, rest = divmod(ahead, room)
        if rest and rest + tokens > room:
            batches, rest = batches + 1.0, 0.0
        seconds = batches * (estimate.known_seconds(typical, room) + self._gap_seconds)
        if rest + tokens:
            seconds += estimate.known_seconds(
                max(longest, typical) if rest else longest, rest + tokens
            )
        return seconds
