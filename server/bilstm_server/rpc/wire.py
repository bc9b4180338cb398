"""Bytes -> message, refused while they are still bytes if they would unfold into too much.

An empty sub-message takes two bytes on the wire and dozens when decoded: within the limit of a
message's bytes, millions of them would stop the server for seconds and fill its memory.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from functools import cache
from typing import Any, TypeAlias

from google.protobuf.descriptor import Descriptor, FieldDescriptor
from google.protobuf.message import DecodeError

from bilstm.v1 import encoder_pb2 as pb

from ..errors import InvalidInput
from ..metrics import DropMetrics
from .requests import RequestLimits

Decode = Callable[[bytes], Any]
# What unfolds in a message, by field number: sub-messages, and packed numbers (None).
Schema: TypeAlias = "dict[int, Schema | None]"

_HARMLESS_BYTES = 512 * 1024  # whatever they are, decoding them takes some milliseconds
_ELEMENTS = 64  # more than a good tensor or state has: fields, and bytes of its shapes
_VARINT, _FIXED64, _BYTES, _FIXED32 = 0, 1, 2, 5


def checked(decode: Decode) -> Decode:
    """`decode`, raising `InvalidInput` for bytes that are no message of its type."""

    def call(data: bytes) -> Any:
        try:
            return decode(data)
        except DecodeError as error:
            raise InvalidInput("", "the request's bytes are no message of its type") from error

    return call


def request_decoder(
    message: type[pb.EncodeRequest | pb.EncodeStreamRequest],
    limits: RequestLimits,
    metrics: DropMetrics,
) -> Decode:
    """Decodes messages that can keep `limits`; `metrics` count what can't be read."""
    decode = checked(message.FromString)

    def call(data: bytes) -> Any:
        try:
            if len(data) > _HARMLESS_BYTES:
                check_unfolding(memoryview(data), message.DESCRIPTOR, limits.max_request_sequences)
            return decode(data)
        except InvalidInput:
            metrics.drop("invalid")
            raise

    return call


def check_unfolding(data: memoryview, message: Descriptor, max_sequences: int) -> None:
    """Raise `InvalidInput` if the bytes of `message` hold more than a good one can need."""
    schemas = schema_of(message)
    counts = dict.fromkeys(schemas, 0)
    for number, part in _fields(data):
        if number not in counts:
            continue  # unknown ones stay bytes
        counts[number] += 1
        schema, name = schemas[number], message.fields_by_number[number].name
        most = max_sequences if schema else _ELEMENTS
        if counts[number] > most:
            raise InvalidInput(name, f"must be at most {most}, got more")
        inside = 0 if part is None else count_elements(part, schema, _ELEMENTS)
        if inside > _ELEMENTS:
            field = f"{name}[{counts[number] - 1}]" if schema else name
            raise InvalidInput(field, "has more in it than a good one can need")


def count_elements(data: memoryview, schema: Schema | None, most: int) -> int:
    """Fields of a message at all depths, and bytes of packed numbers; beyond `most` it stops."""
    if schema is None:
        return len(data)
    count = 0
    for number, part in _fields(data):
        count += 1
        if part is not None and number in schema:
            count += count_elements(part, schema[number], most - count)
        if count > most:
            break
    return count


def _fields(data: memoryview) -> Iterator[tuple[int, memoryview | None]]:
    """Each field's number, and its bytes if it has a length. What is no message ends somewhere:
    that is for the decoder to say."""
    at = 0
    while at < len(data):
        tag, at = _varint(data, at)
        kind, part = tag & 7, None
        if kind == _VARINT:
            _, at = _varint(data, at)
        elif kind == _BYTES:
            size, at = _varint(data, at)
            part = data[at : at + size]
            at += size
        elif kind in (_FIXED32, _FIXED64):
            at += 4 if kind == _FIXED32 else 8
        yield tag >> 3, part


def _varint(data: memoryview, at: int) -> tuple[int, int]:
    """The number that begins at `at`, and where it ends; truncated, the data ends there."""
    value = shift = 0
    for end in range(at, min(at + 10, len(data))):
        byte = data[end]
        value |= (byte & 0x7F) << shift
        if byte < 0x80:
            return value, end + 1
        shift += 7
    return 0, len(data)


@cache
def schema_of(message: Descriptor) -> Schema:
    schema: Schema = {}
    for field in message.fields:
        if field.message_type is not None:
            schema[field.number] = schema_of(field.message_type)
        elif field.type not in (FieldDescriptor.TYPE_BYTES, FieldDescriptor.TYPE_STRING):
            schema[field.number] = None
    return schema
