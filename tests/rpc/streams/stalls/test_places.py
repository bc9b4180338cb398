"""Places of streams: a new one has that of one that stands still, and one connection no more than
its own.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, suppress
from pathlib import Path

import grpc
import pytest

from bilstm.v1 import encoder_pb2_grpc
from bilstm_client import AsyncClient
from tests.rpc.streams.served import STEP_BYTES, Array, bounded, held, metric, sequence, target
from tests.rpc.streams.stalls.stalling import NEVER, SOON, calling, stalled
from tests.rpc.streams.talk import Talk, chunk
from tests.support.waiting import HANGS_AFTER_SECONDS, until


async def opened(talk: Talk) -> bool:
    """False: refused, which gRPC may tell of in words of its own where it comes amid a write."""
    with suppress(grpc.aio.AioRpcError):
        await talk.open()
        return True
    return False


@pytest.mark.parametrize("silent", [True, False])
async def test_places_of_those_that_stand_still(model_folder: Path, silent: bool) -> None:
    """Once they have for a while, a new stream has the place of one of them; not before."""
    limits = {"max_streams": 3, "stream_idle_seconds": 10 * SOON}
    async with bounded(model_folder, 2, **limits) as (app, _), AsyncExitStack() as stack:
        for _ in range(3):
            still = await stack.enter_async_context(calling(app))
            if not silent:
                await still.open()
        await until(lambda: metric(app, "bilstm_streams") == 3)
        async with calling(app) as early:
            assert (await early.refusal())[0] is grpc.StatusCode.RESOURCE_EXHAUSTED
        async with asyncio.timeout(HANGS_AFTER_SECONDS):
            while True:
                async with calling(app) as late:
                    if await opened(late):
                        await late.whole(0, sequence(0, 3))
                        await late.finish()
                        break
        assert late.order == [0]
        assert stalled(app, "opening" if silent else "quiet") == 1


async def test_streams_of_one_connection(model_folder: Path) -> None:
    """One more than it may have is refused, and others' are not; once one has ended there is
    room."""
    async with (
        bounded(model_folder, 2, max_connection_streams=2) as (app, _),
        grpc.aio.insecure_channel(
            target(app), options=[("grpc.use_local_subchannel_pool", 1)]
        ) as channel,
        calling(app) as other,
    ):
        stub = encoder_pb2_grpc.EncoderServiceStub(channel)
        first, silent = (Talk(stub.EncodeStream()) for _ in range(2))
        await first.open()
        await until(lambda: metric(app, "bilstm_streams") == 3)
        code, message, _ = await Talk(stub.EncodeStream()).refusal()
        assert code is grpc.StatusCode.RESOURCE_EXHAUSTED
        assert "2 streams of this connection" in message
        await other.open()
        await other.finish()
        await first.finish()
        await until(lambda: metric(app, "bilstm_streams") == 1)
        async with asyncio.timeout(HANGS_AFTER_SECONDS):
            while not await opened(Talk(stub.EncodeStream())):  # gRPC tells of an end a bit later
                pass
        silent.call.cancel()


async def test_a_deadline_that_passes_while_it_waits_for_room(model_folder: Path) -> None:
    """A stream whose deadline passes while it waits for room ends as DEADLINE_EXCEEDED."""
    async with (
        bounded(model_folder, 2, stream_idle_seconds=NEVER) as (app, _),
        calling(app) as first,
        calling(app) as second,
    ):
        for talk in (first, second):
            await talk.open()
            await talk.send(chunk(0, sequence(0, 200)))
        await until(lambda: held(app) == 400 * STEP_BYTES)
        async with calling(app, SOON) as third:
            await third.open()
            await third.whole(0, sequence(0, 10))
            assert (await third.refusal())[0] is grpc.StatusCode.DEADLINE_EXCEEDED
        await until(lambda: metric(app, "bilstm_streams") == 2)
        assert held(app) == 400 * STEP_BYTES
        await until(
            lambda: metric(app, "bilstm_dropped_total", model="small", reason="expired") == 1
        )


async def test_the_client_goes_on(model_folder: Path) -> None:
    """`encode_stream` opens its stream anew: a source that pauses for longer loses nothing."""
    async with (
        bounded(model_folder, 2, stream_idle_seconds=SOON) as (app, _),
        AsyncClient(target(app)) as client,
    ):

        async def source() -> AsyncIterator[Array]:
            yield sequence(0, 3)
            await until(lambda: stalled(app, "quiet") == 2)
            yield sequence(0, 4)

        encodings = [one async for one in client.encode_stream(source(), outputs=["final"])]
    assert len(encodings) == 2
