"""Callers with certificates and tokens, and how their calls end."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import grpc
import numpy as np
from grpc_reflection.v1alpha import reflection_pb2

from bilstm import tensors
from bilstm.v1 import encoder_pb2 as pb
from bilstm.v1 import encoder_pb2_grpc
from bilstm_server.app import App
from bilstm_server.rpc.reflection import V1ALPHA
from bilstm_server.settings import Settings
from tests.security.authority import Authority, Files
from tests.support.waiting import HANGS_AFTER_SECONDS

Metadata = tuple[tuple[str, str], ...]
OWN_CONNECTION = ("grpc.use_local_subchannel_pool", 1)
REQUEST = pb.EncodeRequest(sequences=[tensors.encode(np.ones((3, 5), "<f4"))])


def bearer(token: str) -> Metadata:
    return (("authorization", f"Bearer {token}"),)


def write_tokens(path: Path, *lines: str) -> Path:
    path.write_text("".join(f"{line}\n" for line in lines))
    path.chmod(0o600)
    return path


@asynccontextmanager
async def running(settings: Settings) -> AsyncIterator[App]:
    """A server in the test's own loop, ready."""
    async with App(settings) as app:
        await app.load()
        yield app


def secure_channel(
    app: App,
    authority: Authority | None = None,
    own: Files | None = None,
    name: str = "localhost",
    port: int | None = None,
) -> grpc.aio.Channel:
    """A connection of its own over TLS, to a server that `authority` vouches for, to --port or
    another one; `own` is the caller's certificate."""
    key, chain = own.pair if own is not None else (None, None)
    roots = authority.certificate if authority is not None else None
    credentials = grpc.ssl_channel_credentials(roots, key, chain)
    options = [OWN_CONNECTION, ("grpc.ssl_target_name_override", name)]
    target = f"127.0.0.1:{app.port if port is None else port}"
    return grpc.aio.secure_channel(target, credentials, options=options)


def ports_of(app: App) -> dict[str, int]:
    """Both ports of a server that has two, each under its flag."""
    assert app.tls_client_port is not None
    return {"--port": app.port, "--tls-client-port": app.tls_client_port}


def plain_channel(app: App) -> grpc.aio.Channel:
    return grpc.aio.insecure_channel(f"127.0.0.1:{app.port}", options=[OWN_CONNECTION])


def stub_of(channel: grpc.aio.Channel) -> Any:
    return encoder_pb2_grpc.EncoderServiceStub(channel)


async def outcome(call: Any) -> grpc.StatusCode:
    """The status that a call ends with."""
    try:
        await call
    except grpc.aio.AioRpcError as error:
        return error.code()
    return grpc.StatusCode.OK


async def encode_outcome(channel: grpc.aio.Channel, metadata: Metadata = ()) -> grpc.StatusCode:
    """The status that a call of `Encode` ends with; the channel is closed then."""
    async with channel:
        call = stub_of(channel).Encode(REQUEST, timeout=HANGS_AFTER_SECONDS, metadata=metadata)
        return await outcome(call)


async def reflection_outcome(channel: grpc.aio.Channel, metadata: Metadata = ()) -> grpc.StatusCode:
    """The status that a call of reflection ends with."""
    asked = reflection_pb2.ServerReflectionRequest(list_services="")
    # One message, sent with the call: a stream that writes to an ended call would be INTERNAL.
    call: Any = channel.unary_stream(f"/{V1ALPHA}/ServerReflectionInfo")
    return await outcome(call(asked.SerializeToString(), metadata=metadata).read())


def sample(app: App, name: str, **labels: str) -> float:
    return app.metrics.registry.get_sample_value(name, labels) or 0.0
