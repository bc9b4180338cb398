"""Bytes -> message, refused while they are still bytes if they would unfold into too much.

An empty sub-message takes two bytes on the wire and dozens when decoded: within the limit of a
message's bytes, millions of them would stop the server for seconds and fill its memory.
"""

from __future__ import annotations

from collections.abc import Callable
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

# Twice what a good sequence with its state has: 13 fields, and three shapes of some bytes.
_ELEMENTS_PER_SEQUENCE = 64
_OTHER_ELEMENTS = 64
_VARINT, _FIXED64, _BYTES, _FIXED32 = 0, 1, 2, 5


def checked(decode: Decode) -> Decode:
    """`decode`, raising `InvalidInput` for bytes that are no message of its type."""

    def call(data: bytes) -> Any:
        try:
            return decode(data)
        except DecodeError as error:
            raise InvalidInput("", "the request's bytes are no message of its type") from error

    return call


def encode_request_decoder(limits: RequestLimits, metrics: DropMetrics) -> Decode:
    """Decodes EncodeRequests that can keep `limits`; `metrics` count what can't be read."""
    most = _ELEMENTS_PER_SEQUENCE * limits.max_request_sequences + _OTHER_ELEMENTS
    schema = _schema(pb.EncodeRequest.DESCRIPTOR)
    decode = checked(pb.EncodeRequest.FromString)

    def call(data: bytes) -> pb.EncodeRequest:
        try:
            # An element takes a byte at the least: small messages need no count.
            if len(data) > most and count_elements(memoryview(data), schema, most) > most:
                raise InvalidInput("", "the request has more fields than its limits allow")
            request: pb.EncodeRequest = decode(data)
        except InvalidInput:
            metrics.drop("invalid")
            raise
        return request

    return call


def count_elements(data: memoryview, schema: Schema, most: int) -> int:
    """Fields at all depths, and bytes of packed numbers; beyond `most` it stops counting.

    It stops, too, where the bytes are no message: that is for the decoder to say.
    """
    count = at = 0
    while at < len(data) and count <= most:
        count += 1
        tag, at = _varint(data, at)
        kind = tag & 7
        if kind == _VARINT:
            _, at = _varint(data, at)
        elif kind == _BYTES:
            size, at = _varint(data, at)
            if (number := tag >> 3) in schema:
                inner = schema[number]
                part = data[at : at + size]
                count += len(part) if inner is None else count_elements(part, inner, most - count)
            at += size
        elif kind in (_FIXED32, _FIXED64):
            at += 4 if kind == _FIXED32 else 8
    return count


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


def _schema(message: Descriptor) -> Schema:
    schema: Schema = {}
    for field in message.fields:
        if field.message_type is not None:
            schema[field.number] = _schema(field.message_type)
        elif field.type not in (FieldDescriptor.TYPE_BYTES, FieldDescriptor.TYPE_STRING):
            schema[field.number] = None
    return schema
