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

from collections.abc import Callable
from typing import TypeVar

from google.protobuf.message import DecodeError

from bilstm.sizes import MAX_CHUNKS, MAX_INPUTS, MAX_MESSAGE_INPUTS, MAX_NAME_BYTES
from bilstm.v1 import encoder_pb2 as pb

from ...errors import InvalidInput
from ...settings import RequestLimits
from ..definitions import Decode
from ..interceptors.decoding import PLAIN_BYTES, malformed
from .fields import BYTES, VARINT, FieldReader, int32, int64
from .messages import (
    EncodeRequest,
    EncodeStreamRequest,
    NamedInputs,
    NamedTensor,
    SequenceChunk,
    State,
    Tensor,
)

M = TypeVar("M")

_MODEL_BYTES = 1024  # of a model's name or version
_MAX_OUTPUTS = 65  # by name: as many as a model has, and its state
_SEQUENCE_FIELDS = 16  # more than a good sequence has with its initial state
_INPUT_FIELDS = 8  # more than a named input has
_OTHER_FIELDS = 64 + _MAX_OUTPUTS
_SEQUENCE_BYTES = 256  # more than it takes beside its numbers, with its initial state
_INPUT_BYTES = 160  # more than a named input takes beside its numbers


def encode_request_decoder(limits: RequestLimits) -> Decode:
    """Return a decoder of `EncodeRequest`s. It raises `InvalidInput` for bytes that are none, or
    that have more in them than a good one can need."""
    return lambda data: _Reader(data, limits.max_request_sequences).encode_request()


def decode_stream_request(data: bytes) -> EncodeStreamRequest:
    """Decode an `EncodeStreamRequest`. Raises `InvalidInput` for bytes that are none, or that have
    more in them than a good one can need."""
    return _Reader(data, MAX_CHUNKS).stream_request()


class _Reader(FieldReader):
    """Reads one message. Each method reads what lies between two places of its bytes."""

    __slots__ = ("_inputs", "_max_sequences", "_options_bytes", "_tensor_bytes", "_view")

    def __init__(self, data: bytes, max_sequences: int):
        super().__init__(data, _OTHER_FIELDS + _SEQUENCE_FIELDS * max_sequences)
        self._view = memoryview(data)
        self._max_sequences = max_sequences  # or chunks of some
        self._inputs = 0  # that have a name
        self._options_bytes = 0
        self._tensor_bytes = 0

    # -- messages ---------------------------------------------------------------------------------

    def encode_request(self) -> EncodeRequest:
        """Read all bytes as an `EncodeRequest`."""
        request = EncodeRequest()
        for number, kind, start, stop in self._fields(0, len(self._data)):
            if number == 3 and kind == BYTES:
                self._item("sequences", request.sequences, Tensor(), self._tensor, start, stop)
            elif number == 6 and kind == BYTES:
                self._item(
                    "initial_states", request.initial_states, State(), self._state, start, stop
                )
            elif number == 7 and kind == BYTES:
                named = request.named_sequences
                self._item("named_sequences", named, NamedInputs(), self._inputs_of, start, stop)
            elif number == 4:
                self._numbers("outputs", request.outputs, int32, kind, start, stop)
            elif number == 8 and kind == BYTES:
                self._output_name(request.output_names, start, stop)
            elif number == 5 and kind == VARINT:
                request.output_data_type = int32(start)
            elif number == 1 and kind == BYTES:
                request.model = self._name("model", start, stop, _MODEL_BYTES)
            elif number == 2 and kind == BYTES:
                request.version = self._name("version", start, stop, _MODEL_BYTES)
        self._check_rest()
        return request

    def stream_request(self) -> EncodeStreamRequest:
        """Read all bytes as an `EncodeStreamRequest`."""
        request = EncodeStreamRequest()
        for number, kind, start, stop in self._fields(0, len(self._data)):
            if number == 2 and kind == BYTES:
                self._item("chunks", request.chunks, SequenceChunk(), self._chunk, start, stop)
            elif number == 1 and kind == BYTES:
                request.options = request.options or pb.StreamOptions()
                self._merge_options(request.options, start, stop)
        self._check_rest()
        return request

    def _check_rest(self) -> None:
        """Check what the message has beside its tensors: all of it stays in memory as long as one
        of its tensors does."""
        allowed = PLAIN_BYTES + _SEQUENCE_BYTES * self._max_sequences + _INPUT_BYTES * self._inputs
        if len(self._data) - self._tensor_bytes > allowed:
            raise InvalidInput("", "has more beside its tensors than a good request can need")

    def _chunk(self, chunk: SequenceChunk, start: int, stop: int) -> None:
        for number, kind, a, b in self._fields(start, stop):
            if number == 1 and kind == VARINT:
                chunk.id = int64(a)
            elif number == 2 and kind == BYTES:
                chunk.steps = chunk.steps or Tensor()
                self._part("steps", chunk.steps, self._tensor, a, b)
            elif number == 3 and kind == VARINT:
                chunk.last = a != 0
            elif number == 4 and kind == BYTES:
                chunk.initial_state = chunk.initial_state or State()
                self._part("initial_state", chunk.initial_state, self._state, a, b)
            elif number == 5 and kind == BYTES:
                self._named_input(chunk.inputs, a, b)

    def _inputs_of(self, sequence: NamedInputs, start: int, stop: int) -> None:
        for number, kind, a, b in self._fields(start, stop):
            if number == 1 and kind == BYTES:
                self._named_input(sequence.inputs, a, b)

    def _named_input(self, inputs: list[NamedTensor], start: int, stop: int) -> None:
        """Read one more of a sequence's inputs. Each brings the fields that it may have."""
        self._inputs += 1
        if self._inputs > MAX_MESSAGE_INPUTS:
            raise InvalidInput("", f"must have at most {MAX_MESSAGE_INPUTS} inputs, got more")
        self._left += _INPUT_FIELDS
        self._item("inputs", inputs, NamedTensor(), self._named_tensor, start, stop, MAX_INPUTS)

    def _named_tensor(self, named: NamedTensor, start: int, stop: int) -> None:
        for number, kind, a, b in self._fields(start, stop):
            if number == 1 and kind == BYTES:
                named.name = self._name("name", a, b, MAX_NAME_BYTES)
            elif number == 2 and kind == BYTES:
                self._part("tensor", named.tensor, self._tensor, a, b)

    def _output_name(self, names: list[str], start: int, stop: int) -> None:
        if len(names) == _MAX_OUTPUTS:
            raise InvalidInput("output_names", f"must be at most {_MAX_OUTPUTS}, got more")
        names.append(self._name(f"output_names[{len(names)}]", start, stop, MAX_NAME_BYTES))

    def _state(self, state: State, start: int, stop: int) -> None:
        for number, kind, a, b in self._fields(start, stop):
            if number == 1 and kind == BYTES:
                self._part("hidden", state.hidden, self._tensor, a, b)
            elif number == 2 and kind == BYTES:
                self._part("cell", state.cell, self._tensor, a, b)

    def _tensor(self, tensor: Tensor, start: int, stop: int) -> None:
        for number, kind, a, b in self._fields(start, stop):
            if number == 3 and kind == BYTES:
                self._tensor_bytes += b - a - len(tensor.data)
                tensor.data = self._view[a:b]
            elif number == 2:
                self._numbers("shape", tensor.shape, int64, kind, a, b)
            elif number == 1 and kind == VARINT:
                tensor.data_type = int32(a)

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
        most: int | None = None,
    ) -> None:
        """Read one more of a repeated message: one of the sequences if `most` is not given."""
        most = self._max_sequences if most is None else most
        if len(items) >= most:
            raise InvalidInput(name, f"must be at most {most}, got more")
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


def _inside(name: str, error: InvalidInput) -> InvalidInput:
    """Return the same error with its field inside of a part that has this name. An error of the
    whole request stays as it is."""
    return InvalidInput(f"{name}.{error.field}", error.expected) if error.field else error
