"""`LongWork`: the long sequences that were let in, what room they take, how long they will take.
Pure."""

from __future__ import annotations

import math
from collections import deque
from typing import Generic

from .estimate import BatchEstimate
from .lanes import J
from .queue import Room
from .shares import Shares

_SLICES = 16  # by which is judged what the next one takes
_STALE_SECONDS = 0.5  # after the last one, when it says nothing any more of the next


class LongWork(Generic[J]):
    """Long sequences until they end. Work is counted in tokens of one layer: a sequence of T steps
    has T in each layer.
    """

    def __init__(self, shares: Shares) -> None:
        """`shares` is told whose sequences take room of the queue."""
        self._shares = shares
        self._left: dict[J, int | None] = {}  # tokens of all layers, None before it has begun
        self._layers = 1  # of the model, once a sequence has begun
        self._slices = deque[tuple[float, int]](maxlen=_SLICES)  # seconds a token, and tokens
        self._seconds_per_token = 0.0  # until a slice was computed
        self._sliced_at = -math.inf  # when the last one was
        self._in_room: set[J] = set()
        self.tokens = 0  # of those that take room of the queue

    @property
    def sequences(self) -> int:
        """How many of them take room of the queue."""
        return len(self._in_room)

    def put(self, job: J, takes_room: bool) -> None:
        """Add a sequence; `takes_room` of the queue, until it ends."""
        self._left[job] = None
        if takes_room:
            self._in_room.add(job)
            self.tokens += job.tokens
            self._shares.enter(job.caller)

    def end(self, job: J) -> None:
        """Forget a sequence: it is computed, or nobody wants its result any more."""
        del self._left[job]
        if job in self._in_room:
            self._in_room.remove(job)
            self.tokens -= job.tokens
            self._shares.leave(job.caller)

    def held(self, caller: str) -> Room:
        """How much room of the queue the caller's take."""
        tokens = [job.tokens for job in self._in_room if job.caller == caller]
        return Room(len(tokens), sum(tokens))

    def progress(self, job: J, tokens_left: int, layers: int) -> None:
        """Take into account what is left of a sequence, in a model of so many layers."""
        self._left[job] = tokens_left
        self._layers = layers

    def observe(self, tokens: int, seconds: float, now: float) -> None:
        """Take into account a slice of that many tokens of a layer, which took that long."""
        if not tokens:
            return
        self._sliced_at = now
        self._slices.append((seconds / tokens, tokens))
        # The median token's: the last steps of a sequence, few and dear, or one slice that was
        # held up, say little of the next ones.
        half = sum([tokens for _, tokens in self._slices]) / 2
        for per_token, tokens in sorted(self._slices):
            half -= tokens
            if half <= 0:
                self._seconds_per_token = per_token
                return

    def seconds(self, estimate: BatchEstimate) -> float:
        """About how long all of them will take; before any slice, as they would in batches."""
        per_token = self._seconds_per_token or estimate.seconds_per_token / self._layers
        tokens = sum(
            self._layers * job.tokens if left is None else left for job, left in self._left.items()
        )
        return tokens * per_token

    def seconds_with(self, tokens: int, now: float) -> float:
        """About how long a sequence of so many tokens that came now would take at least. They have
        turns: each of the others goes before it for as long as it has itself.

        It is 0 where that is not known: before any slice, and where there is none to compute and
        has been none for a while, so that a sequence is let in as a trial.
        """
        if not self._left and self._is_stale(now):
            return 0.0
        own = self._layers * tokens
        others = sum(
            min(self._layers * job.tokens if left is None else left, own)
            for job, left in self._left.items()
        )
        return (own + others) * self._seconds_per_token

    def seconds_alone(self, tokens: int) -> float:
        """About how long a sequence of so many tokens takes if there is no other; 0 before any
        slice."""
        return self._layers * tokens * self._seconds_per_token

    def is_hopeless(self, job: J, now: float) -> bool:
        """Whether what is left of a sequence takes longer than until its deadline, however soon it
        is computed, as far as is known."""
        if self._is_stale(now):
            return False
        left = self._left[job]
        tokens = self._layers * job.tokens if left is None else left
        return now + tokens * self._seconds_per_token > job.deadline

    def _is_stale(self, now: float) -> bool:
        """Whether no slice was computed for so long that it is not known what one takes now."""
        return now - self._sliced_at > _STALE_SECONDS
