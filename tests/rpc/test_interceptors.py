"""In which order calls pass the interceptors, and whose each call is."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import grpc
import numpy as np
import pytest

from benchmarks.faults.wire import PatientConnection
from bilstm import tensors
from bilstm.v1 import encoder_pb2 as pb
from bilstm.v1 import encoder_pb2_grpc
from bilstm_server.batching.batcher import Batcher
from bilstm_server.batching.jobs import Job
from bilstm_server.errors import Overloaded, Unavailable
from bilstm_server.metrics import Metrics
from bilstm_server.rpc.context import Context
from bilstm_server.rpc.definitions import TensorMethod
from bilstm_server.rpc.flow.receiving import Receiving
from bilstm_server.rpc.flow.untaken import UntakenReplies
from bilstm_server.rpc.interceptors.chain import InterceptorChain
from bilstm_server.rpc.interceptors.decoding import Decoding
from bilstm_server.rpc.interceptors.in_flight import CallsInFlight
from bilstm_server.rpc.interceptors.method import Layer, Method, Respond
from bilstm_server.rpc.interceptors.open_streams import OpenStreams
from bilstm_server.rpc.interceptors.outcomes import Outcomes
from bilstm_server.settings import ReceiveLimits, ReplyLimits
from bilstm_server.testing import server_process
from tests.rpc.toy import DOUBLE, FOUR, TOY, Toy, serving
from tests.support.waiting import HANGS_AFTER_SECONDS

# -- callers -------------------------------------------------------------------------------------


async def test_callers_are_told_apart(model_folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The batcher is told whose each sequence is, of a call, of a stream, and of a live one."""
    callers: list[str] = []
    admit = Batcher._job

    def recorded(self: Batcher, *arguments: Any, **named: Any) -> Job:
        job = admit(self, *arguments, **named)
        callers.append(job.caller)
        return job

    monkeypatch.setattr(Batcher, "_job", recorded)
    x = tensors.encode(np.ones((3, 5), "<f4"))
    chunks = [pb.SequenceChunk(id=1, steps=x, last=True)]
    async with serving(model_folder, caller_header="x-caller") as (_, channel):
        stub: Any = encoder_pb2_grpc.EncoderServiceStub(channel)
        for name in ("one", "another"):
            who = (("x-caller", name),)
            await stub.Encode(pb.EncodeRequest(sequences=[x]), metadata=who)
            for options in (pb.StreamOptions(), pb.StreamOptions(live=pb.Live(block_steps=2))):
                sent = [
                    pb.EncodeStreamRequest(options=options),
                    pb.EncodeStreamRequest(chunks=chunks),
                ]
                assert [reply async for reply in stub.EncodeStream(iter(sent), metadata=who)]
    assert callers == ["one"] * (1 + 1 + 2) + ["another"] * (1 + 1 + 2)


# -- the order -----------------------------------------------------------------------------------


async def test_admission_comes_before_the_request(model_folder: Path) -> None:
    """A service that admits nobody says so to a caller that has sent nothing but headers."""
    async with serving(model_folder) as (app, _):
        app.toy.refusal = Overloaded("nobody now", 1.0)
        with PatientConnection(f"127.0.0.1:{app.port}") as peer:
            await asyncio.to_thread(peer.begin, DOUBLE)
            async with asyncio.timeout(HANGS_AFTER_SECONDS):
                while not peer.statuses:
                    await asyncio.to_thread(peer.pump, 0.1)
            assert peer.statuses == {1: str(grpc.StatusCode.RESOURCE_EXHAUSTED.value[0])}
        assert app.toy.events == ["asked for admission"]
        app.toy.refusal = None
        app.toy.events.clear()
        async with grpc.aio.insecure_channel(f"127.0.0.1:{app.port}") as channel:
            call: Any = channel.unary_unary(DOUBLE)
            await call(FOUR)
        assert app.toy.events == ["asked for admission", "decoded", "called"]


class Doorkeeper:
    """A layer that lets nobody in who does not say the word."""

    def around(self, method: Method, respond: Respond) -> Respond:
        async def checked(requests: Any, context: Context) -> bytes | None:
            if ("word", "please") not in (context.invocation_metadata() or ()):
                raise Unavailable("say the word")
            return await respond(requests, context)

        return checked


@asynccontextmanager
async def doorkept() -> AsyncIterator[tuple[Toy, CallsInFlight, Metrics, str]]:
    """The toy behind all layers and one more; gives its target, too."""
    toy, metrics = Toy(), Metrics()
    replies = UntakenReplies(ReplyLimits(), lambda peer: True)
    calls = CallsInFlight(1, metrics.no_model)
    layers: list[Layer] = [Outcomes(metrics), calls, OpenStreams(1, replies), Doorkeeper()]
    decoding = Decoding(Receiving(ReceiveLimits()), replies, metrics.no_model)
    chain = InterceptorChain([toy.definition()], layers, decoding)
    server = grpc.aio.server(interceptors=[chain])
    toy.definition().add_to(server)
    port = server.add_insecure_port("127.0.0.1:0")
    await server.start()
    try:
        yield toy, calls, metrics, f"127.0.0.1:{port}"
    finally:
        await server.stop(None)


@pytest.mark.parametrize(("method", "kind"), [("Double", "unary"), ("Count", "bidi_stream")])
async def test_one_more_layer_refuses_before_a_request_is_read(method: str, kind: str) -> None:
    """A layer of its own file refuses calls and streams that have sent nothing but headers. The
    refusal is a status like any other: counted, and gone from those in flight."""
    async with doorkept() as (toy, calls, metrics, target):
        with PatientConnection(target) as peer:
            await asyncio.to_thread(peer.begin, f"/{TOY}/{method}")
            async with asyncio.timeout(HANGS_AFTER_SECONDS):
                while not peer.statuses:
                    await asyncio.to_thread(peer.pump, 0.1)
            assert peer.statuses == {1: str(grpc.StatusCode.UNAVAILABLE.value[0])}
        assert toy.events == []
        assert calls.count == 0
        labels = {"grpc_type": kind, "grpc_service": TOY, "grpc_method": method}
        handled = ("grpc_server_handled_total", labels | {"grpc_code": "UNAVAILABLE"})
        assert metrics.registry.get_sample_value(*handled) == 1
        async with grpc.aio.insecure_channel(target) as channel:
            call: Any = channel.unary_unary(DOUBLE)
            assert await call(FOUR, metadata=(("word", "please"),))


def test_bare_server() -> None:
    """The server that `benchmarks.overhead` takes for what a call costs without the layers has
    none of them, and serves."""
    x = tensors.encode(np.zeros((3, 12), "<f4"))
    with (
        server_process(module="benchmarks.bare_server") as process,
        grpc.insecure_channel(process.target) as channel,
    ):
        stub = encoder_pb2_grpc.EncoderServiceStub(channel)
        reply = stub.Encode(pb.EncodeRequest(sequences=[x]), timeout=HANGS_AFTER_SECONDS)
        assert len(reply.encodings) == 1
        assert not any("grpc_server_handled_total" in name for name in process.metrics())


async def test_a_pause_lasts_until_no_call_has_come_for_so_long() -> None:
    """It begins when it is asked for, however long none had come before, and anew with each call;
    but it does not last for ever."""

    async def answer(requests: object, context: Context) -> bytes:
        return b""

    handler: Any = grpc.unary_unary_rpc_method_handler(lambda *_: b"")
    method = Method("a.B", "C", handler, TensorMethod(bytes))
    calls = CallsInFlight(1, Metrics().no_model)
    context: Any = None
    call = calls.around(method, answer)
    pausing = asyncio.create_task(calls.pause(0.02, 60.0))
    for _ in range(100):  # one in each turn of the loop
        await call([], context)
        await asyncio.sleep(0)
        assert not pausing.done()
    await pausing
    pausing = asyncio.create_task(calls.pause(60.0, 0.02))
    while not pausing.done():
        await call([], context)
        await asyncio.sleep(0)
