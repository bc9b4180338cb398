"""A second service beside the first, and the order of what its calls pass.

The toy has messages and decoders of its own. It is listed and nothing else: neither the server, nor
the interceptors, nor reflection know it.
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
from conftest import settings
from engines import HANGS_AFTER_SECONDS, until
from google.protobuf import descriptor_pb2, descriptor_pool
from grpc_health.v1 import health_pb2, health_pb2_grpc
from grpc_reflection.v1alpha import reflection_pb2, reflection_pb2_grpc
from talk import violated_field

from benchmarks.faults.wire import PatientConnection
from bilstm import tensors
from bilstm.v1 import encoder_pb2 as pb
from bilstm.v1 import encoder_pb2_grpc
from bilstm_server.app import App
from bilstm_server.batching.batcher import Batcher
from bilstm_server.batching.jobs import Job
from bilstm_server.engine.sequences import SequenceInput
from bilstm_server.errors import InvalidInput, ModelNotFound, Overloaded, Unavailable
from bilstm_server.metrics import Metrics
from bilstm_server.model.config import Output
from bilstm_server.rpc.context import Context
from bilstm_server.rpc.definitions import ServiceDefinition, TensorMethod
from bilstm_server.rpc.flow.receiving import Receiving
from bilstm_server.rpc.flow.untaken import UntakenReplies
from bilstm_server.rpc.interceptors.chain import InterceptorChain
from bilstm_server.rpc.interceptors.decoding import Decoding
from bilstm_server.rpc.interceptors.in_flight import CallsInFlight
from bilstm_server.rpc.interceptors.method import Layer, Method, Respond
from bilstm_server.rpc.interceptors.open_streams import OpenStreams
from bilstm_server.rpc.interceptors.outcomes import Outcomes
from bilstm_server.serving.registry import ServedModel
from bilstm_server.settings import ReceiveLimits, ReplyLimits
from bilstm_server.testing import server_process

TOY = "toy.v1.Toy"
DOUBLE, TELL, COUNT = (f"/{TOY}/{name}" for name in ("Double", "Tell", "Count"))
FOUR = np.arange(4, dtype="<i4").tobytes()
WATCH = {
    "grpc_type": "server_stream",
    "grpc_service": "grpc.health.v1.Health",
    "grpc_method": "Watch",
}
CALL_BYTES = 24 * 1024  # that a call is taken to hold beside its reply


def describe() -> Any:
    """The toy's descriptor, in a pool of its own."""
    method = descriptor_pb2.MethodDescriptorProto
    file = descriptor_pb2.FileDescriptorProto(
        name="toy/v1/toy.proto",
        package="toy.v1",
        message_type=[descriptor_pb2.DescriptorProto(name="Numbers")],
        service=[
            descriptor_pb2.ServiceDescriptorProto(
                name="Toy",
                method=[
                    method(name=name, input_type=".toy.v1.Numbers", output_type=".toy.v1.Numbers")
                    for name in ("Double", "Tell", "Count")
                ],
            )
        ],
    )
    pool = descriptor_pool.DescriptorPool()
    pool.Add(file)
    return pool.FindServiceByName(TOY)


def decode(data: bytes) -> Any:
    if len(data) % 4:
        raise InvalidInput("numbers", f"must be of 4 bytes each, got {len(data)} in all")
    return np.frombuffer(data, "<i4")


class Toy:
    """Doubles numbers, each call once `gate` is open; a little more shows the other ways in."""

    def __init__(self) -> None:
        self.gate = asyncio.Event()
        self.gate.set()
        self.arrived = 0
        self.refusal: Exception | None = None
        self.model: ServedModel | None = None  # that is asked for something, too
        self.events: list[str] = []

    async def double(self, numbers: Any, context: Context) -> bytes:
        self.arrived += 1
        self.events.append("called")
        await self.gate.wait()
        if self.model is not None:
            x = SequenceInput(np.ones((3, 5), "<f4"), frozenset({Output.FINAL}))
            await self.model.batcher.submit([x])
        return (numbers * 2).tobytes()  # type: ignore[no-any-return]

    async def tell(self, text: str, context: Context) -> str:
        return text.upper()

    async def count(self, requests: AsyncIterator[Any], context: Context) -> AsyncIterator[bytes]:
        async for numbers in requests:
            yield np.array([len(numbers)], "<i4").tobytes()

    def _decode(self, data: bytes) -> Any:
        self.events.append("decoded")
        return decode(data)

    def _admit(self) -> None:
        self.events.append("asked for admission")
        if self.refusal is not None:
            raise self.refusal

    def definition(self) -> ServiceDefinition:
        handlers = {
            "Double": grpc.unary_unary_rpc_method_handler(self.double),
            "Tell": grpc.unary_unary_rpc_method_handler(self.tell, bytes.decode, str.encode),
            "Count": grpc.stream_stream_rpc_method_handler(self.count),
        }
        generic = grpc.method_handlers_generic_handler(TOY, handlers)
        return ServiceDefinition(
            descriptor=describe(),
            add_to=lambda server: server.add_generic_rpc_handlers((generic,)),
            tensor_methods={
                "Double": TensorMethod(self._decode, self._admit),
                "Count": TensorMethod(decode),
            },
        )


class AppWithToy(App):
    """The server, with one more service in its list."""

    toy: Toy

    def _make_services(self, replies: UntakenReplies) -> list[ServiceDefinition]:
        self.toy = Toy()
        return [*super()._make_services(replies), self.toy.definition()]


@asynccontextmanager
async def serving(folder: Path, **values: object) -> AsyncIterator[tuple[AppWithToy, Any]]:
    """A server of both services, ready, and a channel to it."""
    async with AppWithToy(settings(model=[("small", folder)], **values)) as app:
        await app.load()
        async with grpc.aio.insecure_channel(f"127.0.0.1:{app.port}") as channel:
            yield app, channel


def sample(app: App, name: str, **labels: str) -> float:
    return app.metrics.registry.get_sample_value(name, labels) or 0.0


def handled(app: App, method: str, kind: str, code: str) -> float:
    labels = {"grpc_type": kind, "grpc_service": TOY, "grpc_method": method, "grpc_code": code}
    return sample(app, "grpc_server_handled_total", **labels)


async def refused(call: Any) -> tuple[grpc.StatusCode, str]:
    with pytest.raises(grpc.aio.AioRpcError) as refusal:
        await asyncio.wait_for(call, HANGS_AFTER_SECONDS)
    return refusal.value.code(), refusal.value.details() or ""


# -- a second service -------------------------------------------------------------------------


async def test_two_services_side_by_side(model_folder: Path) -> None:
    """Each decodes with its own decoders, and is counted under its own name."""
    async with serving(model_folder) as (app, channel):
        assert decode(await channel.unary_unary(DOUBLE)(FOUR)).tolist() == [0, 2, 4, 6]
        assert await channel.unary_unary(TELL)(b"who") == b"WHO"
        counted = channel.stream_stream(COUNT)(iter([FOUR, FOUR[:8]]))
        assert [decode(reply).tolist() async for reply in counted] == [[4], [2]]
        stub: Any = encoder_pb2_grpc.EncoderServiceStub(channel)
        x = tensors.encode(np.ones((3, 5), "<f4"))
        assert len((await stub.Encode(pb.EncodeRequest(sequences=[x]))).encodings) == 1
        for method, kind in (("Double", "unary"), ("Tell", "unary"), ("Count", "bidi_stream")):
            await until(lambda m=method, k=kind: handled(app, m, k, "OK") == 1)  # type: ignore[misc]


async def test_decoders_refuse_by_field(model_folder: Path) -> None:
    """What a service's decoder refuses is INVALID_ARGUMENT with its field, and counted so; plain
    messages are bounded, whoever has them."""
    async with serving(model_folder) as (app, channel):
        call = channel.unary_unary(DOUBLE)(b"odd")
        assert (await refused(call))[0] is grpc.StatusCode.INVALID_ARGUMENT
        assert await violated_field(call) == "numbers"
        stream = channel.stream_stream(COUNT)(iter([b"odd"]))
        assert (await refused(stream.read()))[0] is grpc.StatusCode.INVALID_ARGUMENT
        assert handled(app, "Double", "unary", "INVALID_ARGUMENT") == 1
        assert sample(app, "bilstm_dropped_total", model="", reason="invalid") == 2
        code, details = await refused(channel.unary_unary(TELL)(bytes(100_000)))
        assert (code, "65536" in details) == (grpc.StatusCode.INVALID_ARGUMENT, True)


async def test_calls_of_all_services_share_one_bound(model_folder: Path) -> None:
    """As many are served at once as `--max-calls` says, and one more is refused; plain calls have
    room all the same."""
    async with serving(model_folder, max_calls=2) as (app, channel):
        app.toy.gate.clear()
        double = channel.unary_unary(DOUBLE)
        calls = [asyncio.ensure_future(double(FOUR)) for _ in range(2)]
        await until(lambda: app.toy.arrived == 2)
        assert sample(app, "bilstm_calls") == 2
        code, details = await refused(double(FOUR))
        assert (code, "2 calls" in details) == (grpc.StatusCode.RESOURCE_EXHAUSTED, True)
        assert sample(app, "bilstm_dropped_total", model="", reason="overloaded") == 1
        assert await channel.unary_unary(TELL)(b"a") == b"A"
        app.toy.gate.set()
        await asyncio.gather(*calls)
        assert await double(FOUR)


async def test_refused_calls_are_in_flight_no_longer(model_folder: Path) -> None:
    """However a call ends, it gives its place back."""
    async with serving(model_folder, max_calls=1) as (app, channel):
        double = channel.unary_unary(DOUBLE)
        for error, code in (
            (InvalidInput("numbers", "no"), grpc.StatusCode.INVALID_ARGUMENT),
            (ModelNotFound("no"), grpc.StatusCode.NOT_FOUND),
            (RuntimeError("a bug"), grpc.StatusCode.INTERNAL),
        ):
            app.toy.refusal = error
            assert (await refused(double(FOUR)))[0] is code
            await until(lambda: sample(app, "bilstm_calls") == 0)
        app.toy.refusal = None
        app.toy.gate.clear()
        left = double(FOUR)
        await until(lambda: app.toy.arrived == 1)
        left.cancel()
        await until(lambda: sample(app, "bilstm_calls") == 0)
        app.toy.gate.set()
        assert await double(FOUR)


async def test_replies_are_held_until_taken(model_folder: Path) -> None:
    """A service that says nothing of its reply's size has it counted all the same."""
    async with serving(model_folder) as (app, _):
        target = f"127.0.0.1:{app.port}"
        with PatientConnection(target, stream_window=0) as peer:
            await asyncio.to_thread(peer.call, DOUBLE, FOUR)
            await until(lambda: sample(app, "bilstm_reply_bytes") == len(FOUR) + CALL_BYTES)
        await until(lambda: sample(app, "bilstm_reply_bytes") == 0)


async def test_streams_that_were_ended_are_held_until_taken(model_folder: Path) -> None:
    """A stream that makes place for another one, and whose last message nobody takes, still counts
    among what is not taken."""
    watch = "/grpc.health.v1.Health/Watch"
    async with serving(model_folder, max_calls=1) as (app, _):
        target = f"127.0.0.1:{app.port}"
        with PatientConnection(target, stream_window=0) as peer:
            await asyncio.to_thread(peer.call, watch, b"")
            await until(lambda: sample(app, "grpc_server_started_total", **WATCH) == 1)
            with PatientConnection(target) as other:
                await asyncio.to_thread(other.call, watch, b"")
                await until(lambda: sample(app, "bilstm_reply_bytes") >= CALL_BYTES)
        await until(lambda: sample(app, "bilstm_reply_bytes") == 0)


async def test_drain_waits_for_every_service(model_folder: Path) -> None:
    """A call that was let in is answered, whatever its service and however late that asks its
    model; a stream without end is ended."""
    async with serving(model_folder, drain_timeout_seconds=HANGS_AFTER_SECONDS) as (app, channel):
        app.toy.gate.clear()
        app.toy.model = app._registry.get("", "")
        call = asyncio.ensure_future(channel.unary_unary(DOUBLE)(FOUR))
        stream = channel.stream_stream(COUNT)()
        await stream.write(FOUR)
        assert await stream.read()
        await until(lambda: app.toy.arrived == 1)
        draining = asyncio.create_task(app.drain())
        done, _ = await asyncio.wait({draining, call}, timeout=0.5)
        assert not done
        app.toy.gate.set()
        assert decode(await call).tolist() == [0, 2, 4, 6]
        assert (await refused(stream.read()))[0] is grpc.StatusCode.UNAVAILABLE
        assert await asyncio.wait_for(draining, HANGS_AFTER_SECONDS)


async def test_health_and_reflection_name_every_service(model_folder: Path) -> None:
    """A second service is listed, described by its own file, and has its health."""
    async with serving(model_folder) as (_, channel):
        health: Any = health_pb2_grpc.HealthStub(channel)
        check = health_pb2.HealthCheckRequest(service=TOY)
        assert (await health.Check(check)).status == health_pb2.HealthCheckResponse.SERVING
        stub_of: Any = reflection_pb2_grpc.ServerReflectionStub
        asked = [
            reflection_pb2.ServerReflectionRequest(list_services=""),
            reflection_pb2.ServerReflectionRequest(file_containing_symbol=f"{TOY}.Double"),
        ]
        call = stub_of(channel).ServerReflectionInfo(iter(asked))
        listed, found = [reply async for reply in call]
    names = {service.name for service in listed.list_services_response.service}
    assert {TOY, "bilstm.v1.EncoderService", "grpc.health.v1.Health"} <= names
    (file,) = found.file_descriptor_response.file_descriptor_proto
    assert descriptor_pb2.FileDescriptorProto.FromString(file).service[0].name == "Toy"


def test_definition_of_a_method_that_is_not_there() -> None:
    """A service can't name a method that its descriptor lacks: it would be decoded as a plain
    one."""
    with pytest.raises(ValueError, match=r"toy\.v1\.Toy has no method Treble"):
        ServiceDefinition(
            descriptor=describe(),
            add_to=lambda server: None,
            tensor_methods={"Treble": TensorMethod(decode)},
        )


# -- callers ----------------------------------------------------------------------------------


async def test_callers_are_told_apart(model_folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The batcher is told whose each sequence is, of a call, of a stream, and of a live one: the
    same caller on one connection, another one on another."""
    callers: list[str] = []
    admit = Batcher._job

    def recorded(self: Batcher, *arguments: Any, **named: Any) -> Job:
        job = admit(self, *arguments, **named)
        callers.append(job.caller)
        return job

    monkeypatch.setattr(Batcher, "_job", recorded)
    x = tensors.encode(np.ones((3, 5), "<f4"))
    chunks = [pb.SequenceChunk(id=1, steps=x, last=True)]
    async with serving(model_folder) as (app, channel):
        target = f"127.0.0.1:{app.port}"
        pool = [("grpc.use_local_subchannel_pool", 1)]
        async with grpc.aio.insecure_channel(target, options=pool) as other:
            for each in (channel, other):
                stub: Any = encoder_pb2_grpc.EncoderServiceStub(each)
                await stub.Encode(pb.EncodeRequest(sequences=[x]))
                for options in (pb.StreamOptions(), pb.StreamOptions(live=pb.Live(block_steps=2))):
                    sent = [
                        pb.EncodeStreamRequest(options=options),
                        pb.EncodeStreamRequest(chunks=chunks),
                    ]
                    assert [reply async for reply in stub.EncodeStream(iter(sent))]
    assert len(callers) == 2 * (1 + 1 + 2)
    first, second = callers[:4], callers[4:]
    assert len({*first}) == len({*second}) == 1
    assert first != second


# -- the order --------------------------------------------------------------------------------


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
