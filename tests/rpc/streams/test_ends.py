"""A stream that ends, because its client leaves or the server drains, leaves nothing held."""

from __future__ import annotations

import asyncio
import sys
from contextlib import suppress
from pathlib import Path
from typing import Any

import grpc
import numpy as np
import pytest

from bilstm.v1 import encoder_pb2_grpc
from tests.rpc.streams.served import LONG, OPEN, STEP_BYTES, held, metric, of, sequence, target
from tests.rpc.streams.talk import chunk, talking
from tests.support.engines import gated_server, held_server
from tests.support.servers import settings
from tests.support.waiting import until


@pytest.mark.parametrize("steps", [10, LONG])
async def test_a_client_that_leaves(model_folder: Path, steps: int) -> None:
    """What it has half sent, and what is being computed for it, is dropped and its memory free."""
    async with held_server(settings(model=[("small", model_folder)])) as (app, slices):
        slices.first.gate.clear()
        async with talking(target(app)) as talk:
            await talk.open()
            await talk.whole(0, sequence(0, steps))
            await talk.send(chunk(1, sequence(0, 10)))
            await until(lambda: held(app) == (steps + 10) * STEP_BYTES)
        await until(lambda: metric(app, "bilstm_streams") == 0)
        assert held(app) == 0
        slices.open()
        assert metric(app, "bilstm_dropped_total", model="small", reason="cancelled") == 2


async def test_nothing_stays_of_clients_that_leave(model_folder: Path) -> None:
    """At whatever moment a client leaves, or its deadline passes, nothing is held for it then."""
    rng = np.random.default_rng(0)
    async with gated_server(settings(model=[("small", model_folder)])) as (app, gated):
        gated.open()
        async with grpc.aio.insecure_channel(target(app)) as channel:
            stub = encoder_pb2_grpc.EncoderServiceStub(channel)

            async def leave(number: int) -> None:
                timeout = None if number % 3 else float(rng.uniform(0.001, 0.05))
                call = stub.EncodeStream(timeout=timeout)
                requests = [OPEN, *(of(chunk(i, sequence(i, 300), last=True)) for i in range(9))]
                requests += [of(chunk(10, sequence(0, 9))), OPEN][: number % 3]
                with suppress(Exception):  # of many kinds, where the call is over already
                    for request in requests[: rng.integers(1, len(requests) + 1)]:
                        await call.write(request)
                    replies = 1  # that come whatever else was sent
                    if number % 2:
                        await call.done_writing()
                        replies = 3
                    for _ in range(rng.integers(0, replies + 1)):
                        await call.read()
                call.cancel()

            for _ in range(20):
                await asyncio.gather(*(leave(number) for number in range(12)))
        await until(lambda: metric(app, "bilstm_streams") == 0)
        assert held(app) == 0
        assert metric(app, "bilstm_queue_sequences", model="small") == 0


async def test_drain_of_a_silent_call(model_folder: Path) -> None:
    """A call that has not even opened its stream does not hold up a drain."""
    async with (
        gated_server(settings(model=[("small", model_folder)])) as (app, _),
        talking(target(app)) as talk,
    ):
        await until(lambda: metric(app, "bilstm_streams") == 1)
        draining = asyncio.create_task(app.drain())
        assert (await talk.refusal())[0] is grpc.StatusCode.UNAVAILABLE
        assert await draining


async def test_a_drain_that_cuts_a_stream_off(model_folder: Path) -> None:
    """A drain that cuts a stream off says so, and nothing stays held."""
    brief = settings(model=[("small", model_folder)], drain_timeout_seconds=0.2)
    async with held_server(brief) as (app, slices), talking(target(app)) as talk:
        await talk.open()
        await talk.whole(0, sequence(0, LONG))
        await until(lambda: held(app) > 0)
        assert not await app.drain()
        await until(lambda: metric(app, "bilstm_streams") == 0)
        assert held(app) == 0
        slices.first.held = False


HALF_SENT = """
import sys
import numpy as np
from bilstm_client import Client

def chunks():
    yield np.zeros((10, 5))
    print("sent", flush=True)
    yield np.zeros((10, 5))
    sys.stdin.read()

with Client(sys.argv[1]) as client:
    list(client.encode_stream([chunks()]))
"""


async def test_a_client_that_is_killed(model_folder: Path) -> None:
    """A client that ends in the middle of a sequence without a word leaves nothing held."""
    async with gated_server(settings(model=[("small", model_folder)])) as (app, _):
        process = await asyncio.create_subprocess_exec(
            *(sys.executable, "-c", HALF_SENT, target(app)),
            stdin=asyncio.subprocess.PIPE,
            stdout=asyncio.subprocess.PIPE,
        )
        assert process.stdout is not None
        await process.stdout.readline()
        await until(lambda: held(app) == 20 * STEP_BYTES)
        process.kill()
        await until(lambda: metric(app, "bilstm_streams") == 0)
        assert held(app) == 0
        await process.wait()


async def test_drain(model_folder: Path, judge: Any) -> None:
    """What was complete when the drain began is answered; then the stream ends as UNAVAILABLE."""
    async with (
        gated_server(settings(model=[("small", model_folder)])) as (app, gated),
        talking(target(app)) as talk,
        talking(target(app)) as idle,
    ):
        await idle.open()
        await talk.open()
        await talk.whole(0, sequence(0, 10))
        await gated.engines["small"].arrival()
        await talk.whole(1, sequence(0, 3 * LONG))
        await talk.send(chunk(2, sequence(0, 10)))
        await until(lambda: held(app) == (3 * LONG + 20) * STEP_BYTES)
        draining = asyncio.create_task(app.drain())
        await until(lambda: metric(app, "bilstm_streams") == 1)  # the idle one has ended
        gated.open()
        await talk.until_answered(0, 1)
        code, _, _ = await talk.refusal()
        assert code is grpc.StatusCode.UNAVAILABLE
        assert (await idle.refusal())[0] is grpc.StatusCode.UNAVAILABLE
        assert await draining
    np.testing.assert_array_equal(talk.states(0), judge(sequence(0, 10)))
    np.testing.assert_array_equal(talk.states(1), judge(sequence(0, 3 * LONG)))
