"""`LongWork`: the long sequences that were let in, what room they take, how long they will take.
Pure."""

from __future__ import annotations

from typing import Generic

from .estimate import BatchEstimate
from .lanes import J
from .queue import Room
from .shares import Shares


class LongWork(Generic[J]):
    """Long sequences until they end. Work is counted in tokens of one layer: a sequence of T steps
    has T in each layer.
    """

    def __init__(self, shares: Shares) -> None:
        """`shares` is told whose sequences take room of the queue."""
        self._shares = shares
        self._left: dict[J, int | None] = {}  # tokens of all layers, None before it has begun
        self._layers = 1  # of the model, once a sequence has begun
        self._seconds_per_token = 0.0  # until a slice was computed
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

    def observe(self, tokens: int, seconds: float) -> None:
        """Take into account a slice of that many tokens of a layer, which took that long."""
        if tokens:
            self._seconds_per_token = seconds / tokens

    def seconds(self, estimate: BatchEstimate) -> float:
        """About how long all of them will take; before any slice, as they would in batches."""
        per_token = self._seconds_per_token or estimate.seconds_per_token / self._layers
        tokens = sum(
            self._layers * job.tokens if left is None else left for job, left in self._left.items()
        )
        return tokens * per_token

    def seconds_with(self, tokens: int) -> float:
        """About how long a sequence of so many tokens that came now would take at least; 0 before
        any slice. They have turns: each of the others goes before it for as long as it has itself.
        """
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
        is computed."""
        left = self._left[job]
        tokens = self._layers * job.tokens if left is None else left
        return now + tokens * self._seconds_per_token > job.deadline
