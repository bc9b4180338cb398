"""Reflection, as grpcurl and its like ask for it: `grpc.reflection.v1` and `v1alpha`.

Both have the same messages on the wire. No package has v1's, so it is described as v1alpha under
another name, and kept out of the process's pool of descriptors: another package's v1 may be there.
It lists only what is served, and not all protos that happen to be loaded.
"""

from __future__ import annotations

from collections.abc import AsyncIterator, Collection, Iterable, Iterator
from typing import Any, TypeAlias

import grpc
from google.protobuf import text_format
from google.protobuf.descriptor import FileDescriptor, ServiceDescriptor
from google.protobuf.descriptor_pb2 import DescriptorProto, EnumDescriptorProto, FileDescriptorProto
from grpc_reflection.v1alpha import reflection_pb2 as pb

from ..errors import InvalidInput
from .context import Context

_V1ALPHA: Any = pb.DESCRIPTOR.services_by_name["ServerReflection"]
V1ALPHA = _V1ALPHA.full_name
V1 = V1ALPHA.replace("v1alpha", "v1")
_REQUEST_BYTES = 4 * 1024  # a name, and what stands around it; it is sent back with the answer

Extension: TypeAlias = "tuple[str, int]"  # the extended type's name, and the field's number


class ReflectionService:
    """Answers from tables that are made once."""

    def __init__(self, services: Collection[ServiceDescriptor]):
        """Take the services that are served beside this one."""
        protos: dict[str, FileDescriptorProto] = {}
        for service in (*services, _V1ALPHA):
            _collect(service.file, protos)
        renamed = _v1()
        protos[renamed.name] = renamed
        names = {*(service.full_name for service in services), V1, V1ALPHA}
        self._services = pb.ListServiceResponse(
            service=[pb.ServiceResponse(name=name) for name in sorted(names)]
        )
        self._files = {name: _with_dependencies(name, protos) for name in protos}
        self._symbols = {s: name for name, file in protos.items() for s in _symbols(file)}
        self._extensions = {e: name for name, file in protos.items() for e in _extensions(file)}

    def add_to(self, server: grpc.aio.Server) -> None:
        """Serve reflection under both of its names."""
        method = grpc.stream_stream_rpc_method_handler(
            self.ServerReflectionInfo,
            request_deserializer=_decode,
            response_serializer=pb.ServerReflectionResponse.SerializeToString,
        )
        for name in (V1, V1ALPHA):
            server.add_registered_method_handlers(name, {"ServerReflectionInfo": method})

    async def ServerReflectionInfo(
        self, requests: AsyncIterator[pb.ServerReflectionRequest], context: Context
    ) -> AsyncIterator[pb.ServerReflectionResponse]:
        """Give one answer at a time: a client that doesn't read them is asked no further."""
        async for request in requests:
            answer = self._answer(request)
            answer.valid_host = request.host
            answer.original_request.CopyFrom(request)
            yield answer

    def _answer(self, request: pb.ServerReflectionRequest) -> pb.ServerReflectionResponse:
        kind = request.WhichOneof("message_request")
        if kind == "list_services":
            return pb.ServerReflectionResponse(list_services_response=self._services)
        if kind == "file_by_filename":
            return self._file(request.file_by_filename)
        if kind == "file_containing_symbol":
            return self._file(self._symbols.get(request.file_containing_symbol))
        if kind == "file_containing_extension":
            asked = request.file_containing_extension
            return self._file(self._extensions.get((asked.containing_type, asked.extension_number)))
        if kind == "all_extension_numbers_of_type":
            return self._numbers(request.all_extension_numbers_of_type)
        return _error(grpc.StatusCode.INVALID_ARGUMENT, "the request asks for nothing")

    def _file(self, name: str | None) -> pb.ServerReflectionResponse:
        if name is None or name not in self._files:
            return _error(grpc.StatusCode.NOT_FOUND, "not found")
        return pb.ServerReflectionResponse(file_descriptor_response=self._files[name])

    def _numbers(self, message: str) -> pb.ServerReflectionResponse:
        if message not in self._symbols:
            return _error(grpc.StatusCode.NOT_FOUND, "not found")
        numbers = [number for extended, number in self._extensions if extended == message]
        return pb.ServerReflectionResponse(
            all_extension_numbers_response=pb.ExtensionNumberResponse(
                base_type_name=message, extension_number=numbers
            )
        )


def _decode(data: bytes) -> pb.ServerReflectionRequest:
    if len(data) > _REQUEST_BYTES:
        raise InvalidInput("", f"must be at most {_REQUEST_BYTES} bytes, got {len(data)}")
    return pb.ServerReflectionRequest.FromString(data)


def _error(code: grpc.StatusCode, message: str) -> pb.ServerReflectionResponse:
    number: Any = code.value[0]
    return pb.ServerReflectionResponse(
        error_response=pb.ErrorResponse(error_code=number, error_message=message)
    )


# -- the tables -----------------------------------------------------------------------------------


def _collect(file: FileDescriptor, protos: dict[str, FileDescriptorProto]) -> None:
    """Collect the file and all that it imports."""
    if file.name not in protos:
        proto = FileDescriptorProto()
        file.CopyToProto(proto)
        protos[file.name] = proto
        for imported in file.dependencies:
            _collect(imported, protos)


def _v1() -> FileDescriptorProto:
    proto = FileDescriptorProto()
    pb.DESCRIPTOR.CopyToProto(proto)
    text = text_format.MessageToString(proto).replace("v1alpha", "v1")
    return text_format.Parse(text, FileDescriptorProto())


def _with_dependencies(
    name: str, protos: dict[str, FileDescriptorProto]
) -> pb.FileDescriptorResponse:
    """Return the file, and then all that it imports, each once."""
    names = [name]
    for each in names:  # grows
        names += [imported for imported in protos[each].dependency if imported not in names]
    return pb.FileDescriptorResponse(
        file_descriptor_proto=[protos[each].SerializeToString() for each in names]
    )


def _symbols(file: FileDescriptorProto) -> Iterator[str]:
    """Give the full names of all that the file declares."""
    scope = file.package
    for name, message in _messages(scope, file.message_type):
        yield name
        for members in (message.field, message.oneof_decl, message.extension):
            yield from (f"{name}.{member.name}" for member in members)
        yield from _in_enums(name, message.enum_type)
    yield from _in_enums(scope, file.enum_type)
    yield from (f"{scope}.{extension.name}" for extension in file.extension)
    for service in file.service:
        yield f"{scope}.{service.name}"
        yield from (f"{scope}.{service.name}.{method.name}" for method in service.method)


def _extensions(file: FileDescriptorProto) -> Iterator[Extension]:
    messages = _messages(file.package, file.message_type)
    for declared in (file.extension, *(message.extension for _, message in messages)):
        for extension in declared:
            yield extension.extendee.removeprefix("."), extension.number


def _messages(
    scope: str, messages: Iterable[DescriptorProto]
) -> Iterator[tuple[str, DescriptorProto]]:
    """Give messages at all depths, with their full names."""
    for message in messages:
        name = f"{scope}.{message.name}"
        yield name, message
        yield from _messages(name, message.nested_type)


def _in_enums(scope: str, enums: Iterable[EnumDescriptorProto]) -> Iterator[str]:
    """Give the names of enums and of their values, which stand in the scope of their enum, as in
    C++."""
    for enum in enums:
        yield f"{scope}.{enum.name}"
        yield from (f"{scope}.{value.name}" for value in enum.value)
