"""What streams hold whose clients stand still is the others' again, and nobody else is ended. A
tenth of `stream_idle_seconds` is what a client has where others wait.
"""

from __future__ import annotations

import asyncio
from pathlib import Path

import grpc
from structlog.testing import capture_logs

from tests.rpc.streams.served import STEP_BYTES, bounded, held, metric, sequence
from tests.rpc.streams.stalls.stalling import NEVER, SOON, calling, stalled
from tests.rpc.streams.talk import chunk
from tests.support.engines import held_server
from tests.support.servers import settings
from tests.support.waiting import HANGS_AFTER_SECONDS, until


async def test_short_sequences_pass_stalled_streams(model_folder: Path) -> None:
    """Two that are half-sent, one of them in the reserve, leave the others what is free."""
    async with (
        bounded(model_folder, 2, stream_idle_seconds=NEVER) as (app, _),
        calling(app) as first,
        calling(app) as second,
        calling(app) as third,
    ):
        for talk in (first, second):
            await talk.open()
            await talk.send(chunk(0, sequence(0, 190)))
        await until(lambda: held(app) == 380 * STEP_BYTES)
        await third.open()
        for index in range(100):
            await third.whole(index, sequence(0, 15))
        await third.finish()
        assert held(app) == 380 * STEP_BYTES
    assert third.order == list(range(100))


async def test_stalled_streams_that_hold_all(model_folder: Path) -> None:
    """Where they have left nothing, one is ended for those that wait; log and metrics tell."""
    with capture_logs() as logs:
        async with (
            bounded(model_folder, 2, stream_idle_seconds=10 * SOON) as (app, _),
            calling(app) as first,
            calling(app) as second,
            calling(app) as third,
        ):
            for talk in (first, second):
                await talk.open()
                await talk.send(chunk(0, sequence(0, 200)))
            await until(lambda: held(app) == 400 * STEP_BYTES)
            await third.open()
            await third.whole(0, sequence(0, 150))
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
    assert line["caller"] == "127.0.0.1"
    assert line["bytes"] == 200 * STEP_BYTES


async def test_replies_that_are_not_taken(model_folder: Path) -> None:
    """What the client does not take is dropped and counted, and its memory free; it is told once
    it reads on."""
    large = settings(model=[("small", model_folder)], stream_idle_seconds=SOON)
    async with held_server(large) as (app, slices), calling(app) as talk:
        slices.first.held = False
        await talk.open()
        for start in range(6):
            await talk.send(chunk(0, sequence(0, 10_000), last=start == 5))
        await until(lambda: stalled(app, "reading") == 1)
        await until(lambda: metric(app, "bilstm_streams") == 0)
        assert held(app) == 0
        assert metric(app, "bilstm_dropped_total", model="small", reason="stalled") == 1
        code, message, _ = await talk.refusal()
        assert code is grpc.StatusCode.UNAVAILABLE
        assert "no replies" in message


async def test_a_sequence_that_stands_still(model_folder: Path) -> None:
    """A sequence that stands still is answered by itself where its stream moves on; its memory is
    free."""
    async with (
        bounded(model_folder, 2, stream_idle_seconds=SOON) as (app, _),
        calling(app) as talk,
    ):
        await talk.open()
        await talk.send(chunk(0, sequence(0, 100)))
        index = 0
        async with asyncio.timeout(HANGS_AFTER_SECONDS):
            while 0 not in talk.answers:
                index += 1
                await talk.whole(index, sequence(0, 2))
                await talk.until_answered(index)
        error = talk.error(0)
        assert error.code == grpc.StatusCode.UNAVAILABLE.value[0]
        assert "no steps" in error.message
        await talk.whole(index + 1, sequence(0, 150))
        await talk.send(chunk(0, last=True))
        await talk.finish()
        assert metric(app, "bilstm_dropped_total", model="small", reason="stalled") == 1
        assert held(app) == 0
