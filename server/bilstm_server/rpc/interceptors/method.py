"""`Method` and `Layer`: a method as its layers see it, and what a layer is."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from typing import Any, Protocol, TypeAlias

from ..context import Context
from ..definitions import TensorMethod

# Answers one call. It is given gRPC's iterator over the call's messages, all of them bytes, and
# returns the reply's bytes; a stream writes its replies to the context, and returns None.
Respond: TypeAlias = "Callable[[Any, Context], Awaitable[bytes | None]]"

_KINDS = {
    (False, False): "unary",
    (True, False): "client_stream",
    (False, True): "server_stream",
    (True, True): "bidi_stream",
}


@dataclass(frozen=True, slots=True)
class Method:
    """One method of one service."""

    service: str  # its full name
    name: str
    handler: Any  # as the service has registered it
    tensor: TensorMethod | None  # None: its messages are plain ones, without tensors

    @property
    def full_name(self) -> str:
        """Its name as PACKAGE.SERVICE/METHOD."""
        return f"{self.service}/{self.name}"

    @property
    def kind(self) -> str:
        """What gRPC's metrics call it: `unary`, `client_stream`, `server_stream` or
        `bidi_stream`."""
        return _KINDS[self.handler.request_streaming, self.handler.response_streaming]

    @property
    def is_stream(self) -> bool:
        """Whether it has many replies."""
        return bool(self.handler.response_streaming)


class Layer(Protocol):
    """One thing that happens around every call of the methods that it concerns."""

    def around(self, method: Method, respond: Respond) -> Respond:
        """Put this layer around `respond`, once for each method. Returns `respond` itself if the
        method is none of its concern, so that the method's calls cost nothing here."""
        ...
