"""`grpc.health.v1`: one status for the server as a whole and for its services.

Not the servicer that comes with grpcio-health-checking: there, when one watcher leaves, the others
hear of no change any more.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Collection
from contextlib import suppress

import grpc
from grpc_health.v1 import health_pb2, health_pb2_grpc

from ..summary import SERVING
from .context import Context

HEALTH = health_pb2.DESCRIPTOR.services_by_name["Health"].full_name
Status = health_pb2.HealthCheckResponse
_TELL_SECONDS = 1.0  # in which those that watch are told of a change, before anything follows it


class HealthService(health_pb2_grpc.HealthServicer):
    """Tells NOT_SERVING until its state is SERVING."""

    def __init__(self, services: Collection[str]):
        """Take the full names of the services; `""`, the server as a whole, is added."""
        self._services = frozenset(services) | {""}
        self.state = "loading"  # in a word
        self._changed = asyncio.Condition()
        self._watches: set[object] = set()
        self._untold: set[object] = set()  # watches that have yet to hear of the last change
        self._told = asyncio.Event()  # all of them were

    async def set_state(self, state: str) -> None:
        """Tell from now on whether the state, a word, is SERVING, to those that watch, too: they
        were told when it returns, but for those that do not take it at once."""
        async with self._changed:
            self.state = state
            self._untold |= self._watches
            self._changed.notify_all()
        with suppress(TimeoutError):
            async with asyncio.timeout(_TELL_SECONDS):
                while self._untold:
                    self._told.clear()
                    await self._told.wait()

    def _tell(self, watch: object) -> None:
        """Take into account that a watch was told, or has left."""
        self._untold.discard(watch)
        if not self._untold:
            self._told.set()

    @property
    def _serving(self) -> bool:
        return self.state == SERVING

    async def Check(self, request: health_pb2.HealthCheckRequest, context: Context) -> Status:
        """Tell the status of a service."""
        if request.service not in self._services:
            await context.abort(grpc.StatusCode.NOT_FOUND, "no such service here")
        return _status(self._serving)

    async def Watch(
        self, request: health_pb2.HealthCheckRequest, context: Context
    ) -> AsyncIterator[Status]:
        """Tell the status of a service now, and whenever it changes."""
        if request.service not in self._services:
            yield Status(status=Status.SERVICE_UNKNOWN)
            await asyncio.Event().wait()  # no service is ever added
        watch = object()
        self._watches.add(watch)
        try:
            while True:
                sent = self._serving
                yield _status(sent)
                async with self._changed:
                    while self._serving == sent:
                        self._tell(watch)
                        await self._changed.wait()
        finally:
            self._watches.discard(watch)
            self._tell(watch)


def _status(serving: bool) -> Status:
    return Status(status=Status.SERVING if serving else Status.NOT_SERVING)
