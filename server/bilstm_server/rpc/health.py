"""`grpc.health.v1`: one status for the server as a whole and for its services.

Not the servicer that comes with grpcio-health-checking: there, when one watcher leaves, the others
hear of no change any more.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Collection

import grpc
from grpc_health.v1 import health_pb2, health_pb2_grpc

from ..summary import SERVING
from .context import Context

Status = health_pb2.HealthCheckResponse


class HealthService(health_pb2_grpc.HealthServicer):
    """Tells NOT_SERVING until `set_serving`."""

    def __init__(self, services: Collection[str]):
        """Take the full names of the services; `""`, the server as a whole, is added."""
        self._services = frozenset(services) | {""}
        self.state = "loading"  # in a word
        self._changed = asyncio.Condition()

    async def set_serving(self, serving: bool) -> None:
        """Tell SERVING from now on, or NOT_SERVING, to those that watch, too."""
        async with self._changed:
            self.state = SERVING if serving else "draining"
            self._changed.notify_all()

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
        while True:
            sent = self._serving
            yield _status(sent)
            async with self._changed:
                while self._serving == sent:
                    await self._changed.wait()


def _status(serving: bool) -> Status:
    return Status(status=Status.SERVING if serving else Status.NOT_SERVING)
