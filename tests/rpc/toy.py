"""A second service, with messages and decoders of its own, and a server that lists it."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import grpc
import numpy as np
from google.protobuf import descriptor_pb2, descriptor_pool

from bilstm_server.app import App
from bilstm_server.engine.sequences import SequenceInput
from bilstm_server.errors import InvalidInput
from bilstm_server.rpc.context import Context
from bilstm_server.rpc.definitions import ServiceDefinition, TensorMethod
from bilstm_server.rpc.flow.untaken import UntakenReplies
from bilstm_server.serving.registry import ServedModel
from tests.support.servers import settings

TOY = "toy.v1.Toy"
DOUBLE, TELL, COUNT = (f"/{TOY}/{name}" for name in ("Double", "Tell", "Count"))
FOUR = np.arange(4, dtype="<i4").tobytes()


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
            x = SequenceInput((np.ones((3, 5), "<f4"),), frozenset({"final"}))
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
        return ServiceDefinition(
            descriptor=describe(),
            add_to=lambda server: server.add_registered_method_handlers(TOY, handlers),
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
