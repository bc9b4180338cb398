"""`BatchQueue`: which sequences wait, and in which order they are offered to the next batch.

Levels of priority take turns, within a level its callers do, and what one caller has at one level
is served first come, first served. Turns are counted in tokens: see `Turns`.

Decisions only. It never sees a clock, a thread, an event loop or a tensor: `now` is an argument.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Generic, NamedTuple

from ..callers import Priority
from ..settings import QueueLimits
from .forming import FormingBatch, Verdict
from .lanes import J, Lane, Level, level_weights
from .shares import Shares
from .turns import TURN_TOKENS, Turns


class Room(NamedTuple):
    """A part of the queue's room."""

    sequences: int
    tokens: int


def room_for_newcomers(limits: QueueLimits) -> Room:
    """What nobody takes who has more than its part already: a batch, or half the queue if less."""
    return Room(
        min(limits.max_batch_sequences, limits.max_queue_sequences // 2),
        min(limits.max_batch_tokens, limits.max_queue_tokens // 2),
    )


class BatchQueue(Generic[J]):
    """What waits of all callers; the queue is bounded in tokens and in sequences."""

    def __init__(self, limits: QueueLimits, shares: Shares):
        """`shares` is told which callers have something waiting here."""
        self._max_sequences = limits.max_queue_sequences
        self._max_tokens = limits.max_queue_tokens
        self._batch = Room(limits.max_batch_sequences, limits.max_batch_tokens)
        self._max_delay = limits.max_queue_delay
        self._shares = shares
        self._levels = tuple(Level[J](priority) for priority in Priority)  # by priority
        self._turns: Turns[Level[J]] = Turns()  # of the levels that have something waiting
        self._sequences = 0
        self._tokens = 0

    def __len__(self) -> int:
        return self._sequences

    @property
    def tokens(self) -> int:
        """Tokens of all waiting sequences."""
        return self._tokens

    def fits(self, sequences: int, tokens: int) -> bool:
        """Whether that many more sequences, with that many tokens in all, may wait."""
        return (
            self._sequences + sequences <= self._max_sequences
            and self._tokens + tokens <= self._max_tokens
        )

    def held(self, caller: str) -> Room:
        """How much of what waits is the caller's."""
        lanes = [lane for level in self._turns if (lane := level.lanes.get(caller))]
        return Room(sum(len(lane.jobs) for lane in lanes), sum(lane.tokens for lane in lanes))

    def waited(self, caller: str, priority: Priority, now: float) -> float:
        """Seconds for which the caller's first sequence of that priority has waited, or 0 if none
        waits."""
        lane = self._levels[priority].lanes.get(caller)
        return 0.0 if lane is None else now - lane.first.admitted_at

    def put(self, jobs: Sequence[J]) -> None:
        """Let `jobs` wait, all of one caller and priority. Somebody has asked `fits`."""
        if not jobs:
            return
        caller, level = jobs[0].caller, self._levels[jobs[0].priority]
        lane = level.lanes.get(caller)
        if lane is None:
            lane = self._open(level, caller)
        tokens = 0
        for job in jobs:
            lane.jobs[job] = None
            tokens += job.tokens
        lane.tokens += tokens
        self._sequences += len(jobs)
        self._tokens += tokens

    def remove(self, job: J) -> bool:
        """Forget a waiting job; False if it no longer waits."""
        level = self._levels[job.priority]
        lane = level.lanes.get(job.caller)
        if lane is None or job not in lane.jobs:
            return False
        self._leave(level, lane, [job], job.tokens)
        return True

    # -- the next batch --------------------------------------------------------------------------

    @property
    def full(self) -> bool:
        """Whether what waits fills a batch, so that waiting longer would not make it larger."""
        return self._sequences >= self._batch.sequences or self._tokens >= self._batch.tokens

    def due_at(self) -> float | None:
        """When a batch may form at the latest: at once if it is full; None if nothing waits."""
        if not self._sequences:
            return None
        first = min(lane.first.admitted_at for _, lane in self._lanes())
        return first + (0.0 if self.full else self._max_delay)

    def take(self, forming: FormingBatch[J]) -> tuple[list[J], list[J]]:
        """Remove and return the next batch, as `forming` takes it in, and the hopeless jobs that
        were found before its end.

        Callers are served in turns until somebody's first job does not fit. What is left of the
        batch is then for others, whose part of the next ones is the smaller for it.
        """
        batch: list[J] = []
        hopeless: list[J] = []
        verdict, lane = Verdict.JOINED, None
        while self._sequences and verdict is Verdict.JOINED:
            level = self._turns.current()
            lane = level.turns.current()
            credit = min(self._turns.credit(level), level.turns.credit(lane))
            verdict = self._serve(level, lane, forming, credit, batch, hopeless)
        if verdict is Verdict.LATER:
            for level, other in list(self._lanes()):
                if other is lane:
                    continue
                verdict = self._serve(level, other, forming, float("inf"), batch, hopeless)
                if verdict is Verdict.CLOSED:
                    break
        return batch, hopeless

    def _serve(
        self,
        level: Level[J],
        lane: Lane[J],
        forming: FormingBatch[J],
        credit: float,
        batch: list[J],
        hopeless: list[J],
    ) -> Verdict:
        """Offer the lane's jobs, in order and as far as its credit reaches. Returns `JOINED`, or
        why the last one must go on waiting."""
        joined, lost = len(batch), len(hopeless)
        tokens = lost_tokens = 0
        verdict = Verdict.JOINED
        for job in lane.jobs:
            if tokens + job.tokens > credit:
                break
            verdict = forming.offer(job)
            if verdict is Verdict.JOINED:
                batch.append(job)
                tokens += job.tokens
            elif verdict is Verdict.HOPELESS:
                hopeless.append(job)
                lost_tokens += job.tokens
                verdict = Verdict.JOINED
            else:
                break
        self._turns.charge(level, tokens)
        level.turns.charge(lane, tokens)
        self._leave(level, lane, batch[joined:] + hopeless[lost:], tokens + lost_tokens)
        return verdict

    # -- lanes -----------------------------------------------------------------------------------

    def _lanes(self) -> Iterator[tuple[Level[J], Lane[J]]]:
        """Those that have something waiting, beginning with the one whose turn it is."""
        return ((level, lane) for level in self._turns for lane in level.turns)

    def _open(self, level: Level[J], caller: str) -> Lane[J]:
        """Begin the lane of a caller that has nothing waiting at that level."""
        lane: Lane[J] = Lane(caller, self._shares.weight(caller))
        self._shares.enter(caller)
        if not level.lanes:
            self._turns.add(level)
        level.add(lane)
        self._weigh()
        return lane

    def _leave(self, level: Level[J], lane: Lane[J], jobs: Sequence[J], tokens: int) -> None:
        """Let jobs of the lane, with so many tokens, wait no more."""
        self._sequences -= len(jobs)
        self._tokens -= tokens
        lane.tokens -= tokens
        if len(jobs) < len(lane.jobs):
            for job in jobs:
                del lane.jobs[job]
            return
        self._shares.leave(lane.caller)
        level.remove(lane)
        if not level.lanes:
            self._turns.remove(level)
        self._weigh()

    def _weigh(self) -> None:
        """Weigh the levels anew, as callers have come or gone."""
        if len(self._turns) > 1:
            weights = level_weights({level.priority: level.callers_weight for level in self._turns})
            for level in self._turns:
                level.weight = weights[level.priority]

    # -- what comes before -----------------------------------------------------------------------

    def tokens_ahead(self, caller: str, priority: Priority, tokens: int) -> int:
        """About how many of the waiting tokens are computed before the last one of `tokens` new
        ones of that caller, going by everyone's part."""
        level = self._levels[priority]
        lane = level.lanes.get(caller)
        own = 0 if lane is None else lane.tokens
        if own == self._tokens:
            return own
        weight = self._shares.weight(caller)
        rounds = (own + tokens) / weight + TURN_TOKENS  # what a weight of 1 is served meanwhile
        ahead = own + sum(
            min(other.tokens, rounds * other.weight) for other in level.turns if other is not lane
        )
        others = [other for other in self._turns if other is not level]
        if others:
            callers_weights = {other.priority: other.callers_weight for other in others}
            callers_weights[priority] = level.callers_weight + (weight if lane is None else 0.0)
            weights = level_weights(callers_weights)
            rounds = (ahead + tokens) / weights[priority] + TURN_TOKENS
            ahead += sum(min(other.tokens, rounds * weights[other.priority]) for other in others)
        return min(int(ahead), self._tokens)
