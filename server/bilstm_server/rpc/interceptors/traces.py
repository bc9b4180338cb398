"""`Traces`: a span for each call of a unary tensor method. It is there only where traces are on."""

from __future__ import annotations

from typing import TYPE_CHECKING

from ..context import Context
from .method import Method, Respond
from .outcomes import current_call

if TYPE_CHECKING:
    from ...tracing import Tracer


class Traces:
    """The layer that begins a call's span; `Outcomes` ends it."""

    def __init__(self, tracer: Tracer):
        self._tracer = tracer

    def around(self, method: Method, respond: Respond) -> Respond:
        """Trace the method's calls, each in its caller's own trace if it has one."""
        if method.tensor is None or method.is_stream:
            return respond

        async def traced(requests: object, context: Context) -> bytes | None:
            call = current_call.get()
            metadata = dict(context.invocation_metadata() or ())
            call.trace = self._tracer.request(method.full_name, metadata, call.started_at)
            return await respond(requests, context)

        return traced
