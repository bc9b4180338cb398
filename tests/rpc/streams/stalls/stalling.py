"""Streams whose clients stand still, as a server counts them."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import grpc

from bilstm.v1 import encoder_pb2_grpc
from bilstm_server.app import App
from tests.rpc.streams.served import metric, target
from tests.rpc.streams.talk import Talk

SOON = 0.3  # seconds; a stream that stands still ends after them
NEVER = 3_600.0


def stalled(app: App, reason: str) -> float:
    return metric(app, "bilstm_streams_stalled_total", reason=reason)


@asynccontextmanager
async def calling(app: App, seconds: float | None = None) -> AsyncIterator[Talk]:
    """As `talking`, on a connection of its own, that takes no more than 64 KiB ahead."""
    options = [("grpc.use_local_subchannel_pool", 1), ("grpc.http2.bdp_probe", 0)]
    async with grpc.aio.insecure_channel(target(app), options=options) as channel:
        call = encoder_pb2_grpc.EncoderServiceStub(channel).EncodeStream(timeout=seconds)
        try:
            yield Talk(call)
        finally:
            call.cancel()
