"""Bytes -> the messages that carry tensors. The tensors stay where they are, in those bytes.

Written by hand because protobuf's own decoder unfolds whatever it is given before anyone can judge
it, without letting the event loop go, and copies each tensor twice. Here every field is counted,
known or not, and the first one too many ends the reading: so the time that a message takes is
bounded by its limits, not by its size.

Follows protobuf: fields in any order, the last of a single one counts, messages are merged, unknown
fields and known ones of another type are passed over. Groups, which proto3 does not have, are
refused.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import TypeVar

from google.protobuf.message import DecodeError

from bilstm.sizes import MAX_CHUNKS
from bilstm.v1 import encoder_pb2 as pb

from ...errors import InvalidInput
from ...settings import RequestLimits
from ..definitions import Decode
from ..interceptors.decoding import PLAIN_BYTES, malformed
from .messages import EncodeRequest, EncodeStreamRequest, SequenceChunk, State, Tensor

M = TypeVar("M")

_VARINT, _FIXED64, _BYTES, _FIXED32 = 0, 1, 2, 5
_MAX_NUMBER = 2**29 - 1  # of a field
_NAME_BYTES = 1024  # of a model's name or version
_NUMBERS = 64  # more than a good shape or list of outputs has
_SEQUENCE_FIELDS = 16  # more than a good sequence has with its initial state
_OTHER_FIELDS = 64
_SEQUENCE_BYTES = 256  # more than it takes beside its numbers, with its initial state


def encode_request_decoder(limits: RequestLimits) -> Decode:
    """Return a decoder of `EncodeRequest`s. It raises `InvalidInput` for bytes that are none, or
    that have more in them than a good one can need."""
    return lambda data: _Reader(data, limits.max_request_sequences).encode_request()


def decode_stream_request(data: bytes) -> EncodeStreamRequest:
    """Decode an `EncodeStreamRequest`. Raises `InvalidInput` for bytes that are none, or that have
    more in them than a good one can need."""
    return _Reader(data, MAX_CHUNKS).stream_request()


class _Reader:
    """Reads one message. Each method reads what lies between two places of its bytes."""

    __slots__ = ("_data", "_left", "_max_sequences", "_options_bytes", "_tensor_bytes", "_view")

    def __init__(self, data: bytes, max_sequences: int):
        self._data = data
        self._view = memoryview(data)
        self._max_sequences = max_sequences  # or chunks of some
        self._options_bytes = 0
        self._tensor_bytes = 0
        self._left = _OTHER_FIELDS + _SEQUENCE_FIELDS * max_sequences  # fields

    # -- messages ---------------------------------------------------------------------------------

    def encode_request(self) -> EncodeRequest:
        """Read all bytes as an `EncodeRequest`."""
        request = EncodeRequest()
        for number, kind, start, stop in self._fields(0, len(self._data)):
            if number == 3 and kind == _BYTES:
                self._item("sequences", request.sequences, Tensor(), self._tensor, start, stop)
            elif number == 6 and kind == _BYTES:
                self._item(
                    "initial_states", request.initial_states, State(), self._state, start, stop
                )
            elif number == 4:
                self._numbers("outputs", request.outputs, _int32, kind, start, stop)
            elif number == 5 and kind == _VARINT:
                request.output_data_type = _int32(start)
            elif number == 1 and kind == _BYTES:
                request.model = self._name("model", start, stop)
            elif number == 2 and kind == _BYTES:
                request.version = self._name("version", start, stop)
        self._check_rest()
        return request

    def stream_request(self) -> EncodeStreamRequest:
        """Read all bytes as an `EncodeStreamRequest`."""
        request = EncodeStreamRequest()
        for number, kind, start, stop in self._fields(0, len(self._data)):
            if number == 2 and kind == _BYTES:
                self._item("chunks", request.chunks, SequenceChunk(), self._chunk, start, stop)
            elif number == 1 and kind == _BYTES:
                request.options = request.options or pb.StreamOptions()
                self._merge_options(request.options, start, stop)
        self._check_rest()
        return request

    def _check_rest(self) -> None:
        """Check what the message has beside its tensors: all of it stays in memory as long as one
        of its tensors does."""
        allowed = PLAIN_BYTES + _SEQUENCE_BYTES * self._max_sequences
        if len(self._data) - self._tensor_bytes > allowed:
            raise InvalidInput("", "has more beside its tensors than a good request can need")

    def _chunk(self, chunk: SequenceChunk, start: int, stop: int) -> None:
        for number, kind, a, b in self._fields(start, stop):
            if number == 1 and kind == _VARINT:
                chunk.id = _int64(a)
            elif number == 2 and kind == _BYTES:
                chunk.steps = chunk.steps or Tensor()
                self._part("steps", chunk.steps, self._tensor, a, b)
            elif number == 3 and kind == _VARINT:
                chunk.last = a != 0
            elif number == 4 and kind == _BYTES:
                chunk.initial_state = chunk.initial_state or State()
                self._part("initial_state", chunk.initial_state, self._state, a, b)

    def _state(self, state: State, start: int, stop: int) -> None:
        for number, kind, a, b in self._fields(start, stop):
            if number == 1 and kind == _BYTES:
                self._part("hidden", state.hidden, self._tensor, a, b)
            elif number == 2 and kind == _BYTES:
                self._part("cell", state.cell, self._tensor, a, b)

    def _tensor(self, tensor: Tensor, start: int, stop: int) -> None:
        for number, kind, a, b in self._fields(start, stop):
            if number == 3 and kind == _BYTES:
                self._tensor_bytes += b - a - len(tensor.data)
                tensor.data = self._view[a:b]
            elif number == 2:
                self._numbers("shape", tensor.shape, _int64, kind, a, b)
            elif number == 1 and kind == _VARINT:
                tensor.data_type = _int32(a)

    def _merge_options(self, options: pb.StreamOptions, start: int, stop: int) -> None:
        self._options_bytes += stop - start
        if self._options_bytes > PLAIN_BYTES:
            raise InvalidInput("options", f"must be at most {PLAIN_BYTES} bytes")
        try:
            options.MergeFromString(self._data[start:stop])
        except DecodeError as error:
            raise malformed() from error

    # -- parts of them ----------------------------------------------------------------------------

    def _item(
        self,
        name: str,
        items: list[M],
        item: M,
        read: Callable[[M, int, int], None],
        start: int,
        stop: int,
    ) -> None:
        """Read one more of a repeated message."""
        if len(items) >= self._max_sequences:
            raise InvalidInput(name, f"must be at most {self._max_sequences}, got more")
        items.append(item)
        try:
            read(item, start, stop)
        except InvalidInput as error:
            raise _inside(f"{name}[{len(items) - 1}]", error) from None

    def _part(
        self, name: str, part: M, read: Callable[[M, int, int], None], start: int, stop: int
    ) -> None:
        """Read a message, or more of one that was there before."""
        try:
            read(part, start, stop)
        except InvalidInput as error:
            raise _inside(name, error) from None

    def _name(self, name: str, start: int, stop: int) -> str:
        if stop - start > _NAME_BYTES:
            raise InvalidInput(name, f"must be at most {_NAME_BYTES} bytes, got {stop - start}")
        try:
            return self._data[start:stop].decode()
        except UnicodeDecodeError as error:
            raise malformed() from error

    def _numbers(
        self,
        name: str,
        numbers: list[int],
        meaning: Callable[[int], int],
        kind: int,
        start: int,
        stop: int,
    ) -> None:
        """Read more of a repeated integer: one, or several packed into bytes."""
        if kind == _VARINT:
            numbers.append(meaning(start))
        elif kind == _BYTES:
            while start < stop and len(numbers) <= _NUMBERS:
                value, start = _varint(self._data, start, stop)
                numbers.append(meaning(value))
        if len(numbers) > _NUMBERS:
            raise InvalidInput(name, "has more in it than a good one can need")

    def _fields(self, at: int, end: int) -> Iterator[tuple[int, int, int, int]]:
        """Give each field's number and type, and where its bytes begin and end. A varint's value
        stands in the place of its beginning."""
        data = self._data
        while at < end:
            self._left -= 1
            if self._left < 0:
                raise InvalidInput("", "the request has more fields than a good one can need")
            tag = data[at]
            at += 1
            if tag > 0x7F:  # rare: not worth a call each time
                tag, at = _varint(data, at - 1, min(at + 4, end))
            number, kind = tag >> 3, tag & 7
            if kind == _BYTES:
                size, start = _varint(data, at, end)
                at = start + size
            elif kind == _VARINT:
                start, at = _varint(data, at, end)
            elif kind in (_FIXED32, _FIXED64):
                start, at = at, at + (4 if kind == _FIXED32 else 8)
            else:
                raise malformed()
            if at > end or not 0 < number <= _MAX_NUMBER:
                raise malformed()
            yield number, kind, start, at


def _inside(name: str, error: InvalidInput) -> InvalidInput:
    """Return the same error with its field inside of a part that has this name. An error of the
    whole request stays as it is."""
    return InvalidInput(f"{name}.{error.field}", error.expected) if error.field else error


def _varint(data: bytes, at: int, end: int) -> tuple[int, int]:
    """Return the number that begins at `at`, and where it ends. Raises `InvalidInput`."""
    if at < end and data[at] < 0x80:
        return data[at], at + 1
    value = shift = 0
    for place in range(at, min(at + 10, end)):
        byte = data[place]
        value |= (byte & 0x7F) << shift
        if byte < 0x80:
            return value, place + 1
        shift += 7
    raise malformed()


def _int64(value: int) -> int:
    """Return what a varint means as an int64: negative numbers take all 64 bits."""
    value &= 0xFFFF_FFFF_FFFF_FFFF
    return value - (1 << 64) if value >> 63 else value


def _int32(value: int) -> int:
    """Return what a varint means as an int32 or an enum's value."""
    value &= 0xFFFF_FFFF
    return value - (1 << 32) if value >> 31 else value
