"""`InterceptorChain`: what every call passes on its way to its service and back.

The layers are put around each method once, so a call costs no more than the coroutines of those
that concern it; gRPC's own chain of interceptors would cost one more for each, at every call.

The order, from the outside in, and why it is this one:

1. `Outcomes` counts the call when it starts and when it has ended, and turns whatever error comes
   out of the rest into the status that the caller is sent. So every other layer may raise.
2. `CallsInFlight` counts unary calls, and refuses one too many before it costs anything more.
3. `Authentication` gives the call its caller and its priority, and refuses whom the server does
   not know. A stream has no place yet then, and a call that has just begun is sure to be there:
   one that has ended can't be asked for its peer.
4. `OpenStreams` runs a stream where its end can be commanded from outside, whatever it waits for.
5. `Traces` begins a span. What was refused before has none.
6. `Decoding` is the innermost: it asks the service whether it admits anybody at all, then reads
   the request, decodes it, and calls the service's method. Nothing is read before.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Iterable, Sequence
from typing import Any, TypeAlias

import grpc

from ..definitions import ServiceDefinition
from .decoding import Decoding
from .method import Layer, Method

Handler: TypeAlias = "grpc.RpcMethodHandler[Any, Any]"  # generic in its stub only


class InterceptorChain(grpc.aio.ServerInterceptor):
    """Wraps each method's handler once; unknown methods are left to gRPC.

    All requests are streams to gRPC, which otherwise would read a message to its end, however long
    that takes, before any layer is asked.
    """

    def __init__(
        self, services: Iterable[ServiceDefinition], layers: Sequence[Layer], decoding: Decoding
    ):
        """Take the layers, the outermost first. `decoding` is the innermost."""
        self._layers = tuple(layers)
        self._decoding = decoding
        self._tensor_methods = {
            f"/{service.name}/{name}": method
            for service in services
            for name, method in service.tensor_methods.items()
        }
        self._wrapped: dict[str, Handler] = {}

    async def intercept_service(
        self,
        continuation: Callable[[grpc.HandlerCallDetails], Awaitable[Handler | None]],
        handler_call_details: grpc.HandlerCallDetails,
    ) -> Handler | None:
        """Return the method's handler with all layers around it, or None if there is no such
        method."""
        path = handler_call_details.method
        if wrapped := self._wrapped.get(path):
            return wrapped
        handler = await continuation(handler_call_details)
        if handler is not None:
            self._wrapped[path] = self._wrap(path, handler)
        return self._wrapped.get(path)

    def _wrap(self, path: str, handler: Handler) -> Handler:
        service, name = path.removeprefix("/").split("/")
        method = Method(service, name, handler, self._tensor_methods.get(path))
        respond = self._decoding.respond(method)
        for layer in reversed(self._layers):
            respond = layer.around(method, respond)
        if method.is_stream:
            return grpc.stream_stream_rpc_method_handler(respond)
        return grpc.stream_unary_rpc_method_handler(respond)
