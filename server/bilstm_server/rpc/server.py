"""The gRPC server: its options, its services, and its address."""

from __future__ import annotations

from typing import Any

import grpc
from grpc_health.v1 import health, health_pb2_grpc

from bilstm.v1 import encoder_pb2, encoder_pb2_grpc

from ..addresses import is_unix, open_socket, target
from ..errors import ListenError
from .health import HealthService
from .interceptors import RpcInterceptor
from .reflection import ReflectionService
from .service import EncoderService

SERVICE = encoder_pb2.DESCRIPTOR.services_by_name["EncoderService"].full_name
_FRAME_BYTES = 1024 * 1024  # of HTTP/2; larger frames cost less CPU on large messages
# Calls that gRPC holds until the event loop comes to them. Beyond its own default, 1,000, it would
# end some of them as CANCELLED, unseen; here the queue refuses, and says why.
_PENDING_CALLS = 1_000_000
_KEEPALIVE_SECONDS = 60  # a client that answers no ping is gone, and what waits for it is let go
_PING_SECONDS = 30  # between a client's own pings, at the least


def make_server(
    service: EncoderService,
    health_service: HealthService,
    interceptor: RpcInterceptor,
    max_message_bytes: int,
) -> grpc.aio.Server:
    """A server with all services, reflection included, that does not listen yet."""
    server = grpc.aio.server(
        interceptors=[interceptor],
        options=[
            ("grpc.so_reuseport", 0),  # a second server on the port must fail
            ("grpc.max_receive_message_length", max_message_bytes),
            ("grpc.max_send_message_length", -1),  # replies are bounded at the door
            ("grpc.http2.max_frame_size", _FRAME_BYTES),
            ("grpc.keepalive_time_ms", 1000 * _KEEPALIVE_SECONDS),
            ("grpc.http2.min_ping_interval_without_data_ms", 1000 * _PING_SECONDS),
            ("grpc.server.max_pending_requests", _PENDING_CALLS),
            ("grpc.server.max_pending_requests_hard_limit", _PENDING_CALLS),
        ],
    )
    registered: Any = server
    encoder_pb2_grpc.add_EncoderServiceServicer_to_server(service, server)
    health_pb2_grpc.add_HealthServicer_to_server(health_service, registered)
    ReflectionService((SERVICE, health.SERVICE_NAME)).add_to(server)
    return server


async def listen(server: grpc.aio.Server, host: str, port: int) -> int:
    """Start it there. Returns the port, if that was 0; of a unix socket, 0. Raises
    `ListenError`."""
    # gRPC itself would say on standard error, in words of its own, why it can't listen.
    open_socket(host, port, "gRPC", "--host", "--port").close()
    try:
        port = server.add_insecure_port(target(host, port))
    except RuntimeError as error:
        raise ListenError(f"can't serve gRPC on {target(host, port)}: {error}") from error
    await server.start()
    return 0 if is_unix(host) else port
