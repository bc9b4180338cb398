"""`SharedRoom`: whether there is room for a call, beside what others have and may need. Pure."""

from __future__ import annotations

from typing import Generic

from ..settings import QueueLimits
from .lanes import J
from .long_work import LongWork
from .queue import BatchQueue, Room, room_of
from .shares import Shares

_KEPT_BATCHES = 2


class SharedRoom(Generic[J]):
    """The room of one queue, of which each of several callers has its part."""

    def __init__(
        self, limits: QueueLimits, queue: BatchQueue[J], long_work: LongWork[J], shares: Shares
    ):
        self._queue = queue
        self._long_work = long_work
        self._shares = shares
        # What is kept for those who have not had their part, and what is shared by parts.
        self._kept = kept = room_of(_KEPT_BATCHES, limits)
        self._shared = Room(
            limits.max_queue_sequences - kept.sequences, limits.max_queue_tokens - kept.tokens
        )

    def lack(
        self, sequences: int, tokens: int, caller: str, following: J | None, now: float
    ) -> str | None:
        """Why so many more of the caller's may not wait beside `following`, a stream's sequence
        whose turn it is; None if they may.

        Where there are several callers, one that has something waiting must leave what is kept for
        others, and half of that if it has no more than its part.
        """
        queue, kept = self._queue, self._kept
        in_all = Room(
            sequences + self._long_work.sequences + (following is not None),
            tokens + self._long_work.tokens + (0 if following is None else following.tokens),
        )
        if queue.fits(in_all.sequences + kept.sequences, in_all.tokens + kept.tokens):
            return None
        if not queue.fits(*in_all):
            return f"no room for {sequences} more with {tokens}"
        if not self._shares.are_wanted(now):
            return None
        held, long = queue.held(caller), self._long_work.held(caller)
        held = Room(held.sequences + long.sequences, held.tokens + long.tokens)
        if not held.sequences:
            return None
        has_room = queue.fits(
            in_all.sequences + kept.sequences // 2, in_all.tokens + kept.tokens // 2
        )
        if has_room and self._is_within_part(
            caller, Room(held.sequences + sequences, held.tokens + tokens)
        ):
            return None
        return (
            f"{held.sequences} with {held.tokens} of this caller, and the room for {sequences} "
            f"more with {tokens} is kept for others"
        )

    def _is_within_part(self, caller: str, wanted: Room) -> bool:
        """Whether that is no more than the caller's part of what is shared, less what those have
        beyond theirs who came before others did."""
        part, shared = self._shares.part(caller), self._shared
        excess = self._queue.excess(shared)
        return wanted.sequences <= part * (
            shared.sequences - excess.sequences
        ) and wanted.tokens <= part * (shared.tokens - excess.tokens)
