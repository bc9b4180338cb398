"""Real messages and calls, damaged at random: by their bytes, and by what those mean. Pure: the
same random numbers make the same damage.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from random import Random
from typing import NamedTuple

from .traffic import RecordedCall

_VARINT, _FIXED64, _BYTES, _FIXED32 = 0, 1, 2, 5
_MOST_BYTES = 8 * 1024  # of what is inserted or repeated
_MOST_DEPTH = 4
# Where counts, shapes, types and ids have their edges; negative ones have ten bytes.
NUMBERS = (
    0,
    1,
    2,
    3,
    127,
    128,
    255,
    65_535,
    2**31 - 1,
    2**31,
    2**32 - 1,
    2**62,
    2**63 - 1,
    2**64 - 1,
)
# NaN, infinity, the least and the largest number, and nothing: floats of four bytes.
_FLOATS = tuple(
    bytes.fromhex(text) for text in ("0000c07f", "0000807f", "01000000", "ffff7f7f", "")
)


class Field(NamedTuple):
    """A field of a message: its number, its wire type, and its value: a number, or bytes."""

    number: int
    kind: int
    value: int | bytes


# -- bytes ----------------------------------------------------------------------------------------


def damaged_bytes(data: bytes, random: Random) -> bytes:
    """Flip, replace, insert, remove, repeat or cut off some of them."""
    at = random.randrange(len(data) + 1)
    size = min(len(data) - at, random.choice((1, 1, 2, 4, 16, 256)))
    before, there, after = data[:at], data[at : at + size], data[at + size :]
    match random.randrange(7):
        case 0:
            return before + bytes(byte ^ 1 << random.randrange(8) for byte in there) + after
        case 1:
            return before + random.randbytes(size) + after
        case 2:
            return before + random.randbytes(random.choice((1, 4, 64))) + there + after
        case 3:
            return before + after
        case 4:
            return (
                before
                + there * min(random.choice((2, 3, 100)), 1 + _MOST_BYTES // (size + 1))
                + after
            )
        case 5:
            return before
        case _:
            return before + random.choice(_FLOATS) + after[max(0, 4 - size) :]


# -- messages -------------------------------------------------------------------------------------


def fields_of(data: bytes) -> list[Field] | None:
    """The fields of a message, or None if these bytes are none."""
    fields, at = [], 0
    try:
        while at < len(data):
            tag, at = _number(data, at)
            kind = tag & 7
            if kind == _VARINT:
                number, at = _number(data, at)
                fields.append(Field(tag >> 3, kind, number))
                continue
            size = {_FIXED64: 8, _FIXED32: 4}.get(kind)
            if size is None:
                if kind != _BYTES:
                    return None
                size, at = _number(data, at)
            if at + size > len(data) or not tag >> 3:
                return None
            fields.append(Field(tag >> 3, kind, data[at : at + size]))
            at += size
    except IndexError:
        return None
    return fields


def message_of(fields: Sequence[Field]) -> bytes:
    """The message that has these fields, in their order."""
    return b"".join(map(_serialized, fields))


def damaged_message(data: bytes, random: Random, depth: int = 0) -> bytes:
    """Damage a field of it, or of a message in it; or, more so where it has none, its bytes."""
    fields = fields_of(data)
    if not fields or random.random() < 0.2:
        return damaged_bytes(data, random)
    at = random.randrange(len(fields))
    field = fields[at]
    if isinstance(field.value, bytes) and depth < _MOST_DEPTH and random.random() < 0.7:
        fields[at] = field._replace(value=damaged_message(field.value, random, depth + 1))
        return message_of(fields)
    match random.randrange(7):
        case 0:
            del fields[at]
        case 1:
            fields[at:at] = [field] * random.choice((1, 2, 30))
        case 2:
            fields[at] = field._replace(number=random.choice((1, 2, 3, 4, 5, 6, 7, 8, 15, 2_000)))
        case 3:
            other = random.randrange(len(fields))
            fields[at], fields[other] = fields[other], fields[at]
        case 4:
            fields[at] = Field(field.number, _VARINT, random.choice(NUMBERS))
        case 5:
            fields[at] = Field(field.number, _BYTES, random.randbytes(random.choice((0, 1, 3, 40))))
        case _:
            fields[at] = _other_value(field, random)
    return message_of(fields)


def _other_value(field: Field, random: Random) -> Field:
    if isinstance(field.value, int):
        return field._replace(value=(field.value + random.choice((-1, 1))) % 2**64)
    return field._replace(
        value=b"".join(_varint(random.choice(NUMBERS)) for _ in range(random.randrange(4)))
    )


def _number(data: bytes, at: int) -> tuple[int, int]:
    value = shift = 0
    while True:
        byte = data[at]
        at += 1
        value |= (byte & 127) << shift
        if byte < 128:
            return value % 2**64, at
        shift += 7
        if shift > 63:
            raise IndexError


def _varint(value: int) -> bytes:
    data = bytearray()
    while value > 127:
        data.append(value & 127 | 128)
        value >>= 7
    return bytes((*data, value))


def _serialized(field: Field) -> bytes:
    tag = _varint(field.number << 3 | field.kind)
    if isinstance(field.value, int):
        return tag + _varint(field.value)
    length = _varint(len(field.value)) if field.kind == _BYTES else b""
    return tag + length + field.value


# -- calls ----------------------------------------------------------------------------------------


def damaged_call(
    call: RecordedCall, others: Sequence[RecordedCall], random: Random
) -> RecordedCall:
    """Damage one of its messages, or which there are; it may be cancelled, and a message of another
    call may be among them. Of a call that has none an empty one is damaged."""
    messages = list(call.messages or (b"",))
    at = random.randrange(len(messages))
    if len(messages) == 1 or random.random() < 0.7:
        for _ in range(random.choice((1, 1, 1, 2, 4))):
            messages[at] = damaged_message(messages[at], random)
    else:
        match random.randrange(4):
            case 0:
                del messages[at]
            case 1:
                messages[at:at] = [messages[at]] * random.choice((1, 2, 20))
            case 2:
                random.shuffle(messages)
            case _:
                messages[at:at] = random.choice(others).messages
    cancelled = call.cancelled or random.random() < 0.05
    return replace(call, messages=tuple(messages), cancelled=cancelled)
