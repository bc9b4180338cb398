"""A second service beside the first: it is listed and nothing else, neither the server, nor the
interceptors, nor reflection know it.
"""

from __future__ import annotations

import asyncio
from pathlib import Path
from typing import Any

import grpc
import numpy as np
import pytest
from google.protobuf import descriptor_pb2
from grpc_health.v1 import health_pb2, health_pb2_grpc
from grpc_reflection.v1alpha import reflection_pb2, reflection_pb2_grpc

from benchmarks.faults.wire import PatientConnection
from bilstm import tensors
from bilstm.v1 import encoder_pb2 as pb
from bilstm.v1 import encoder_pb2_grpc
from bilstm_server.errors import InvalidInput, ModelNotFound
from bilstm_server.rpc.definitions import ServiceDefinition, TensorMethod
from tests.rpc.streams.talk import violated_field
from tests.rpc.toy import COUNT, DOUBLE, FOUR, TELL, TOY, decode, describe, handled, sample, serving
from tests.support.waiting import HANGS_AFTER_SECONDS, until

WATCH = {
    "grpc_type": "server_stream",
    "grpc_service": "grpc.health.v1.Health",
    "grpc_method": "Watch",
}
CALL_BYTES = 24 * 1024  # that a call is taken to hold beside its reply


async def refused(call: Any) -> tuple[grpc.StatusCode, str]:
    with pytest.raises(grpc.aio.AioRpcError) as refusal:
        await asyncio.wait_for(call, HANGS_AFTER_SECONDS)
    return refusal.value.code(), refusal.value.details() or ""


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
