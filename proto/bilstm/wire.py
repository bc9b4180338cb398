"""Messages written as bytes without being built first: large tensors are copied once.

Knows protobuf's encoding, and none of the messages.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TypeAlias

Part: TypeAlias = bytes | memoryview  # joined, parts are a message
_DELIMITED = 2  # the wire type of strings, bytes, messages and packed numbers


def varint(value: int) -> bytes:
    """Return a number that is not negative as protobuf writes it: seven bits a byte, the lowest
    first."""
    encoded = bytearray()
    while value > 0x7F:
        encoded.append(value & 0x7F | 0x80)
        value >>= 7
    encoded.append(value)
    return bytes(encoded)


def delimited(field: int, parts: Sequence[Part]) -> list[Part]:
    """Return a field of that number that holds a string, bytes, a message or packed numbers."""
    return [varint(field << 3 | _DELIMITED) + varint(sum(map(len, parts))), *parts]


def number(field: int, value: int) -> bytes:
    """Return a field of that number that holds an integer or an enum's value, not negative."""
    return varint(field << 3) + varint(value)
