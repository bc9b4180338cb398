"""Reflection, as tools ask for it: `buf curl` as a client that has v1's own messages, and each kind
of request by itself, which both versions answer alike.
"""

from __future__ import annotations

import subprocess
import sys
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import grpc
import pytest
from google.protobuf import descriptor_pb2, descriptor_pool
from grpc_reflection.v1alpha import reflection_pb2 as pb

from bilstm.v1 import encoder_pb2 as pb2
from bilstm_server.rpc.reflection import ReflectionService, _extensions
from tests.support.servers import RunningServer

BUF = Path(sys.executable).with_name("buf")
VERSIONS = ("grpc.reflection.v1", "grpc.reflection.v1alpha")
NOT_FOUND = grpc.StatusCode.NOT_FOUND.value[0]


def buf_curl(protocol: str, *arguments: str) -> str:
    command = [str(BUF), "curl", "--http2-prior-knowledge", "--protocol=grpc"]
    command += [f"--reflect-protocol={protocol}", *arguments]
    done = subprocess.run(command, check=True, capture_output=True, text=True, timeout=60)
    return done.stdout


@pytest.mark.parametrize("protocol", ["grpc-v1", "grpc-v1alpha"])
def test_a_tool_that_speaks_one_version(server: RunningServer, protocol: str) -> None:
    """A tool that speaks v1 alone, or v1alpha alone, lists all methods and calls one by what it is
    told."""
    url = f"http://{server.target}"
    methods = buf_curl(protocol, "--list-methods", url).split()
    assert "bilstm.v1.EncoderService/Encode" in methods
    assert {f"{v}.ServerReflection/ServerReflectionInfo" for v in VERSIONS} <= {*methods}
    reply = buf_curl(protocol, "--data={}", f"{url}/bilstm.v1.EncoderService/ListModels")
    assert '"name": "small"' in reply


@pytest.fixture(params=VERSIONS)
async def ask(request: pytest.FixtureRequest, server: RunningServer) -> AsyncIterator[Any]:
    """Asks, in one stream, and gives the answers."""
    async with grpc.aio.insecure_channel(server.target) as channel:
        call: Any = channel.stream_stream(
            f"/{request.param}.ServerReflection/ServerReflectionInfo",
            request_serializer=pb.ServerReflectionRequest.SerializeToString,
            response_deserializer=pb.ServerReflectionResponse.FromString,
        )

        async def answers(*requests: pb.ServerReflectionRequest) -> list[Any]:
            return [answer async for answer in call(iter(requests))]

        yield answers


def files_of(answer: pb.ServerReflectionResponse) -> list[str]:
    protos = answer.file_descriptor_response.file_descriptor_proto
    return [descriptor_pb2.FileDescriptorProto.FromString(proto).name for proto in protos]


@pytest.mark.parametrize(
    "symbol",
    [
        "bilstm.v1.EncoderService",
        "bilstm.v1.EncoderService.Encode",
        "bilstm.v1.EncodeRequest",
        "bilstm.v1.EncodeRequest.sequences",
        "bilstm.v1.Output",
        "bilstm.v1.OUTPUT_STATES",
    ],
)
async def test_every_kind_of_symbol(ask: Any, symbol: str) -> None:
    """Whatever is declared is found by its full name, with all that its file imports."""
    (answer,) = await ask(pb.ServerReflectionRequest(host="h", file_containing_symbol=symbol))
    assert files_of(answer)[0] == "bilstm/v1/encoder.proto"
    assert "google/protobuf/duration.proto" in files_of(answer)
    assert (answer.valid_host, answer.original_request.file_containing_symbol) == ("h", symbol)


@pytest.mark.parametrize(
    ("symbol", "file"),
    [
        ("grpc.health.v1.HealthCheckResponse.ServingStatus", "health.proto"),
        ("grpc.health.v1.HealthCheckResponse.SERVING", "health.proto"),
        ("grpc.reflection.v1.ServerReflectionRequest.message_request", "v1/reflection.proto"),
        ("grpc.reflection.v1alpha.ServerReflectionRequest", "v1alpha/reflection.proto"),
    ],
)
async def test_symbols_inside_of_others(ask: Any, symbol: str, file: str) -> None:
    """What is declared inside of a message is found too, and reflection describes itself."""
    (answer,) = await ask(pb.ServerReflectionRequest(file_containing_symbol=symbol))
    assert files_of(answer)[0].endswith(file)


async def test_files_and_extensions(ask: Any) -> None:
    """Files are found by name. No message here has extensions, which is told of those that there
    are, and nothing is found of others."""
    extension = pb.ExtensionRequest(containing_type="bilstm.v1.Tensor", extension_number=1)
    file, numbers, *absent = await ask(
        pb.ServerReflectionRequest(file_by_filename="google/protobuf/duration.proto"),
        pb.ServerReflectionRequest(all_extension_numbers_of_type="bilstm.v1.Tensor"),
        pb.ServerReflectionRequest(file_containing_extension=extension),
        pb.ServerReflectionRequest(file_by_filename="google/protobuf/any.proto"),
        pb.ServerReflectionRequest(file_containing_symbol="bilstm.v1.Nothing"),
        pb.ServerReflectionRequest(all_extension_numbers_of_type="bilstm.v1.Nothing"),
    )
    assert files_of(file) == ["google/protobuf/duration.proto"]
    assert numbers.all_extension_numbers_response.base_type_name == "bilstm.v1.Tensor"
    assert not numbers.all_extension_numbers_response.extension_number
    assert [answer.error_response.error_code for answer in absent] == [NOT_FOUND] * 4


async def test_a_request_for_nothing(ask: Any) -> None:
    """A request without a question is told so, and the stream goes on."""
    empty, listed = await ask(
        pb.ServerReflectionRequest(), pb.ServerReflectionRequest(list_services="*")
    )
    assert empty.error_response.error_code == grpc.StatusCode.INVALID_ARGUMENT.value[0]
    assert len(listed.list_services_response.service) == 4


async def test_a_long_name_is_refused(ask: Any) -> None:
    """What would be sent back with the answer is bounded."""
    with pytest.raises(grpc.aio.AioRpcError, match="at most 4096 bytes") as refusal:
        await ask(pb.ServerReflectionRequest(file_containing_symbol="x" * 5000))
    assert refusal.value.code() is grpc.StatusCode.INVALID_ARGUMENT


def test_another_v1_in_the_process() -> None:
    """v1 is in no pool of descriptors, where another package's v1 may be."""
    ReflectionService([pb2.DESCRIPTOR.services_by_name["EncoderService"]])
    with pytest.raises(KeyError):
        descriptor_pool.Default().FindServiceByName("grpc.reflection.v1.ServerReflection")


def test_extensions_of_a_file() -> None:
    """Extensions are found at a file's top and inside of messages."""

    def extension(number: int) -> descriptor_pb2.FieldDescriptorProto:
        return descriptor_pb2.FieldDescriptorProto(name="e", number=number, extendee=".p.M")

    inner = descriptor_pb2.DescriptorProto(name="I", extension=[extension(8)])
    outer = descriptor_pb2.DescriptorProto(name="O", nested_type=[inner])
    file = descriptor_pb2.FileDescriptorProto(
        package="p", extension=[extension(7)], message_type=[outer]
    )
    assert [*_extensions(file)] == [("p.M", 7), ("p.M", 8)]
