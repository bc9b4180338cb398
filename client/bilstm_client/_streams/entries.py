"""`Entry`: one sequence of a stream, from when it is pulled until it is answered.

Knows what the source may give, and nothing of how it is sent.
"""

from __future__ import annotations

from collections.abc import AsyncIterator, Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any

from .._calls.arrays import is_tensor
from ..errors import SequenceFailure
from ..types import Array, Live
from .rows import Rows

# What can be iterated and is no iterable of chunks: an array to numpy, or nothing that it knows.
_NO_CHUNKS = (
    *(list, tuple, range, str, bytes, bytearray, memoryview),
    *(Mapping, set, frozenset),
)


@dataclass(slots=True, eq=False)
class Sent:
    """What one call has sent of a sequence. Each call has its own, so that one that is over, whose
    thread may still be somewhere in the caller's chunks, can't disturb the next."""

    steps: int = 0
    whole: bool = False
    # By input, the shapes of integers that were sent as floats.
    features: dict[str, list[int]] = field(default_factory=dict)
    counts: dict[str, int] = field(default_factory=dict)  # rows that have come, by output
    failure: SequenceFailure | None = None  # found by the client; counts before the server's


@dataclass(slots=True, eq=False)
class Entry:
    """One sequence of a stream, until it is answered."""

    index: int  # in the source; also its id in every call
    key: Any
    keyed: bool  # it came as a pair
    sequence: Any
    begun: bool = False  # some call has sent some of it
    sent: Sent = field(default_factory=Sent)  # by the present call
    received: int = 0  # steps whose rows have come
    counts: dict[str, int] = field(default_factory=dict)  # rows that have come, by output
    rows: dict[str, Rows] = field(default_factory=dict)  # where they come together
    no_rows: dict[str, Array] = field(default_factory=dict)  # for a last part that has none
    results: list[Any] = field(default_factory=list)  # that wait until those before are answered
    answered: bool = False

    @property
    def name(self) -> str:
        """What errors call the sequence."""
        return f"sequences[{self.index}]"

    @property
    def failure(self) -> SequenceFailure | None:
        """Why the client has given the sequence up. The caller gets it in the sequence's turn, once
        the server has answered."""
        return self.sent.failure

    @property
    def in_chunks(self) -> bool:
        """Whether the sequence is an iterable of chunks, and not an array, or a dict of some."""
        x = self.sequence
        if isinstance(x, _NO_CHUNKS) or hasattr(x, "__array__") or is_tensor(x):
            return False
        return hasattr(x, "__iter__") or hasattr(x, "__aiter__")

    def is_owed(self, live: Live | None) -> bool:
        """Whether the server has all it needs for results that it has not sent."""
        if self.answered or not live:
            return self.sent.whole and not self.answered
        unanswered = self.sent.steps - self.received
        return self.sent.whole or unanswered >= live.block_steps + live.lookahead_steps

    def restart(self) -> None:
        """Forget the rows that have come: they are to come again from the first step on."""
        self.discard()
        for by_output in (self.counts, self.rows, self.no_rows):
            by_output.clear()
        self.received = 0

    def discard(self) -> None:
        """Remove the rows that have come: they will not be needed."""
        for rows in self.rows.values():
            rows.discard()

    @property
    def is_spent(self) -> bool:
        """Whether the sequence can't be sent again, as it is an iterator that was read from."""
        return self.begun and self.in_chunks and isinstance(self.sequence, Iterator | AsyncIterator)


def check_is_no_chunk(entry: Entry) -> None:
    """Raises `TypeError` for an array without a key: it may be a chunk of a live input that was
    given in place of a sequence."""
    if not entry.keyed and not entry.in_chunks:
        raise TypeError(
            f"source[{entry.index}] is an array, and so a whole sequence. Give the chunks of a "
            "live input in brackets: encode_chunks([chunks], live=...); and arrays as a list, or "
            "as (key, array) pairs"
        )


def entry_of(index: int, item: Any) -> Entry:
    """The entry of what the source gave: a sequence, or a pair of its key and it. Raises
    `TypeError` for an array as a key: two sequences, or one before its label, were given as one."""
    if not isinstance(item, tuple) or len(item) != 2:
        return Entry(index, index, False, item)
    key, sequence = item
    if getattr(key, "ndim", 0):
        raise TypeError(
            f"source[{index}] is a tuple of two, and so a (key, sequence) pair, but its key is an "
            "array. Give sequences one by one, and a pair's key first: zip(labels, sequences)"
        )
    return Entry(index, key, True, sequence)


def check_is_no_list_of_arrays(x: Any, name: str) -> None:
    """Raises `TypeError` for a list of arrays [t, input_size]: it may be the chunks of one sequence
    as well as several sequences."""
    if isinstance(x, list | tuple) and x and getattr(x[0], "ndim", 0) == 2:
        raise TypeError(
            f"{name}: is a list of arrays of two dimensions. Give the chunks of one sequence as an "
            "iterator or generator: iter(chunks); and several sequences one by one"
        )
