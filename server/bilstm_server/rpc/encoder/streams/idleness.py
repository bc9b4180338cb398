"""`Idleness`: whose turn it is in a stream, and for how long its client has not moved. Pure.

It is sampled: a watch says at each of its rounds how long ago the last one was. So a server that
stands still counts against nobody.
"""

from __future__ import annotations

from typing import Literal

# What a client does not do though it is its turn: send the first message, take replies, send the
# rest of a sequence that it has begun, or anything at all where nothing is in flight.
Stall = Literal["opening", "reading", "sending", "quiet"]


class Idleness:
    """Whose turn it is in one stream, and for how long its client has not moved."""

    def __init__(self) -> None:
        self.asking = False  # the server waits for the client's next message
        self.answering = False  # it waits until the client has taken a reply
        self.idle_seconds = 0.0  # in which it was the client's turn, since it moved last
        self.asked_seconds = 0.0  # in all, in which the server was asking
        self._moved = 0  # bytes, since `idle_seconds` was 0

    def move(self, size: int) -> None:
        """Note that so many bytes of steps came, or of replies went."""
        self._moved += size

    def turn(self, half_sent: int, complete: int) -> Stall | None:
        """Return what the client does not do now, if it is its turn. Of the sequences in flight,
        `half_sent` are not complete, and `complete` are."""
        if self.answering:
            return "reading"
        if not self.asking or complete:
            return None
        return "sending" if half_sent else "quiet"

    def pass_time(self, seconds: float, turn: Stall | None, least: int = 0) -> None:
        """Note that so many seconds have passed, in which it was `turn`. A client has moved if it
        moved more than `least` bytes."""
        if self._moved > least:
            self._moved = 0
            self.idle_seconds = 0.0
        elif turn is not None:
            self.idle_seconds += seconds
        if self.asking:
            self.asked_seconds += seconds
