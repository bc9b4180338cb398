"""The headers that a caller adds to its calls, checked before gRPC sees them: it would print what
is wrong, drop some of it, and refuse the rest in words that name nothing.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from typing import Any

from ..types import Metadata

Header = tuple[str, str | bytes]
Headers = tuple[Header, ...]

AUTHORIZATION = "authorization"

_NAME = re.compile(r"[0-9a-z_.-]+")
_TEXT = re.compile(r"[ -~]*")
_SET_BY_GRPC = {"te", "content-type", "content-length", "user-agent"}


def headers_of(metadata: Metadata | None) -> Headers:
    """The metadata as gRPC takes it. Raises `TypeError` or `ValueError` for what it would not."""
    if metadata is None:
        return ()
    if isinstance(metadata, str | bytes) or not isinstance(metadata, Iterable):
        raise TypeError(f"metadata must be a mapping or pairs, got {type(metadata).__name__}")
    items: Iterable[Any] = metadata.items() if isinstance(metadata, Mapping) else metadata
    return tuple(_header(item) for item in items)


def joined(standing: Headers, added: Headers) -> Headers:
    """Both, where a name that is added takes the place of one that stands."""
    names = {name for name, _ in added}
    return (*(header for header in standing if header[0] not in names), *added)


def has(headers: Headers, name: str) -> bool:
    """Whether one of the headers has this name."""
    return bool(headers) and any(own == name for own, _ in headers)


def _header(item: Any) -> Header:
    # A value may be a secret: only types and lengths are shown.
    kind = type(item).__name__
    if not isinstance(item, tuple | list):
        raise TypeError(f"metadata must be pairs of a name and a value, got {kind}")
    if len(item) != 2:
        raise TypeError(f"metadata must be pairs of a name and a value, got {kind} of {len(item)}")
    name, value = item
    if not isinstance(name, str):
        raise TypeError(f"metadata names must be str, got {type(name).__name__}")
    if name != name.lower():
        raise ValueError(f"metadata {name!r}: names must be lower-case: {name.lower()!r}")
    if not _NAME.fullmatch(name):
        raise ValueError(f"metadata {name!r}: names are made of 0-9, a-z, '-', '_' and '.'")
    if name.startswith("grpc-") or name in _SET_BY_GRPC:
        raise ValueError(f"metadata {name!r}: gRPC keeps this name to itself")
    if name.endswith("-bin"):
        if not isinstance(value, bytes):
            raise TypeError(f"metadata {name!r}: must be bytes, as the name ends with '-bin'")
    elif not isinstance(value, str):
        kind = type(value).__name__
        raise TypeError(f"metadata {name!r}: must be a str, got {kind} (bytes need NAME-bin)")
    elif not _TEXT.fullmatch(value):
        raise ValueError(f"metadata {name!r}: must be printable ASCII (other values need NAME-bin)")
    return name, value
