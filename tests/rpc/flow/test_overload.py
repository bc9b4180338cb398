"""Overload, over the wire: more than the server can hold is refused at once, and what it took
it finishes. The engine stands at a gate meanwhile, so nothing here depends on its speed.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import grpc
import numpy as np
import pytest
from google.rpc import error_details_pb2
from grpc_status import rpc_status
from numpy.typing import NDArray

from bilstm import tensors
from bilstm.v1 import encoder_pb2 as pb
from bilstm.v1 import encoder_pb2_grpc
from bilstm_server.app import App
from bilstm_server.engine.sequences import SequenceInput
from bilstm_server.settings import Settings
from bilstm_server.testing import server_process
from tests.support.engines import GatedEngine, gated_server
from tests.support.servers import settings
from tests.support.waiting import HANGS_AFTER_SECONDS, until

STEPS = 4
MAX_BATCH_TOKENS = 4 * STEPS
MAX_QUEUE_TOKENS = 16 * STEPS
# One at the gate, one full batch staged, and the queue.
CAPACITY = 1 + (MAX_BATCH_TOKENS + MAX_QUEUE_TOKENS) // STEPS
CALLERS = 10 * CAPACITY

Array = NDArray[Any]
Calls = dict[int, asyncio.Task[pb.EncodeResponse | grpc.aio.AioRpcError]]  # by index of its input


def limited(folder: Path, *more: tuple[str, Path]) -> Settings:
    return settings(
        model=[("small", folder), *more],
        max_sequence_tokens=MAX_BATCH_TOKENS,
        max_batch_tokens=MAX_BATCH_TOKENS,
        max_queue_tokens=MAX_QUEUE_TOKENS,
    )


def sequences(count: int) -> list[Array]:
    generator = np.random.default_rng(0)
    return list(generator.standard_normal((count, STEPS, 5), np.float32))


def request(x: Array) -> pb.EncodeRequest:
    return pb.EncodeRequest(sequences=[tensors.encode(x)])


def states(reply: pb.EncodeResponse) -> Array:
    return tensors.decode(reply.encodings[0].states)


def alone(engine: GatedEngine, x: Array) -> Array:
    """What the engine makes of `x` without others in its batch."""
    (output,) = engine.run([SequenceInput((x,), frozenset({"states"}))])
    return output.arrays["states"]


def queue_tokens(app: App) -> float:
    value = app.metrics.registry.get_sample_value("bilstm_queue_tokens", {"model": "small"})
    assert value is not None
    return value


async def attempt(stub: Any, message: pb.EncodeRequest) -> pb.EncodeResponse | grpc.aio.AioRpcError:
    """One call: its reply or its error. It has no deadline, which a slow test might miss."""
    try:
        reply: pb.EncodeResponse = await stub.Encode(message)
    except grpc.aio.AioRpcError as error:
        return error
    return reply


async def flood(engine: GatedEngine, stub: Any, inputs: list[Array]) -> tuple[Calls, Calls]:
    """One call for each input while the engine stands at its gate: those that have ended when
    as many have as the server can't hold, and those that wait."""
    calls = [asyncio.create_task(attempt(stub, request(inputs[0])))]
    await engine.arrival()
    calls += [asyncio.create_task(attempt(stub, request(x))) for x in inputs[1:]]
    waiting = set(calls)
    async with asyncio.timeout(HANGS_AFTER_SECONDS):
        while len(waiting) > CAPACITY:
            _, waiting = await asyncio.wait(waiting, return_when=asyncio.FIRST_COMPLETED)
    indices = {call: index for index, call in enumerate(calls)}
    return (
        {indices[call]: call for call in calls if call not in waiting},
        {indices[call]: call for call in calls if call in waiting},
    )


@asynccontextmanager
async def connected(app: App) -> AsyncIterator[Any]:
    async with grpc.aio.insecure_channel(f"127.0.0.1:{app.port}") as channel:
        yield encoder_pb2_grpc.EncoderServiceStub(channel)


def retry_seconds(refusal: Any) -> float:
    """What the refusal says of when to come again."""
    status = rpc_status.from_call(refusal)
    assert status is not None
    (detail,) = status.details
    retry = error_details_pb2.RetryInfo()
    assert detail.Unpack(retry)
    seconds: float = retry.retry_delay.ToTimedelta().total_seconds()
    return seconds


async def test_ten_times_the_capacity(model_folder: Path) -> None:
    """Of ten times what the server holds, all but its capacity are refused while the engine
    still computes, and those it took all get their own right results."""
    inputs = sequences(CALLERS)
    async with gated_server(limited(model_folder)) as (app, gated):
        engine = gated.engines["small"]
        sampled: list[float] = []
        engine.at_gate = lambda: sampled.append(queue_tokens(app))
        async with connected(app) as stub:
            refused, accepted = await flood(engine, stub, inputs)
            assert len(engine.batches) == 1  # and that one has not been computed yet
            assert queue_tokens(app) == MAX_QUEUE_TOKENS
            for refusal in [await call for call in refused.values()]:
                assert isinstance(refusal, grpc.aio.AioRpcError)
                assert refusal.code() is grpc.StatusCode.RESOURCE_EXHAUSTED
                assert retry_seconds(refusal) > 0
            gated.open()
            replies = {index: await call for index, call in accepted.items()}
        assert len(refused) == CALLERS - CAPACITY
        assert sum(map(sum, engine.batches)) == CAPACITY * STEPS
        assert max(map(sum, engine.batches)) <= MAX_BATCH_TOKENS
        for index, reply in replies.items():
            assert isinstance(reply, pb.EncodeResponse)
            np.testing.assert_allclose(states(reply), alone(engine, inputs[index]), atol=1e-5)
        assert max(sampled) <= MAX_QUEUE_TOKENS
        assert queue_tokens(app) == 0


async def test_refused_callers_are_served_when_they_come_again(model_folder: Path) -> None:
    """Once the engine goes on, everyone who was refused and tries again is served."""
    inputs = sequences(CALLERS)

    async def persist(stub: Any, x: Array) -> pb.EncodeResponse:
        while isinstance(outcome := await attempt(stub, request(x)), grpc.aio.AioRpcError):
            assert outcome.code() is grpc.StatusCode.RESOURCE_EXHAUSTED
        return outcome

    async with gated_server(limited(model_folder)) as (app, gated), connected(app) as stub:
        refused, accepted = await flood(gated.engines["small"], stub, inputs)
        gated.open()
        async with asyncio.timeout(HANGS_AFTER_SECONDS):
            await asyncio.gather(*(persist(stub, inputs[index]) for index in refused))
            served = await asyncio.gather(*accepted.values())
        assert all(isinstance(reply, pb.EncodeResponse) for reply in served)


async def test_thousands_at_once(model_folder: Path) -> None:
    """However many calls come at once, each is served or told that the queue is full."""
    x = sequences(1)[0]
    async with gated_server(limited(model_folder)) as (app, gated), connected(app) as stub:
        calls = [asyncio.create_task(attempt(stub, request(x)))]
        await gated.engines["small"].arrival()  # alone, so that CAPACITY is what it says
        calls += [asyncio.create_task(attempt(stub, request(x))) for _ in range(3000)]
        waiting = set(calls)
        async with asyncio.timeout(HANGS_AFTER_SECONDS):
            while len(waiting) > CAPACITY:
                _, waiting = await asyncio.wait(waiting, return_when=asyncio.FIRST_COMPLETED)
            gated.open()
            outcomes = await asyncio.gather(*calls)
    refusals = [o.code() for o in outcomes if isinstance(o, grpc.aio.AioRpcError)]
    assert set(refusals) == {grpc.StatusCode.RESOURCE_EXHAUSTED}
    assert len(refusals) < len(calls)


def test_refused_requests_are_let_go(model_folder: Path) -> None:
    """What is refused leaves nothing behind: many large requests take the room of a few."""
    megabytes = 2**20
    bad = pb.EncodeRequest(sequences=[tensors.encode(np.zeros((megabytes, 3), "<f4"))])
    with (
        server_process(f"--model=small={model_folder}") as server,
        grpc.insecure_channel(
            server.target, options=[("grpc.max_send_message_length", -1)]
        ) as channel,
    ):
        stub: Any = encoder_pb2_grpc.EncoderServiceStub(channel)

        def refuse(times: int) -> float:
            for _ in range(times):
                with pytest.raises(grpc.RpcError, match="must be"):
                    stub.Encode(bad, timeout=HANGS_AFTER_SECONDS)
            return server.metrics()["process_resident_memory_bytes"]

        before = refuse(5)
        assert refuse(40) - before < 8 * len(bad.SerializeToString())


async def test_caller_that_leaves_makes_room(model_folder: Path) -> None:
    """When those who wait leave, their places in a full queue are another's, and they are not
    computed."""
    inputs = sequences(CALLERS)
    async with gated_server(limited(model_folder)) as (app, gated), connected(app) as stub:
        engine = gated.engines["small"]
        _, accepted = await flood(engine, stub, inputs)
        for index, call in accepted.items():
            if index:  # the first one stands at the gate
                call.cancel()
        await until(lambda: queue_tokens(app) == 0)
        late = asyncio.create_task(attempt(stub, request(inputs[0])))
        await until(lambda: queue_tokens(app) == STEPS)
        gated.open()
        reply = await late
        assert isinstance(reply, pb.EncodeResponse)
        assert engine.batches == [[STEPS], [STEPS]]


async def test_overload_of_one_model_leaves_others_room(
    model_folder: Path, token_model_folder: Path
) -> None:
    """Each model has a queue of its own: a full one refuses nobody else."""
    both = limited(model_folder, ("tokens", token_model_folder))
    ids = pb.EncodeRequest(model="tokens", sequences=[tensors.encode(np.arange(STEPS))])
    async with gated_server(both) as (app, gated), connected(app) as stub:
        await flood(gated.engines["small"], stub, sequences(CALLERS))
        call = asyncio.create_task(attempt(stub, ids))
        gated.open()
        assert isinstance(await call, pb.EncodeResponse)
