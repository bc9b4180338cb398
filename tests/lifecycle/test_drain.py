"""A drain finishes what was accepted, and refuses what comes. The server is in the test's loop, and
its engine stands at a gate.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import grpc
import pytest

from bilstm.v1 import encoder_pb2 as pb
from bilstm.v1 import encoder_pb2_grpc
from bilstm_server.app import App
from bilstm_server.errors import DeviceLost
from tests.lifecycle.calls import Judge, ended, is_right, request, sequence
from tests.support.engines import gated_server
from tests.support.servers import settings
from tests.support.waiting import HANGS_AFTER_SECONDS, until


def started_calls(app: App) -> float:
    """How many Encode calls have been accepted (or refused) by the handler."""
    labels = {
        "grpc_type": "unary",
        "grpc_service": "bilstm.v1.EncoderService",
        "grpc_method": "Encode",
    }
    return app.metrics.registry.get_sample_value("grpc_server_started_total", labels) or 0.0


async def started(app: App, calls: int) -> None:
    """Wait until that many Encode calls have been accepted (or refused) by the handler."""
    await until(lambda: started_calls(app) == calls)


@asynccontextmanager
async def connected(app: App) -> AsyncIterator[Any]:
    async with grpc.aio.insecure_channel(f"127.0.0.1:{app.port}") as channel:
        yield encoder_pb2_grpc.EncoderServiceStub(channel)


async def test_drain_finishes_what_was_accepted(model_folder: Path, judge: Judge) -> None:
    """Everyone accepted before the drain gets their own right result, and everyone who comes
    during it is UNAVAILABLE."""
    limits = settings(model=[("small", model_folder)], max_batch_sequences=3)
    inputs = [sequence(seed, 5) for seed in range(20)]
    async with gated_server(limits) as (app, gated), connected(app) as stub:
        accepted = [asyncio.create_task(ended(stub.Encode(request(x)))) for x in inputs]
        await started(app, len(inputs))
        draining = asyncio.create_task(app.drain())
        await asyncio.sleep(0)
        late = await asyncio.gather(*(ended(stub.Encode(request(x))) for x in inputs))
        assert late == [grpc.StatusCode.UNAVAILABLE] * len(inputs)
        assert not draining.done()
        gated.open()
        async with asyncio.timeout(HANGS_AFTER_SECONDS):
            replies = await asyncio.gather(*accepted)
            assert await draining
    for reply, x in zip(replies, inputs, strict=True):
        assert isinstance(reply, pb.EncodeResponse)
        assert is_right(reply, x, judge)


@pytest.mark.parametrize("seed", range(5))
async def test_drain_among_arrivals(model_folder: Path, judge: Judge, seed: int) -> None:
    """However calls and a drain interleave, each call ends with its own right result or as
    UNAVAILABLE, and those that were there before the drain with their results."""
    inputs = [sequence(100 * seed + n, 1 + n % 7) for n in range(60)]
    async with App(settings(model=[("small", model_folder)])) as app:
        await app.load()
        channels = [grpc.aio.insecure_channel(f"127.0.0.1:{app.port}") for _ in range(3)]
        stubs: list[Any] = [encoder_pb2_grpc.EncoderServiceStub(c) for c in channels]
        await asyncio.gather(*(stub.Encode(request(inputs[0])) for stub in stubs))
        calls: list[asyncio.Task[pb.EncodeResponse | grpc.StatusCode]] = []
        for number, x in enumerate(inputs):
            calls.append(asyncio.create_task(ended(stubs[number % 3].Encode(request(x)))))
            if number == 5:
                await until(lambda: started_calls(app) > len(stubs))
            if number == 10 * (seed + 1):
                accepted = started_calls(app) - len(stubs)
                draining = asyncio.create_task(app.drain())
            if number % (seed + 2) == 0:
                await asyncio.sleep(0)
        async with asyncio.timeout(HANGS_AFTER_SECONDS):
            outcomes = await asyncio.gather(*calls)
            await draining
        for channel in channels:
            await channel.close()
    codes = [outcome for outcome in outcomes if isinstance(outcome, grpc.StatusCode)]
    assert set(codes) <= {grpc.StatusCode.UNAVAILABLE}
    assert len(outcomes) - len(codes) >= accepted
    for outcome, x in zip(outcomes, inputs, strict=True):
        assert isinstance(outcome, grpc.StatusCode) or is_right(outcome, x, judge)


async def test_drain_timeout(model_folder: Path) -> None:
    """What does not finish within the drain timeout is ended, and the drain is over."""
    limits = settings(
        model=[("small", model_folder)], max_batch_sequences=1, drain_timeout_seconds=0.05
    )
    async with gated_server(limits) as (app, gated), connected(app) as stub:
        calls = [asyncio.create_task(ended(stub.Encode(request(sequence(n, 3))))) for n in range(4)]
        await started(app, len(calls))
        await gated.engines["small"].arrival()
        async with asyncio.timeout(HANGS_AFTER_SECONDS):
            assert not await app.drain()  # while the gate is still closed
            codes = await asyncio.gather(*calls)
        assert set(codes) <= {grpc.StatusCode.UNAVAILABLE, grpc.StatusCode.CANCELLED}
    assert gated.engines["small"].batches == [[3]]  # nobody waited for the rest any more


async def test_a_device_that_is_lost_while_it_drains(model_folder: Path) -> None:
    """A drain whose engine fails is not over: it raises that, also where nobody waits any more for
    what was computed."""

    def lose(_: object) -> None:
        raise DeviceLost("the GPU is lost")

    limits = settings(model=[("small", model_folder)])
    async with gated_server(limits) as (app, gated), connected(app) as stub:
        gated.engines["small"].fault = lose
        call = stub.Encode(request(sequence(0, 3)))
        await gated.engines["small"].arrival()
        call.cancel()
        await until(lambda: app.models.idle)
        draining = asyncio.create_task(app.drain())
        gated.open()
        with pytest.raises(DeviceLost):
            await asyncio.wait_for(draining, HANGS_AFTER_SECONDS)


async def test_drain_of_an_idle_server_needs_no_time(model_folder: Path) -> None:
    """Where nothing was accepted, a drain timeout of zero cuts nothing off."""
    limits = settings(model=[("small", model_folder)], drain_timeout_seconds=0)
    async with App(limits) as app:
        await app.load()
        assert await app.drain()


async def test_drain_delay_goes_on_serving(model_folder: Path, judge: Judge) -> None:
    """Within the drain delay, requests are still served."""
    x = sequence(0, 5)
    limits = settings(model=[("small", model_folder)], drain_delay_seconds=3600)
    async with App(limits) as app:
        await app.load()
        draining = asyncio.create_task(app.drain())
        await asyncio.sleep(0)
        async with grpc.aio.insecure_channel(f"127.0.0.1:{app.port}") as channel:
            stub: Any = encoder_pb2_grpc.EncoderServiceStub(channel)
            assert is_right(await stub.Encode(request(x)), x, judge)
        assert not draining.done()
        draining.cancel()
