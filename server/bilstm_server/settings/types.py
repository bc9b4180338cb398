"""The types of settings: which values a setting may have, and how they are written."""

from __future__ import annotations

from typing import Annotated, Any
from urllib.parse import urlsplit

from pydantic import (
    AfterValidator,
    BeforeValidator,
    ByteSize,
    Field,
    PlainSerializer,
    TypeAdapter,
    ValidationError,
)
from pydantic_settings import NoDecode

from ..addresses import is_unix, parse_host
from ..quoting import quoted
from .named_callers import (
    CallerPriority,
    CallerShare,
    parse_caller_priorities,
    parse_caller_shares,
)
from .sources import ModelSource, parse_model_sources

_OTLP_PORT = 4317
_BYTE_SIZE = TypeAdapter(ByteSize)


def _metrics_host(value: str) -> str:
    host = parse_host(value) if value else value
    if is_unix(host):
        raise ValueError(f"must be an address, and no unix socket, got {quoted(value)}")
    return host


def _otlp_endpoint(value: str) -> str:
    """Complete `http://HOST` or `https://HOST` by the port; empty stays empty."""
    if not value:
        return value
    try:
        url = urlsplit(value)
        port = url.port or _OTLP_PORT
    except ValueError as error:
        raise ValueError("must be http://HOST:PORT or https://HOST:PORT") from error
    if "@" in value:  # not repeated: it may be a secret
        raise ValueError(
            "must have no user or password; OTEL_EXPORTER_OTLP_HEADERS has such things"
        )
    if url.scheme not in ("http", "https") or not url.hostname or url.path.strip("/") or url.query:
        raise ValueError(f"must be http://HOST:PORT or https://HOST:PORT, got {quoted(value)}")
    host = f"[{url.hostname}]" if ":" in url.hostname else url.hostname
    return f"{url.scheme}://{host}:{port}"


def _bytes(value: Any) -> Any:
    """A number of bytes, with a unit or without."""
    if not isinstance(value, str):
        return value
    try:
        return int(_BYTE_SIZE.validate_python(value.strip()))
    except (ValidationError, OverflowError) as error:
        raise ValueError(
            f"must be a number of bytes, such as 1048576, 64MiB or 4GB, got {quoted(value)}"
        ) from error


def _share_words(given: tuple[CallerShare, ...]) -> list[str]:
    """The shares as whoever set them has written them."""
    return [f"{share.name}={share.weight:g}" for share in given]


def _priority_words(given: tuple[CallerPriority, ...]) -> list[str]:
    """The priorities as whoever set them has written them."""
    return [f"{caller.name}={caller.priority.name.lower()}" for caller in given]


Host = Annotated[str, AfterValidator(parse_host)]
MetricsHost = Annotated[str, AfterValidator(_metrics_host)]
OtlpEndpoint = Annotated[str, AfterValidator(_otlp_endpoint)]
Port = Annotated[int, Field(ge=0, le=65535)]
Threads = Annotated[int, Field(ge=0, le=1024)]
Count = Annotated[int, Field(ge=1, le=2**31 - 1)]
CountOrAll = Annotated[int, Field(ge=0, le=2**31 - 1)]  # 0: all there are
WireBytes = Annotated[
    int, BeforeValidator(_bytes), Field(ge=1, le=2**31 - 1)
]  # gRPC counts a message in 32 bits
Bytes = Annotated[int, BeforeValidator(_bytes), Field(ge=1, le=2**63 - 1)]
BytesOrAll = Annotated[int, BeforeValidator(_bytes), Field(ge=0, le=2**63 - 1)]  # 0: all there is
Seconds = Annotated[float, Field(gt=0, allow_inf_nan=False)]
SecondsOrNone = Annotated[float, Field(ge=0, allow_inf_nan=False)]  # 0: no wait at all
SecondsOrEver = Annotated[float, Field(ge=0, allow_inf_nan=False)]  # 0: without an end
Ratio = Annotated[float, Field(ge=0, le=1)]
ModelSources = Annotated[tuple[ModelSource, ...], NoDecode, BeforeValidator(parse_model_sources)]
CallerShares = Annotated[
    tuple[CallerShare, ...],
    NoDecode,
    BeforeValidator(parse_caller_shares),
    PlainSerializer(_share_words, when_used="json"),
]
CallerPriorities = Annotated[
    tuple[CallerPriority, ...],
    NoDecode,
    BeforeValidator(parse_caller_priorities),
    PlainSerializer(_priority_words, when_used="json"),
]
