"""The gRPC server: its options, its services, and its address."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, NamedTuple

import grpc
from grpc_health.v1 import health_pb2, health_pb2_grpc

from ..addresses import is_unix, open_socket, target
from ..errors import ListenError
from ..settings import ConnectionLimits
from .core import make_core_server
from .definitions import ServiceDefinition
from .flow.places import spare_places
from .health import HealthService
from .interceptors.chain import InterceptorChain
from .reflection import ReflectionService

_HEALTH: Any = health_pb2.DESCRIPTOR.services_by_name["Health"]
_FRAME_BYTES = 1024 * 1024  # of HTTP/2; larger frames cost less CPU on large messages
# Calls that gRPC holds until the event loop comes to them. Beyond, it ends them as CANCELLED by
# itself, unseen; so these are many more than come while the loop is about something else.
_PENDING_CALLS = 1_024
_KEEPALIVE_SECONDS = 60  # a client that answers no ping is gone, and what waits for it is let go
_PING_SECONDS = 5  # between a client's own pings, at the least: many have one every ten
_NEVER_MS = 2**31 - 1  # gRPC's own word for it


class GrpcPort(NamedTuple):
    """A port that gRPC is served on."""

    flag: str  # of the setting that names it
    port: int  # 0: any free one
    credentials: grpc.ServerCredentials | None  # of its connections; None: plain text


def make_server(
    services: Sequence[ServiceDefinition],
    health: HealthService,
    interceptors: InterceptorChain,
    limits: ConnectionLimits,
    *,
    reflection: bool,
) -> grpc.aio.Server:
    """Return a server of these services, with health, and reflection if told, that does not listen
    yet."""
    # Of each port: gRPC counts their connections apart. `ConnectionPlaces` counts them together.
    places = limits.max_connections + spare_places(limits)
    server = make_core_server(
        [interceptors],
        [
            ("grpc.so_reuseport", 0),  # a second server on the port must fail
            ("grpc.max_allowed_incoming_connections", places),
            ("grpc.max_connection_idle_ms", int(1000 * limits.connection_idle_seconds)),
            ("grpc.max_connection_age_ms", _ms_or_never(limits.connection_age_seconds)),
            ("grpc.max_connection_age_grace_ms", _ms_or_never(limits.connection_age_grace_seconds)),
            ("grpc.max_concurrent_streams", limits.max_connection_calls),
            # gRPC's own count of what it has yet to clean up: a client that has more calls to make
            # than fit would be refused in the moment in which one of them ends.
            ("grpc.http.overload_protection", 0),
            ("grpc.max_receive_message_length", limits.max_message_bytes),
            # None is compressed: the bounds of what comes in count bytes on the wire.
            ("grpc.compression_enabled_algorithms_bitset", 1 << grpc.Compression.NoCompression),
            ("grpc.max_send_message_length", -1),  # replies are bounded at the door
            ("grpc.max_metadata_size", limits.max_metadata_bytes),
            ("grpc.absolute_max_metadata_size", limits.max_metadata_bytes),
            ("grpc.http2.max_frame_size", _FRAME_BYTES),
            # Or what gRPC reads of a message before it is asked for would grow with the link.
            ("grpc.http2.bdp_probe", 0),
            ("grpc.server_handshake_timeout_ms", int(1000 * limits.handshake_seconds)),
            ("grpc.http2.settings_timeout", int(1000 * limits.handshake_seconds)),
            ("grpc.keepalive_time_ms", 1000 * _KEEPALIVE_SECONDS),
            ("grpc.keepalive_permit_without_calls", 1),
            ("grpc.http2.min_ping_interval_without_data_ms", int(1000 * _PING_SECONDS)),
            ("grpc.server.max_pending_requests", _PENDING_CALLS),
            ("grpc.server.max_pending_requests_hard_limit", _PENDING_CALLS),
        ],
    )
    for service in services:
        service.add_to(server)
    registered: Any = server  # the stub knows blocking servers only
    health_pb2_grpc.add_HealthServicer_to_server(health, registered)
    if reflection:
        ReflectionService([*(service.descriptor for service in services), _HEALTH]).add_to(server)
    return server


def _ms_or_never(seconds: float) -> int:
    return max(1, int(1000 * seconds)) if seconds else _NEVER_MS


async def listen(server: grpc.aio.Server, host: str, served: Sequence[GrpcPort]) -> list[int]:
    """Listen on all ports of the address, and serve there.

    Returns the ports, which gRPC has chosen where they were 0. The only one of a Unix socket is 0.
    Raises `ListenError`.
    """
    # gRPC itself would say on standard error, in words of its own, why it can't listen, and would
    # keep the first port where the second one can't be had.
    for flag, port, _ in served:
        open_socket(host, port, "gRPC", "--host", flag).close()
    ports = [_add_port(server, target(host, port), tls) for _, port, tls in served]
    await server.start()
    return [0] if is_unix(host) else ports


def _add_port(
    server: grpc.aio.Server, address: str, credentials: grpc.ServerCredentials | None
) -> int:
    """Listen there, and return the port. Raises `ListenError`."""
    try:
        if credentials is None:
            return server.add_insecure_port(address)
        return server.add_secure_port(address, credentials)
    except RuntimeError as error:
        raise ListenError(f"can't serve gRPC on {address}: {error}") from error
