"""Calls and streams that are cancelled at random moments: what their neighbours have of it."""

from __future__ import annotations

import asyncio
import itertools
from collections import Counter
from collections.abc import AsyncIterator, Iterator
from random import Random
from typing import Any

import grpc
import numpy as np

from bilstm import tensors
from bilstm.v1 import encoder_pb2 as pb
from bilstm.v1 import encoder_pb2_grpc

from .attacked import Attacked, attacked, seconds_until
from .findings import Finding

NAME = "cancellations"
_CANCELLATIONS = 1_000
_AT_A_TIME = 8
_MOST_SECONDS = 0.03  # until a call is cancelled
_SEED = 0
_WIDTH = 12
_LENGTHS = (1, 8, 100, 3_000)  # the last is computed in slices
_LEFT_SECONDS = 5.0  # for what was cancelled to be gone
_MOST_GROWN = 32.0  # MB
_GAUGES = ("bilstm_calls", "bilstm_streams", "bilstm_stream_bytes", "bilstm_queue_tokens")


def trial(cancellations: int = _CANCELLATIONS) -> Iterator[Finding]:
    sent = f"{cancellations:,} calls and streams cancelled at random"
    with attacked() as server:
        asyncio.run(_cancel(server.target, cancellations // 10))  # warms it up
        before = server.resident
        neighbours, results = asyncio.run(_cancel(server.target, cancellations))
        left = seconds_until(lambda: not _in_flight(server), _LEFT_SECONDS)
        server.settle()
        grown = server.resident - before
        errors = server.errors
    yield Finding(NAME, sent, "cancelled", results["cancelled"], least=cancellations)
    for end in sorted(results.keys() - {"cancelled"}):
        yield Finding(NAME, sent, f"calls that ended before as {end}", results[end])
    yield Finding(NAME, sent, "neighbours' results", neighbours.total(), least=1)
    for end in ("other bits", "failed"):
        yield Finding(NAME, sent, f"of them {end}", neighbours[end], most=0)
    yield Finding(NAME, sent, "until nothing is left in flight", left, "s", _LEFT_SECONDS - 1)
    yield Finding(NAME, sent, "resident memory grew by", grown, "MB", _MOST_GROWN)
    yield Finding(NAME, sent, "lines of errors in its log", len(errors), most=0)


def _in_flight(server: Attacked) -> float:
    samples = server.server.metrics()
    return sum(value for name, value in samples.items() if name.split("{")[0] in _GAUGES)


async def _cancel(target: str, count: int) -> tuple[Counter[str], Counter[str]]:
    """Cancel so many. Returns how the neighbours' results were, and how those calls ended."""
    neighbours: Counter[str] = Counter()
    ends: Counter[str] = Counter()
    options = [("grpc.use_local_subchannel_pool", 1)]
    async with (
        grpc.aio.insecure_channel(target, options) as attacking,
        grpc.aio.insecure_channel(target, options) as beside,
    ):
        stub: Any = encoder_pb2_grpc.EncoderServiceStub(beside)
        cases = itertools.count()
        expected = [await stub.Encode(_request(steps)) for steps in _LENGTHS]
        async with asyncio.TaskGroup() as tasks:
            cancelling = [
                tasks.create_task(_cancel_in_turn(attacking, cases, count, ends))
                for _ in range(_AT_A_TIME)
            ]
            until = asyncio.gather(*cancelling)
            for steps, reply in zip(_LENGTHS, expected, strict=True):
                tasks.create_task(_neighbour(stub, steps, reply, neighbours, until))
                tasks.create_task(_streaming_neighbour(stub, steps, reply, neighbours, until))
    return neighbours, ends


def _x(steps: int) -> Any:
    return tensors.encode(np.random.default_rng(steps).standard_normal((steps, _WIDTH), np.float32))


def _request(steps: int) -> pb.EncodeRequest:
    return pb.EncodeRequest(sequences=[_x(steps)])


async def _neighbour(
    stub: Any, steps: int, expected: Any, ends: Counter[str], until: asyncio.Future[Any]
) -> None:
    while not until.done():
        try:
            reply = await stub.Encode(_request(steps), timeout=30)
            same = reply.encodings[0] == expected.encodings[0]
            ends["right" if same else "other bits"] += 1
        except grpc.RpcError:
            ends["failed"] += 1


async def _streaming_neighbour(
    stub: Any, steps: int, expected: Any, ends: Counter[str], until: asyncio.Future[Any]
) -> None:
    states = tensors.decode(expected.encodings[0].states)
    while not until.done():
        try:
            parts = [
                tensors.decode(chunk.encoding.states)
                async for reply in stub.EncodeStream(_stream([steps]), timeout=30)
                for chunk in reply.chunks
                if chunk.encoding.HasField("states")
            ]
            same = np.concatenate(parts).tobytes() == states.tobytes()
            ends["right" if same else "other bits"] += 1
        except (grpc.RpcError, ValueError):  # no part at all
            ends["failed"] += 1


async def _stream(
    lengths: list[int], live: pb.Live | None = None, rest: float = 0.0
) -> AsyncIterator[pb.EncodeStreamRequest]:
    """One sequence of each length, a message for each, and so many seconds after each."""
    yield pb.EncodeStreamRequest(options=pb.StreamOptions(live=live))
    for number, steps in enumerate(lengths):
        chunk = pb.SequenceChunk(id=number, steps=_x(steps), last=live is None)
        yield pb.EncodeStreamRequest(chunks=[chunk])
        await asyncio.sleep(rest)


async def _cancel_in_turn(
    channel: Any, cases: Iterator[int], count: int, ends: Counter[str]
) -> None:
    """Go on until so many are cancelled. Each case's call, its kind and its moment depend on its
    number only."""
    stub: Any = encoder_pb2_grpc.EncoderServiceStub(channel)
    while ends["cancelled"] < count:
        number = next(cases)
        random = Random(f"{_SEED} {number}")
        call = _some_call(stub, random)
        try:
            async with asyncio.timeout(random.uniform(0, _MOST_SECONDS)):
                code = await call.code()
            ends[code.name] += 1
        except TimeoutError:
            ends["cancelled"] += call.cancel()


def _some_call(stub: Any, random: Random) -> Any:
    lengths = [random.choice(_LENGTHS) for _ in range(random.choice((1, 2, 5)))]
    match random.randrange(3):
        case 0:
            return stub.Encode(pb.EncodeRequest(sequences=map(_x, lengths)))
        case 1:
            return stub.EncodeStream(_stream(lengths, rest=0.002))
        case _:
            short = [min(steps, 100) for steps in lengths]
            return stub.EncodeStream(
                _stream(short, pb.Live(block_steps=4, lookahead_steps=4), 0.002)
            )
