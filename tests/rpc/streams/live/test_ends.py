"""How live sequences end: with an error, late, or in a drain."""

from __future__ import annotations

import asyncio
from pathlib import Path

import grpc
import numpy as np
import pytest

from bilstm.v1 import encoder_pb2 as pb
from bilstm_server.callers import Priority
from bilstm_server.engine.staging import StagedBatch
from tests.rpc.streams.live.sequences import CARRIED_BYTES, HIDDEN, WIDTH, sequence
from tests.rpc.streams.talk import chunk, talking
from tests.support.engines import gated_server
from tests.support.servers import RunningServer, settings
from tests.support.waiting import until


async def test_a_bad_chunk_ends_a_live_sequence(live_server: RunningServer) -> None:
    """What was due before a bad chunk is answered, then the error; other sequences go on."""
    async with talking(live_server.target) as talk:
        await talk.open(live=pb.Live(block_steps=4, lookahead_steps=0))
        await talk.send(chunk(0, sequence(0, 5)), chunk(1, sequence(0, 4)))
        await talk.send(chunk(0, np.zeros((2, 3), "<f4")), chunk(0, sequence(0, 9), last=True))
        await talk.send(chunk(1, last=True))
        await talk.finish()
    assert [a.first_step for a in talk.answers[0][:-1]] == [0]
    assert talk.error(0).field == "steps.shape"
    assert talk.order == [0, 1]
    assert talk.answers[0][0].last is False


async def test_an_end_that_comes_late(live_server: RunningServer) -> None:
    """A sequence that ends where all of it was answered is closed by a chunk of no steps."""
    async with talking(live_server.target) as talk:
        await talk.open(live=pb.Live(block_steps=4, lookahead_steps=0))
        await talk.send(chunk(0, sequence(0, 8)))
        while len(talk.answers.get(0, ())) < 2:
            await talk.receive()
        assert talk.order == []
        await talk.send(chunk(0, last=True))
        await talk.finish()
    closing = talk.answers[0].pop()
    assert (closing.last, closing.first_step) == (True, 8)
    assert not closing.encoding.HasField("states")
    assert talk.states(0).shape == (8, 2 * HIDDEN)


@pytest.mark.parametrize("leaves", [False, True])
async def test_drain(folder: Path, leaves: bool) -> None:
    """A live sequence that has ended is answered to its end; one that goes on is dropped."""
    async with (
        gated_server(settings(model=[("one", folder)])) as (app, gated),
        talking(f"127.0.0.1:{app.port}") as talk,
    ):

        def held() -> float:
            return app.metrics.registry.get_sample_value("bilstm_stream_bytes") or 0.0

        step_bytes = 4 * (WIDTH + 2 * HIDDEN)
        await talk.open(live=pb.Live(block_steps=4, lookahead_steps=2))
        await talk.send(chunk(0, sequence(0, 10), last=not leaves))
        await talk.send(chunk(1, sequence(0, 5)))
        await gated.engines["one"].arrival()
        await until(lambda: held() == 2 * (14 * step_bytes + CARRIED_BYTES))
        draining = asyncio.create_task(app.drain())
        await until(lambda: all(m.batcher.refusal("", Priority.NORMAL) for m in app.models))
        gated.open()
        if not leaves:
            await talk.until_answered(0)
            assert talk.states(0).shape == (10, 2 * HIDDEN)
        assert (await talk.refusal())[0] is grpc.StatusCode.UNAVAILABLE
        assert await draining
        dropped = app.metrics.registry.get_sample_value(
            "bilstm_dropped_total", {"model": "one", "reason": "draining"}
        )
        assert dropped == (2 if leaves else 1)


async def test_a_block_that_fails(folder: Path) -> None:
    """A block that fails ends its sequence with an error; what still comes of it holds nothing."""

    def fault(staged: StagedBatch) -> None:
        raise ArithmeticError("no")

    async with (
        gated_server(settings(model=[("one", folder)])) as (app, gated),
        talking(f"127.0.0.1:{app.port}") as talk,
    ):
        gated.engines["one"].fault = fault
        gated.open()
        await talk.open(live=pb.Live(block_steps=4, lookahead_steps=0))
        await talk.send(chunk(0, sequence(0, 5)))
        await talk.until_answered(0)
        assert talk.error(0).error_id
        gated.engines["one"].fault = lambda staged: None
        for _ in range(100):
            await talk.send(chunk(0, sequence(0, 50)))
        await talk.send(chunk(0, last=True), chunk(1, sequence(0, 4), last=True))
        await talk.finish()
        assert app.metrics.registry.get_sample_value("bilstm_stream_bytes") == 0
    assert talk.states(1).shape == (4, 2 * HIDDEN)
