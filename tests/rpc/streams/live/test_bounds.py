"""How many live sequences there may be, and what they may hold."""

from __future__ import annotations

import asyncio
from contextlib import AsyncExitStack
from pathlib import Path

import grpc

from bilstm.v1 import encoder_pb2 as pb
from tests.rpc.streams.live.sequences import CARRIED_BYTES, HIDDEN, WIDTH, sequence
from tests.rpc.streams.talk import Talk, chunk, talking
from tests.support.engines import gated_server
from tests.support.servers import settings
from tests.support.waiting import until


async def test_more_live_sequences_than_there_may_be(folder: Path) -> None:
    """One live sequence too many is refused; those that there are go on."""
    few = settings(model=[("one", folder)], max_stream_sequences=3)
    async with (
        gated_server(few) as (app, gated),
        talking(f"127.0.0.1:{app.port}") as talk,
    ):
        gated.open()
        await talk.open(live=pb.Live(block_steps=4, lookahead_steps=0))
        for index in range(4):
            await talk.send(chunk(index, sequence(0, 2)))
        await talk.until_answered(3)
        assert talk.error(3).code == grpc.StatusCode.RESOURCE_EXHAUSTED.value[0]
        assert talk.error(3).HasField("retry_delay")
        await talk.send(*(chunk(index, sequence(0, 2), last=True) for index in range(4)))
        await talk.finish()
    assert all(talk.states(index).shape == (4, 2 * HIDDEN) for index in range(3))


async def test_live_streams_that_fill_the_memory(folder: Path) -> None:
    """Live streams whose look-ahead takes all the memory there is go on, one after the other."""
    step_bytes = 4 * (WIDTH + 2 * HIDDEN)
    tight = settings(
        model=[("one", folder)],
        max_stream_bytes=100 * step_bytes,
        max_streams_bytes=200 * step_bytes,
    )
    async with gated_server(tight) as (app, gated), AsyncExitStack() as stack:
        gated.open()
        x = sequence(0, 200)

        async def one(talk: Talk) -> None:
            await talk.open(live=pb.Live(block_steps=3, lookahead_steps=70))
            for start in range(0, len(x), 10):
                await talk.send(chunk(0, x[start : start + 10], last=start + 10 == len(x)))
            await talk.finish()

        target = f"127.0.0.1:{app.port}"
        talks = [await stack.enter_async_context(talking(target)) for _ in range(3)]
        await asyncio.gather(*(one(talk) for talk in talks))
    assert all(talk.states(0).shape == (200, 2 * HIDDEN) for talk in talks)


async def test_a_live_stream_is_bounded(folder: Path) -> None:
    """Input that comes faster than it is computed waits at the client, and none of it is lost."""
    step_bytes = 4 * (WIDTH + 2 * HIDDEN)
    room = settings(model=[("one", folder)], max_stream_bytes=100 * step_bytes)
    # A block, its look-ahead, and two on their way.
    holds = (10 + 5 + 2 * 10) * step_bytes + CARRIED_BYTES
    async with gated_server(room) as (app, gated), talking(f"127.0.0.1:{app.port}") as talk:

        def held() -> float:
            return app.metrics.registry.get_sample_value("bilstm_stream_bytes") or 0.0

        await talk.open(live=pb.Live(block_steps=10, lookahead_steps=5))
        x = sequence(0, 20_000)

        async def send() -> None:
            for start in range(0, len(x), 10):
                await talk.send(chunk(0, x[start : start + 10], last=start + 10 == len(x)))
            await talk.done()

        sending = asyncio.create_task(send())
        await until(lambda: held() > 0)
        gated.open()
        while await talk.receive():
            assert held() in (holds, 0)
        await sending
        assert held() == 0
    assert talk.states(0).shape == (len(x), 2 * HIDDEN)
