"""`Sending`: what one call of a stream sends: sequences, cut and packed into requests as bytes. No
I/O. After a broken connection the next call has its own, which begins again.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from typing import Any

import numpy as np

from bilstm import tensors, wire
from bilstm.sizes import MAX_CHUNKS
from bilstm.v1 import encoder_pb2 as pb

from .._calls.arrays import are_features, as_sent, check_has_numbers, is_tensor, to_array
from ..errors import NotAnArray
from ..types import Array
from .entries import Entry, Sent, check_is_no_list_of_arrays
from .pages import Pages

CHUNK_BYTES = 256 * 1024  # of a request, about: one step may be more

_FIELDS = pb.SequenceChunk.DESCRIPTOR.fields_by_name
_ID, _STEPS, _LAST = (_FIELDS[name].number for name in ("id", "steps", "last"))
_CHUNKS = pb.EncodeStreamRequest.DESCRIPTOR.fields_by_name["chunks"].number


class Sending:
    """The requests of one call, after the opening one. Each sequence is whole before the next one
    begins. Once this is stopped it sends nothing, and leaves the entries to the next call.
    """

    def __init__(self) -> None:
        self.stopped = False  # whether the call is over
        self.written = 0  # requests that gRPC has taken
        self.is_writing = False  # whether gRPC has a request that it has not taken yet
        self._sent = Sent()
        self._parts: list[wire.Part] = []
        self._size = 0
        self._chunks = 0  # in the parts
        self._full: list[bytes] = []  # requests that have as many chunks as they may
        self._pages = Pages()

    def writes(self) -> None:
        """A request is given to gRPC."""
        self.is_writing = True

    def wrote(self) -> None:
        """gRPC has taken the request: flow control has let it pass."""
        self.is_writing = False
        self.written += 1

    def begin(self, entry: Entry) -> None:
        """The entry is the next to be sent. If it has failed already, that remains so."""
        entry.begun = True
        self._sent = entry.sent = Sent(failure=entry.failure)

    def array(self, entry: Entry) -> Iterator[bytes]:
        """Add all of an entry that is an array. Yields the requests that are full; the rest waits
        for more, or for `flush`."""
        yield from self._add(entry, entry.sequence, last=True)

    def chunk(self, entry: Entry, x: Any) -> Iterator[bytes]:
        """Add a chunk of an entry. All of it is yielded, as the next chunk may be long in coming.
        What is no array ends the sequence, which then has failed."""
        yield from self._add(entry, x, last=False)
        yield from self.flush()

    def _add(self, entry: Entry, x: Any, last: bool) -> Iterator[bytes]:
        pieces = _Pieces(entry, x)
        while not self.is_over(entry):
            try:
                array = pieces.next()
            except TypeError as error:
                self._sent.failure = NotAnArray(str(error), entry.index, entry.key)
                self._sent.failure.__cause__ = error.__cause__
                break
            if array is None:
                break
            if are_features(array):
                self._sent.features = list(np.shape(x))
                array = as_sent(array)
            self._pages.read(pieces.piece)
            self._sent.steps += len(array) if array.ndim else 0
            is_last = last and pieces.at_end
            if self._size and self._size + array.nbytes > CHUNK_BYTES:
                yield from self.flush()
            self._put(entry, array, is_last)
            if self._size >= CHUNK_BYTES:
                yield from self.flush()
            yield from self._taken()
        if self._sent.failure or entry.answered:
            self.end(entry)

    def is_over(self, entry: Entry) -> bool:
        """Whether no more steps of the entry are to be sent."""
        return self.stopped or entry.answered or self._sent.failure is not None

    def end(self, entry: Entry) -> None:
        """The entry has no more steps. The server has to know, as it keeps the entry's id until
        then, also where it has refused it. An entry that the client has given up before it had any
        steps is refused by the server: so its error, too, comes in its turn."""
        if not (self._sent.whole or self.stopped):
            self._put(entry, None, last=True)

    def refuse(self, entry: Entry, reason: str) -> None:
        """The entry is something that can't be sent, for this reason."""
        self._sent.failure = NotAnArray(f"{entry.name}: {reason}", entry.index, entry.key)
        self.end(entry)

    def flush(self) -> Iterator[bytes]:
        """All that waits, as requests in the order in which it was added."""
        yield from self._taken()
        if self._parts and not self.stopped:
            yield self._take()

    def _taken(self) -> Iterator[bytes]:
        while self._full and not self.stopped:
            yield self._full.pop(0)

    def _put(self, entry: Entry, array: Array | None, last: bool) -> None:
        parts: list[wire.Part] = [wire.number(_ID, entry.index)]
        if array is not None:
            parts += wire.delimited(_STEPS, tensors.encode_parts(array))
            self._size += array.nbytes
        if last:
            parts.append(wire.number(_LAST, 1))
            self._sent.whole = True
        self._parts += wire.delimited(_CHUNKS, parts)
        self._chunks += 1
        if self._chunks == MAX_CHUNKS:
            self._full.append(self._take())

    def _take(self) -> bytes:
        message = b"".join(self._parts)
        self._parts.clear()
        self._size = self._chunks = 0
        self._pages.release()
        return message


class _Pieces:
    """An array in pieces of about CHUNK_BYTES. However large it is, no more than one piece of it is
    converted at a time to what the wire can carry."""

    def __init__(self, entry: Entry, x: Any):
        self._entry = entry
        self._rest: Any = x
        self._start = 0
        self.at_end = False
        self.piece: Any = x

    def next(self) -> Array | None:
        """The next piece; None at the end. Raises `TypeError` for what is no array."""
        return None if self.at_end else to_array(self._cut(), self._entry.name)

    def _cut(self) -> Any:
        x = self._rest
        check_has_numbers(x, self._entry.name)
        check_is_no_list_of_arrays(x, self._entry.name)
        if not isinstance(x, np.ndarray) and not _can_be_cut(x):
            self._rest = x = to_array(x, self._entry.name)
        # As the wire may have it, whatever its type is: token ids take 8 bytes, other numbers 4.
        size = math.prod(x.shape) * (8 if x.ndim == 1 else 4)
        if x.ndim == 0 or size <= CHUNK_BYTES:
            self.at_end = True
            self.piece = x
            return x
        steps = max(1, CHUNK_BYTES * len(x) // size)
        self.piece = x[self._start : self._start + steps]
        self._start += steps
        self.at_end = self._start >= len(x)
        return self.piece


def _can_be_cut(x: Any) -> bool:
    """Whether `x` is a tensor with a shape, and not only something that has methods like one."""
    shape = getattr(x, "shape", None)
    return is_tensor(x) and isinstance(shape, tuple) and getattr(x, "ndim", None) == len(shape)


def opening(options: pb.StreamOptions) -> bytes:
    """A call's first request, as bytes."""
    return pb.EncodeStreamRequest(options=options).SerializeToString()
