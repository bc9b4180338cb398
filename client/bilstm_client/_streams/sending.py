"""`Sending`: what one call of a stream sends: sequences, cut and packed into requests as bytes. No
I/O. After a broken connection the next call has its own, which begins again.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from typing import Any

import numpy as np

from bilstm import wire
from bilstm.sizes import MAX_CHUNKS, MAX_INPUTS, MAX_MESSAGE_INPUTS
from bilstm.v1 import encoder_pb2 as pb

from .._calls.arrays import check_has_numbers, is_tensor, to_array
from .._calls.inputs import Inputs, parts_of
from ..errors import NotAnArray
from .entries import Entry, Sent, check_is_no_list_of_arrays
from .pages import Pages

CHUNK_BYTES = 256 * 1024  # of a request, about: one step may be more

_FIELDS = pb.SequenceChunk.DESCRIPTOR.fields_by_name
_ID, _STEPS, _LAST, _INPUTS = (_FIELDS[n].number for n in ("id", "steps", "last", "inputs"))
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
        self._inputs = 0  # by name, in the parts
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
        pieces: _Pieces | None = None
        while not self.is_over(entry):
            try:
                pieces = pieces or _Pieces(entry, x)
                inputs = pieces.next()
            except TypeError as error:
                self._sent.failure = NotAnArray(str(error), entry.index, entry.key)
                self._sent.failure.__cause__ = error.__cause__
                break
            if inputs is None:
                break
            self._sent.features |= {name: pieces.shape(name) for name in inputs.features}
            for piece in pieces.pieces.values():
                self._pages.read(piece)
            self._sent.steps += inputs.steps
            is_last = last and pieces.at_end
            if self._size and self._size + inputs.data_bytes > CHUNK_BYTES:
                yield from self.flush()
            self._put(entry, inputs, is_last)
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

    def _put(self, entry: Entry, inputs: Inputs | None, last: bool) -> None:
        parts: list[wire.Part] = [wire.number(_ID, entry.index)]
        if inputs is not None:
            parts += inputs.as_parts(_STEPS, _INPUTS)
            self._size += inputs.data_bytes
            self._inputs += len(inputs.arrays) if inputs.are_named else 0
        if last:
            parts.append(wire.number(_LAST, 1))
            self._sent.whole = True
        self._parts += wire.delimited(_CHUNKS, parts)
        self._chunks += 1
        if self._chunks == MAX_CHUNKS or self._inputs + MAX_INPUTS > MAX_MESSAGE_INPUTS:
            self._full.append(self._take())

    def _take(self) -> bytes:
        message = b"".join(self._parts)
        self._parts.clear()
        self._size = self._chunks = self._inputs = 0
        self._pages.release()
        return message


class _Pieces:
    """A sequence in pieces of about CHUNK_BYTES, the same steps of all its inputs. However large it
    is, no more than one piece of it is converted at a time to what the wire can carry."""

    def __init__(self, entry: Entry, x: Any):
        """Raises `TypeError` for what is no array, and no dict of some."""
        self._fields: dict[str, str] = {}  # what errors call each input
        self._whole: dict[str, Any] = {}
        for name, field, array in parts_of(x, entry.name):
            check_has_numbers(array, field)
            check_is_no_list_of_arrays(array, field)
            is_cut = isinstance(array, np.ndarray) or _can_be_cut(array)
            self._whole[name] = array if is_cut else to_array(array, field)
            self._fields[name] = field
        self._start = 0
        self.at_end = False
        self.pieces: dict[str, Any] = self._whole  # the last ones, as they were given

    def next(self) -> Inputs | None:
        """The next piece of each input; None at the end. Raises `TypeError` for what has no
        numbers."""
        if self.at_end:
            return None
        self.pieces = self._cut()
        return Inputs({n: to_array(x, self._fields[n]) for n, x in self.pieces.items()})

    def shape(self, name: str) -> list[int]:
        """The shape of an input as it was given."""
        return list(self._whole[name].shape)

    def _cut(self) -> dict[str, Any]:
        # As the wire may have it, whatever its type is: token ids take 8 bytes, other numbers 4.
        size = sum(math.prod(x.shape) * (8 if x.ndim == 1 else 4) for x in self._whole.values())
        if size <= CHUNK_BYTES or not all(x.ndim for x in self._whole.values()):
            self.at_end = True
            return self._whole
        length = max(map(len, self._whole.values()))
        steps = max(1, CHUNK_BYTES * length // size)
        start, self._start = self._start, self._start + steps
        self.at_end = self._start >= length
        return {name: x[start : self._start] for name, x in self._whole.items()}


def _can_be_cut(x: Any) -> bool:
    """Whether `x` is a tensor with a shape, and not only something that has methods like one."""
    shape = getattr(x, "shape", None)
    return is_tensor(x) and isinstance(shape, tuple) and getattr(x, "ndim", None) == len(shape)


def opening(options: pb.StreamOptions) -> bytes:
    """A call's first request, as bytes."""
    return pb.EncodeStreamRequest(options=options).SerializeToString()
