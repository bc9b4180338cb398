"""Which clients stand still and are ended, and which are only slow."""

from __future__ import annotations

import asyncio
from contextlib import AsyncExitStack, suppress
from pathlib import Path
from typing import Any

import grpc
import pytest

from bilstm.v1 import encoder_pb2 as pb
from bilstm_server.rpc.encoder.streams.idleness import Idleness
from tests.rpc.streams.served import STEP_BYTES, bounded, held, metric, sequence
from tests.rpc.streams.stalls.stalling import SOON, calling, stalled
from tests.rpc.streams.talk import Talk, chunk
from tests.support.engines import held_server
from tests.support.servers import settings
from tests.support.waiting import HANGS_AFTER_SECONDS, until

LIVE = pb.Live(block_steps=4)
STILL: dict[str, tuple[dict[str, Any], list[pb.SequenceChunk], str]] = {
    "nothing": ({}, [], "quiet"),
    "half a sequence": ({}, [chunk(0, sequence(0, 3))], "sending"),
    "half a live one": ({"live": LIVE}, [chunk(0, sequence(0, 10))], "sending"),
    "a result, then nothing": ({}, [chunk(0, sequence(0, 3), last=True)], "quiet"),
}


@pytest.mark.parametrize("name", STILL)
async def test_clients_that_stand_still(model_folder: Path, name: str) -> None:
    """Clients that stand still are ended, whatever they had sent."""
    options, sends, reason = STILL[name]
    async with (
        bounded(model_folder, 2, stream_idle_seconds=SOON) as (app, _),
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
    """A client that sends chunks of nothing for ever is ended as one that stands still."""
    async with (
        bounded(model_folder, 2, stream_idle_seconds=SOON) as (app, _),
        calling(app) as talk,
    ):
        await talk.open()

        with suppress(grpc.aio.AioRpcError, asyncio.InvalidStateError):  # once it has ended
            async with asyncio.timeout(HANGS_AFTER_SECONDS):
                while True:
                    await talk.send(chunk(0, sequence(0, 0)), chunk(1))
        assert stalled(app, "sending") == 1


async def test_a_stream_that_is_never_opened(model_folder: Path) -> None:
    """A call that never opens its stream is ended."""
    async with (
        bounded(model_folder, 2, stream_idle_seconds=SOON) as (app, _),
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
                await talk.whole(index, sequence(0, steps))

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
    idleness = Idleness()
    for _ in range(10):
        idleness.pass_time(1.0, "sending")
        idleness.move(1)
    assert idleness.idle_seconds == 0.0
    for _ in range(10):
        idleness.pass_time(1.0, "sending", least=100)
        idleness.move(10)
    assert idleness.idle_seconds == 10.0
    idleness.pass_time(1.0, "sending", least=100)
    assert idleness.idle_seconds == 0.0
    idleness.pass_time(1.0, None)
    assert idleness.idle_seconds == 0.0


def test_turns() -> None:
    """Who takes no replies is asked for nothing else; who is owed a result may wait for it."""
    idleness = Idleness()
    assert idleness.turn(half_sent=1, complete=0) is None
    idleness.asking = True
    assert idleness.turn(half_sent=0, complete=0) == "quiet"
    assert idleness.turn(half_sent=1, complete=0) == "sending"
    assert idleness.turn(half_sent=1, complete=1) is None
    idleness.answering = True
    assert idleness.turn(half_sent=1, complete=1) == "reading"
