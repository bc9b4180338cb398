"""Which services and methods a server has, and the status that a method gives itself."""

from __future__ import annotations

from collections.abc import AsyncIterator
from typing import Any

import grpc
import pytest
from google.protobuf import descriptor_pb2
from grpc_reflection.v1alpha import reflection_pb2, reflection_pb2_grpc

from bilstm.v1 import encoder_pb2 as pb
from bilstm_server.metrics import Metrics
from bilstm_server.rpc.flow.receiving import Receiving
from bilstm_server.rpc.flow.untaken import UntakenReplies
from bilstm_server.rpc.interceptors.chain import InterceptorChain
from bilstm_server.rpc.interceptors.decoding import Decoding
from bilstm_server.rpc.interceptors.method import Layer
from bilstm_server.rpc.interceptors.open_streams import OpenStreams
from bilstm_server.rpc.interceptors.outcomes import Outcomes
from bilstm_server.settings import ReceiveLimits, ReplyLimits
from tests.support.servers import RunningServer

SERVICES = {
    "bilstm.v1.EncoderService",
    "grpc.health.v1.Health",
    "grpc.reflection.v1.ServerReflection",
    "grpc.reflection.v1alpha.ServerReflection",
}


async def reflected(
    channel: grpc.aio.Channel, **asked: Any
) -> reflection_pb2.ServerReflectionResponse:
    stub_of: Any = reflection_pb2_grpc.ServerReflectionStub  # typed for blocking channels only
    stub = stub_of(channel)
    call = stub.ServerReflectionInfo(iter([reflection_pb2.ServerReflectionRequest(**asked)]))
    (reply,) = [reply async for reply in call]
    assert isinstance(reply, reflection_pb2.ServerReflectionResponse)
    return reply


async def test_reflection(server: RunningServer) -> None:
    """Reflection lists the services and gives the description of the contract's own file."""
    async with grpc.aio.insecure_channel(server.target) as channel:
        listed = await reflected(channel, list_services="")
        assert {s.name for s in listed.list_services_response.service} == SERVICES
        found = await reflected(channel, file_containing_symbol="bilstm.v1.EncoderService")
    files = [
        descriptor_pb2.FileDescriptorProto.FromString(data)
        for data in found.file_descriptor_response.file_descriptor_proto
    ]
    expected = descriptor_pb2.FileDescriptorProto()
    pb.DESCRIPTOR.CopyToProto(expected)
    assert expected in files


async def test_unknown_method(server: RunningServer) -> None:
    """A method that is not there is UNIMPLEMENTED."""
    async with grpc.aio.insecure_channel(server.target) as channel:
        call: Any = channel.unary_unary("/bilstm.v1.EncoderService/Guess")
        with pytest.raises(grpc.aio.AioRpcError) as refusal:
            await call(b"")
    assert refusal.value.code() is grpc.StatusCode.UNIMPLEMENTED


async def test_stream_that_aborts_ends_with_its_own_status() -> None:
    """A status that a stream sends itself reaches the caller, and is counted as it is."""

    async def refuse(request: bytes, context: Any) -> AsyncIterator[bytes]:
        await context.abort(grpc.StatusCode.NOT_FOUND, "not here")
        yield b""

    handlers = {"Refuse": grpc.unary_stream_rpc_method_handler(refuse, bytes, bytes)}
    metrics = Metrics()
    replies = UntakenReplies(ReplyLimits(), lambda peer: True)
    layers: list[Layer] = [Outcomes(metrics), OpenStreams(100, replies)]
    decoding = Decoding(Receiving(ReceiveLimits()), replies, metrics.no_model)
    server = grpc.aio.server(interceptors=[InterceptorChain([], layers, decoding)])
    server.add_generic_rpc_handlers((grpc.method_handlers_generic_handler("t.T", handlers),))
    port = server.add_insecure_port("127.0.0.1:0")
    await server.start()
    try:
        async with grpc.aio.insecure_channel(f"127.0.0.1:{port}") as channel:
            call: Any = channel.unary_stream("/t.T/Refuse")
            with pytest.raises(grpc.aio.AioRpcError, match="not here") as refusal:
                await call(b"").read()
    finally:
        await server.stop(None)
    assert refusal.value.code() is grpc.StatusCode.NOT_FOUND
    labels = {"grpc_type": "server_stream", "grpc_service": "t.T", "grpc_method": "Refuse"}
    handled = ("grpc_server_handled_total", labels | {"grpc_code": "NOT_FOUND"})
    assert metrics.registry.get_sample_value(*handled) == 1
