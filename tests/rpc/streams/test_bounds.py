"""What a stream may hold is bounded: it is read no further, its sequences are refused one by one,
and other streams go on.
"""

from __future__ import annotations

import asyncio
from contextlib import AsyncExitStack
from pathlib import Path
from typing import Any

import grpc
import numpy as np
from google.rpc import error_details_pb2
from grpc_status import rpc_status

from bilstm_client import AsyncClient
from tests.rpc.streams.served import STEP_BYTES, bounded, held, metric, of, sequence, target
from tests.rpc.streams.talk import chunk, talking, violated_field
from tests.support.waiting import until

# -- bounds --------------------------------------------------------------------------------------


async def test_a_client_that_does_not_read(model_folder: Path, judge: Any) -> None:
    """The server holds no more than it may, reads no further, and forgets nothing: once the client
    reads, all results come."""
    x = sequence(0, 100)
    count = 4_000  # 8 MB, of which gRPC's own buffers hold some
    async with bounded(model_folder) as (app, _), talking(target(app)) as talk:
        await talk.open()
        most = 0.0

        async def write() -> None:
            for index in range(count):
                await talk.call.write(of(chunk(index, x, last=True)))
            await talk.done()

        writing = asyncio.create_task(write())
        await until(lambda: held(app) == 200 * STEP_BYTES)
        for _ in range(2_000):
            await asyncio.sleep(0)
            most = max(most, held(app))
        assert not writing.done()
        assert most <= 200 * STEP_BYTES
        async with AsyncClient(target(app)) as client:  # which is served all the same
            np.testing.assert_array_equal((await client.encode(x)).states, judge(x))
        while await talk.receive():
            most = max(most, held(app))
        await writing
        assert most <= 200 * STEP_BYTES
        assert held(app) == 0
    assert talk.order == list(range(count))
    assert all(np.array_equal(talk.states(index), judge(x)) for index in range(0, count, 500))


async def test_too_much_half_sent(model_folder: Path) -> None:
    """A stream full of half-sent sequences refuses the next part, and finishes the others."""
    async with bounded(model_folder) as (app, _), talking(target(app)) as talk:
        await talk.open()
        await talk.send(chunk(0, sequence(0, 150)))
        await talk.send(chunk(1, sequence(0, 30)))
        await talk.send(chunk(2, sequence(0, 60)))
        await talk.until_answered(2)
        error = talk.error(2)
        assert error.code == grpc.StatusCode.RESOURCE_EXHAUSTED.value[0]
        assert "half sent" in error.message
        await talk.send(chunk(2, sequence(0, 60), last=True))
        await talk.send(chunk(0, sequence(0, 10), last=True), chunk(1, last=True))
        await talk.whole(3, sequence(0, 190))
        await talk.finish()
        assert held(app) == 0
    assert talk.order == [2, 0, 1, 3]


async def test_too_many_half_sent(model_folder: Path) -> None:
    """Half-sent sequences are bounded by number; each one that is answered makes room for
    another."""
    async with (
        bounded(model_folder, max_stream_sequences=3) as (app, _),
        talking(target(app)) as talk,
    ):
        await talk.open()
        for index in range(4):
            await talk.send(chunk(index, sequence(0, 1)))
        await talk.until_answered(3)
        assert talk.error(3).code == grpc.StatusCode.RESOURCE_EXHAUSTED.value[0]
        await talk.send(*(chunk(index, last=True) for index in range(4)))
        for index in range(4, 40):
            await talk.whole(index, sequence(0, 1))
        await talk.finish()
    assert sorted(talk.order) == list(range(40))


async def test_refused_sequences_that_go_on(model_folder: Path) -> None:
    """Refused sequences are remembered until their end; too many of them end the stream."""
    async with (
        bounded(model_folder, max_stream_sequences=3) as (app, _),
        talking(target(app)) as talk,
    ):
        await talk.open()
        for index in range(4):
            await talk.send(chunk(index, np.zeros((1, 1), "<f4")))
        code, _, call = await talk.refusal()
        assert code is grpc.StatusCode.INVALID_ARGUMENT
        assert await violated_field(call) == "chunks"


async def test_streams_that_wait_for_each_other(model_folder: Path, judge: Any) -> None:
    """Streams whose half-sent sequences fill all the memory there is still finish, one after the
    other."""
    count = 6
    async with bounded(model_folder, streams=2) as (app, _), AsyncExitStack() as stack:
        talks = [await stack.enter_async_context(talking(target(app))) for _ in range(count)]
        for talk in talks:
            await talk.open()
        for start in range(0, 190, 10):  # in all, three times what there is room for
            for talk in talks:
                await talk.send(chunk(0, sequence(0, 190)[start : start + 10], last=start == 180))
        await asyncio.gather(*(talk.finish() for talk in talks))
        assert held(app) == 0
    for talk in talks:
        np.testing.assert_array_equal(talk.states(0), judge(sequence(0, 190)))


async def test_a_stalled_stream_harms_no_other(model_folder: Path) -> None:
    """A stream that fills its own bound and reads nothing leaves the others theirs."""
    async with (
        bounded(model_folder, streams=3) as (app, _),
        talking(target(app)) as stalled,
        talking(target(app)) as other,
    ):
        await stalled.open()
        await stalled.send(chunk(0, sequence(0, 199)))
        await until(lambda: held(app) > 0)
        await other.open()
        for index in range(50):
            await other.whole(index, sequence(0, 150))
        await other.finish()
    assert other.order == list(range(50))


async def test_one_stream_more_than_there_may_be(model_folder: Path) -> None:
    """One stream too many is refused, and told when to come again; once one has ended there is
    room."""
    async with bounded(model_folder, max_streams=2) as (app, _), AsyncExitStack() as stack:
        talks = [await stack.enter_async_context(talking(target(app))) for _ in range(2)]
        for talk in talks:
            await talk.open()
        assert metric(app, "bilstm_streams") == 2
        async with talking(target(app)) as third:
            code, message, call = await third.refusal()
            assert code is grpc.StatusCode.RESOURCE_EXHAUSTED
            assert "2 streams" in message
            status = await rpc_status.aio.from_call(call)
        assert status is not None
        assert status.details[0].Is(error_details_pb2.RetryInfo.DESCRIPTOR)
        assert metric(app, "bilstm_dropped_total", model="", reason="overloaded") == 1
        await talks[0].finish()
        async with talking(target(app)) as another:
            await another.open()
            await another.whole(0, sequence(0, 1))
            await another.finish()
        assert another.order == [0]


# -- ends ----------------------------------------------------------------------------------------


async def test_errors_that_are_not_read(model_folder: Path) -> None:
    """A client that reads none of its refusals is read no further."""
    async with (
        bounded(model_folder, max_stream_sequences=10) as (app, _),
        talking(target(app)) as talk,
    ):
        await talk.open()
        bad = chunk(0, np.zeros((1, 1), "<f4"), last=True)

        async def write() -> None:
            for index in range(300_000):
                bad.id = index
                await talk.call.write(of(bad))

        writing = asyncio.create_task(write())
        refused = {"model": "small", "reason": "invalid"}
        count = -1.0
        while count != (count := metric(app, "bilstm_dropped_total", **refused)):
            for _ in range(2_000):
                await asyncio.sleep(0)
        assert not writing.done()
        writing.cancel()
        await asyncio.wait({writing})
