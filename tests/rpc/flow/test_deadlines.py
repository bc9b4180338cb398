"""Deadlines over the wire, before a real server whose engine takes a fixed time for each token. The
times are long, so that nothing depends on this machine's.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import grpc
import numpy as np
import pytest
from google.rpc import error_details_pb2
from grpc_status import rpc_status

from bilstm import tensors
from bilstm.v1 import encoder_pb2 as pb
from bilstm.v1 import encoder_pb2_grpc
from bilstm_server.app import App
from bilstm_server.engine.engine import Engine
from bilstm_server.engine.sequences import SequenceOutput
from bilstm_server.engine.staging import StagedBatch
from bilstm_server.settings import Settings
from tests.support.servers import settings
from tests.support.waiting import HANGS_AFTER_SECONDS, until

TOKEN_SECONDS = 0.02
STEPS = 10  # so that a call takes 200 ms


class CostlyEngine(Engine):
    """Computes as ever, and takes its time. `tokens` are those of each batch."""

    def warm_up(self, batch_tokens: int = 0) -> None:
        self.token_seconds = 0.0
        super().warm_up()
        self.token_seconds = TOKEN_SECONDS
        self.tokens: list[int] = []

    def warm_thread(self) -> None:
        """Only what callers send has its cost."""

    def compute(self, staged: StagedBatch) -> list[SequenceOutput]:
        tokens = sum(sequence.tokens for sequence in staged.sequences)
        if self.token_seconds:
            self.tokens.append(tokens)
        time.sleep(tokens * self.token_seconds)
        return super().compute(staged)


Served = tuple[CostlyEngine, Any]  # and the stub of its server


@asynccontextmanager
async def costly_server(
    folder: Path,
) -> AsyncIterator[Served]:
    engines: list[CostlyEngine] = []

    def load(folder: Path, settings: Settings) -> Engine:
        engine = CostlyEngine.load(folder, settings.device, settings.dtype, settings.kernel)
        engine.warm_up()
        engines.append(engine)
        return engine

    served = settings(model=[("small", folder)], max_queue_seconds=HANGS_AFTER_SECONDS)
    async with App(served, load) as app:
        await app.load()
        async with grpc.aio.insecure_channel(f"127.0.0.1:{app.port}") as channel:
            yield engines[0], encoder_pb2_grpc.EncoderServiceStub(channel)


def request(sequences: int) -> pb.EncodeRequest:
    x = np.zeros((STEPS, 5), np.float32)
    return pb.EncodeRequest(sequences=[tensors.encode(x)] * sequences)


def retry_seconds(refusal: Any) -> float | None:
    """What the refusal says of when to come again; None if it does not."""
    status = rpc_status.from_call(refusal)
    assert status is not None
    if not status.details:
        return None
    retry = error_details_pb2.RetryInfo()
    assert status.details[0].Unpack(retry)
    seconds: float = retry.retry_delay.ToTimedelta().total_seconds()
    return seconds


@pytest.fixture
async def served(
    model_folder: Path,
) -> AsyncIterator[Served]:
    """A server that knows what its batches take."""
    async with costly_server(model_folder) as (engine, stub):
        await stub.Encode(request(1), timeout=HANGS_AFTER_SECONDS)  # although nothing is known
        yield engine, stub


async def test_who_has_too_little_time_is_told_at_once(
    served: Served,
) -> None:
    """A call that would take four seconds and has two is refused before it is computed, in words
    that say both, and how much would do; to try again would not. With more time it is answered."""
    engine, stub = served
    with pytest.raises(grpc.aio.AioRpcError) as refused:
        await stub.Encode(request(20), timeout=2)
    assert refused.value.code() is grpc.StatusCode.DEADLINE_EXCEEDED
    assert "would take about" in str(refused.value.details())
    assert "ms are left: allow at least" in str(refused.value.details())
    assert retry_seconds(refused.value) is None
    assert sum(engine.tokens) == STEPS
    reply = await stub.Encode(request(20), timeout=HANGS_AFTER_SECONDS)
    assert len(reply.encodings) == 20
    assert sum(engine.tokens) == 21 * STEPS


async def test_what_is_computed_counts(
    served: Served,
) -> None:
    """A call that would be quick by itself is refused where four seconds of work come before it,
    with when to come again, and computed after it where there is time; nothing was computed for
    nobody."""
    engine, stub = served
    long = asyncio.ensure_future(stub.Encode(request(20), timeout=HANGS_AFTER_SECONDS))
    await until(lambda: len(engine.tokens) > 1)
    with pytest.raises(grpc.aio.AioRpcError, match="would take about") as refused:
        await stub.Encode(request(1), timeout=2)
    assert 0.0 < (retry_seconds(refused.value) or 0.0) < 21 * STEPS * TOKEN_SECONDS
    await stub.Encode(request(1), timeout=HANGS_AFTER_SECONDS)
    await long
    assert sum(engine.tokens) == 22 * STEPS
