"""What every protobuf message is made of: its fields, one after the other, counted as they are
read. Knows protobuf's encoding, and none of the messages.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator

from ...errors import InvalidInput
from ..interceptors.decoding import malformed

VARINT, FIXED64, BYTES, FIXED32 = 0, 1, 2, 5  # the types of fields
_MAX_NUMBER = 2**29 - 1  # of a field
_NUMBERS = 64  # more than a good shape or list of outputs has


class FieldReader:
    """Reads the fields of one message, and of those in it, but no more of them than are left."""

    __slots__ = ("_data", "_left")

    def __init__(self, data: bytes, fields: int):
        self._data = data
        self._left = fields

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
            if kind == BYTES:
                size, start = _varint(data, at, end)
                at = start + size
            elif kind == VARINT:
                start, at = _varint(data, at, end)
            elif kind in (FIXED32, FIXED64):
                start, at = at, at + (4 if kind == FIXED32 else 8)
            else:
                raise malformed()
            if at > end or not 0 < number <= _MAX_NUMBER:
                raise malformed()
            yield number, kind, start, at

    def _name(self, field: str, start: int, stop: int, max_bytes: int) -> str:
        if stop - start > max_bytes:
            raise InvalidInput(field, f"must be at most {max_bytes} bytes, got {stop - start}")
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
        if kind == VARINT:
            numbers.append(meaning(start))
        elif kind == BYTES:
            while start < stop and len(numbers) <= _NUMBERS:
                value, start = _varint(self._data, start, stop)
                numbers.append(meaning(value))
        if len(numbers) > _NUMBERS:
            raise InvalidInput(name, "has more in it than a good one can need")


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


def int64(value: int) -> int:
    """Return what a varint means as an int64: negative numbers take all 64 bits."""
    value &= 0xFFFF_FFFF_FFFF_FFFF
    return value - (1 << 64) if value >> 63 else value


def int32(value: int) -> int:
    """Return what a varint means as an int32 or an enum's value."""
    value &= 0xFFFF_FFFF
    return value - (1 << 32) if value >> 31 else value
