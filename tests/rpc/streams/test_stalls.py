"""Streams whose clients stand still: what they hold is the others' again, and nobody else is ended.

A tenth of `stream_idle_seconds` is what a client has where others wait.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager, suppress
from pathlib import Path
from typing import Any

import grpc
import numpy as np
import pytest
from numpy.typing import NDArray
from structlog.testing import capture_logs

from bilstm.v1 import encoder_pb2 as pb
from bilstm.v1 import encoder_pb2_grpc
from bilstm_client import AsyncClient
from bilstm_server.app import App
from bilstm_server.rpc.encoder.streams.progress import Progress
from tests.rpc.streams.talk import Talk, chunk
from tests.support.engines import HANGS_AFTER_SECONDS, Gated, gated_server, held_server, until
from tests.support.servers import settings

Array = NDArray[Any]
STEP_BYTES = 4 * 2 * 12  # held of each step, as test_stream.py has it
SOON = 0.3  # seconds; a stream that stands still ends after them
NEVER = 3_600.0


def sequence(steps: int) -> Array:
    return np.random.default_rng(0).standard_normal((steps, 5)).astype("<f4")


def metric(app: App, name: str, **labels: str) -> float:
    return app.metrics.registry.get_sample_value(name, labels) or 0.0


def stalled(app: App, reason: str) -> float:
    return metric(app, "bilstm_streams_stalled_total", reason=reason)


def held(app: App) -> float:
    return metric(app, "bilstm_stream_bytes")


def target(app: App) -> str:
    return f"127.0.0.1:{app.port}"


@asynccontextmanager
async def bounded(folder: Path, **more: Any) -> AsyncIterator[tuple[App, Gated]]:
    """A server that lets a stream hold 200 steps, and all together 400."""
    size = 200 * STEP_BYTES
    room = settings(
        model=[("small", folder)], max_stream_bytes=size, max_streams_bytes=2 * size, **more
    )
    async with gated_server(room) as (app, gated):
        gated.open()
        yield app, gated


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


# -- memory -------------------------------------------------------------------------------------


async def test_short_sequences_pass_stalled_streams(model_folder: Path) -> None:
    """Two that are half-sent, one of them in the reserve, leave the others what is free."""
    async with (
        bounded(model_folder, stream_idle_seconds=NEVER) as (app, _),
        calling(app) as first,
        calling(app) as second,
        calling(app) as third,
    ):
        for talk in (first, second):
            await talk.open()
            await talk.send(chunk(0, sequence(190)))
        await until(lambda: held(app) == 380 * STEP_BYTES)
        await third.open()
        for index in range(100):
            await third.whole(index, sequence(15))
        await third.finish()
        assert held(app) == 380 * STEP_BYTES
    assert third.order == list(range(100))


async def test_stalled_streams_that_hold_all(model_folder: Path) -> None:
    """Where they have left nothing, one is ended for those that wait; log and metrics tell."""
    with capture_logs() as logs:
        async with (
            bounded(model_folder, stream_idle_seconds=10 * SOON) as (app, _),
            calling(app) as first,
            calling(app) as second,
            calling(app) as third,
        ):
            for talk in (first, second):
                await talk.open()
                await talk.send(chunk(0, sequence(200)))
            await until(lambda: held(app) == 400 * STEP_BYTES)
            await third.open()
            await third.whole(0, sequence(150))
            await third.until_answered(0)
            assert stalled(app, "sending") == 1
            assert metric(app, "bilstm_dropped_total", model="small", reason="stalled") == 1
            await until(lambda: metric(app, "bilstm_streams") == 2)
            await until(lambda: first.call.done() or second.call.done())
            ended = first if first.call.done() else second
            code, message, _ = await ended.refusal()
    assert code is grpc.StatusCode.UNAVAILABLE
    assert "no steps" in message
    (line,) = (one for one in logs if one["event"] == "stream ended")
    assert line["reason"] == "sending"
    assert line["peer"].startswith("ipv4:127.0.0.1:")
    assert line["bytes"] == 200 * STEP_BYTES


async def test_replies_that_are_not_taken(model_folder: Path) -> None:
    """What the client does not take is dropped and counted, and its memory free; it is told once
    it reads on."""
    large = settings(model=[("small", model_folder)], stream_idle_seconds=SOON)
    async with held_server(large) as (app, slices), calling(app) as talk:
        slices.first.held = False
        await talk.open()
        for start in range(6):
            await talk.send(chunk(0, sequence(10_000), last=start == 5))
        await until(lambda: stalled(app, "reading") == 1)
        await until(lambda: metric(app, "bilstm_streams") == 0)
        assert held(app) == 0
        assert metric(app, "bilstm_dropped_total", model="small", reason="stalled") == 1
        code, message, _ = await talk.refusal()
        assert code is grpc.StatusCode.UNAVAILABLE
        assert "no replies" in message


async def test_a_sequence_that_stands_still(model_folder: Path) -> None:
    """It is answered by itself where the stream moves on; what it held is free."""
    async with (
        bounded(model_folder, stream_idle_seconds=SOON) as (app, _),
        calling(app) as talk,
    ):
        await talk.open()
        await talk.send(chunk(0, sequence(100)))
        index = 0
        async with asyncio.timeout(HANGS_AFTER_SECONDS):
            while 0 not in talk.answers:
                index += 1
                await talk.whole(index, sequence(2))
                await talk.until_answered(index)
        error = talk.error(0)
        assert error.code == grpc.StatusCode.UNAVAILABLE.value[0]
        assert "no steps" in error.message
        await talk.whole(index + 1, sequence(150))
        await talk.send(chunk(0, last=True))
        await talk.finish()
        assert metric(app, "bilstm_dropped_total", model="small", reason="stalled") == 1
        assert held(app) == 0


# -- whose turn it is ---------------------------------------------------------------------------

LIVE = pb.Live(block_steps=4)
STILL: dict[str, tuple[dict[str, Any], list[pb.SequenceChunk], str]] = {
    "nothing": ({}, [], "quiet"),
    "half a sequence": ({}, [chunk(0, sequence(3))], "sending"),
    "half a live one": ({"live": LIVE}, [chunk(0, sequence(10))], "sending"),
    "a result, then nothing": ({}, [chunk(0, sequence(3), last=True)], "quiet"),
}


@pytest.mark.parametrize("name", STILL)
async def test_clients_that_stand_still(model_folder: Path, name: str) -> None:
    """They are ended, whatever they had sent."""
    options, sends, reason = STILL[name]
    async with (
        bounded(model_folder, stream_idle_seconds=SOON) as (app, _),
        calling(app) as talk,
    ):
        await talk.open(**options)
        for one in sends:
            await talk.send(one)
        assert (await talk.refusal())[0] is grpc.StatusCode.UNAVAILABLE
        assert stalled(app, reason) == 1
        await until(lambda: metric(app, "bilstm_streams") == 0)
        assert held(app) == 0


async def test_chunks_of_nothing_are_no_progress(model_folder: Path) -> None:
    async with (
        bounded(model_folder, stream_idle_seconds=SOON) as (app, _),
        calling(app) as talk,
    ):
        await talk.open()

        with suppress(grpc.aio.AioRpcError, asyncio.InvalidStateError):  # once it has ended
            async with asyncio.timeout(HANGS_AFTER_SECONDS):
                while True:
                    await talk.send(chunk(0, sequence(0)), chunk(1))
        assert stalled(app, "sending") == 1


async def test_a_stream_that_is_never_opened(model_folder: Path) -> None:
    async with (
        bounded(model_folder, stream_idle_seconds=SOON) as (app, _),
        calling(app) as talk,
    ):
        await until(lambda: metric(app, "bilstm_streams") == 1)
        assert (await talk.refusal())[0] is grpc.StatusCode.DEADLINE_EXCEEDED
        assert stalled(app, "opening") == 1


@pytest.mark.parametrize("steps", [10, 5_000])
async def test_a_slow_server_ends_nobody(model_folder: Path, steps: int) -> None:
    """Whoever waits for a result, for room, or for its turn in a batch waits as long as it takes:
    those that wait for memory behind it, too."""
    size = 10_000 * STEP_BYTES
    slow = settings(
        model=[("small", model_folder)],
        stream_idle_seconds=10 * SOON,
        max_stream_bytes=size,
        max_streams_bytes=size,
        max_batch_sequences=1,
    )
    async with held_server(slow) as (app, slices), AsyncExitStack() as stack:
        slices.first.gate.clear()
        talks = [await stack.enter_async_context(calling(app)) for _ in range(3)]

        async def send(talk: Talk) -> None:  # as far as flow control lets it
            for index in range(4):
                await talk.whole(index, sequence(steps))

        async def finish(talk: Talk, sent: asyncio.Task[None]) -> None:
            sent.add_done_callback(lambda _: asyncio.ensure_future(talk.done()))
            while await talk.receive():
                pass

        for talk in talks:
            await talk.open()
        sending = [asyncio.create_task(send(talk)) for talk in talks]
        async with calling(app) as quiet:  # whose time is ten times theirs, and passes
            await quiet.open()
            assert (await quiet.refusal())[0] is grpc.StatusCode.UNAVAILABLE
        slices.first.held = False
        slices.open()
        await asyncio.gather(*map(finish, talks, sending))
        for reason in ("reading", "sending"):
            assert stalled(app, reason) == 0
    assert [talk.order for talk in talks] == [[0, 1, 2, 3]] * 3


def test_a_slow_client() -> None:
    """Whatever it moves is progress, unless others wait for what it holds: then it must move more
    than so many bytes. Where it is not its turn, no time passes."""
    progress = Progress()
    for _ in range(10):
        progress.pass_time(1.0, "sending")
        progress.move(1)
    assert progress.idle_seconds == 0.0
    for _ in range(10):
        progress.pass_time(1.0, "sending", least=100)
        progress.move(10)
    assert progress.idle_seconds == 10.0
    progress.pass_time(1.0, "sending", least=100)
    assert progress.idle_seconds == 0.0
    progress.pass_time(1.0, None)
    assert progress.idle_seconds == 0.0


def test_turns() -> None:
    """Who takes no replies is asked for nothing else; who is owed a result may wait for it."""
    progress = Progress()
    assert progress.turn(half_sent=1, complete=0) is None
    progress.asking = True
    assert progress.turn(half_sent=0, complete=0) == "quiet"
    assert progress.turn(half_sent=1, complete=0) == "sending"
    assert progress.turn(half_sent=1, complete=1) is None
    progress.answering = True
    assert progress.turn(half_sent=1, complete=1) == "reading"


# -- places -------------------------------------------------------------------------------------


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
    async with bounded(model_folder, **limits) as (app, _), AsyncExitStack() as stack:
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
                        await late.whole(0, sequence(3))
                        await late.finish()
                        break
        assert late.order == [0]
        assert stalled(app, "opening" if silent else "quiet") == 1


async def test_streams_of_one_connection(model_folder: Path) -> None:
    """One more than it may have is refused, and others' are not; once one has ended there is
    room."""
    async with (
        bounded(model_folder, max_connection_streams=2) as (app, _),
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
    async with (
        bounded(model_folder, stream_idle_seconds=NEVER) as (app, _),
        calling(app) as first,
        calling(app) as second,
    ):
        for talk in (first, second):
            await talk.open()
            await talk.send(chunk(0, sequence(200)))
        await until(lambda: held(app) == 400 * STEP_BYTES)
        async with calling(app, SOON) as third:
            await third.open()
            await third.whole(0, sequence(10))
            assert (await third.refusal())[0] is grpc.StatusCode.DEADLINE_EXCEEDED
        await until(lambda: metric(app, "bilstm_streams") == 2)
        assert held(app) == 400 * STEP_BYTES
        await until(
            lambda: metric(app, "bilstm_dropped_total", model="small", reason="expired") == 1
        )


async def test_the_client_goes_on(model_folder: Path) -> None:
    """`encode_stream` opens its stream anew: a source that pauses for longer loses nothing."""
    async with (
        bounded(model_folder, stream_idle_seconds=SOON) as (app, _),
        AsyncClient(target(app)) as client,
    ):

        async def source() -> AsyncIterator[Array]:
            yield sequence(3)
            await until(lambda: stalled(app, "quiet") == 2)
            yield sequence(4)

        encodings = [one async for one in client.encode_stream(source(), outputs=["final"])]
    assert len(encodings) == 2
