"""How a client's channel is made, and which methods it has: balancing, keepalive, limits. Each of
gRPC's settings that matters here is said, and why.
"""

from __future__ import annotations

import json
from typing import Any

from grpc_health.v1 import health_pb2, health_pb2_grpc

from bilstm.v1 import encoder_pb2 as pb
from bilstm.v1 import encoder_pb2_grpc

from .target import Target
from .tls import Tls

_SERVICE = "bilstm.v1.EncoderService"
ANY_SERVICE = health_pb2.HealthCheckRequest()  # how the server is, all in all
_MAX_METADATA_BYTES = 64 * 1024  # an error's details may name many models


def service_config(target: Target) -> dict[str, Any]:
    """How gRPC chooses a server, of several."""
    config: dict[str, Any] = {}  # the client itself tries again: see `retries`
    if target.is_balanced:
        # A server that loads or drains says so, and gets no call. With one address there is no
        # other to go to: its own answer, which tells why, is worth more.
        config["loadBalancingConfig"] = [{"round_robin": {}}]
        config["healthCheckConfig"] = {"serviceName": _SERVICE}
    return config


def methods_of(channel: Any) -> dict[str, Any]:
    """What can be called over a channel, by the methods' names. A stream's requests are bytes."""
    encoder = encoder_pb2_grpc.EncoderServiceStub(channel)
    health: Any = health_pb2_grpc.HealthStub(channel)
    response = pb.EncodeStreamResponse.FromString
    return {
        "Encode": encoder.Encode,
        "EncodeStream": channel.stream_stream(f"/{_SERVICE}/EncodeStream", None, response),
        "ListModels": encoder.ListModels,
        "GetModel": encoder.GetModel,
        "Check": health.Check,
    }


def channel_options(
    target: Target, tls: Tls | None = None, *, checked: bool = True
) -> list[tuple[str, Any]]:
    """gRPC's settings. A channel that is not `checked` also asks servers that are not ready."""
    name = tls.server_name if tls is not None else ""
    return [
        *([("grpc.ssl_target_name_override", name)] if name else []),
        ("grpc.max_receive_message_length", -1),  # the server bounds its replies
        ("grpc.max_send_message_length", -1),  # and refuses requests that are too large
        ("grpc.max_metadata_size", _MAX_METADATA_BYTES),
        ("grpc.absolute_max_metadata_size", 2 * _MAX_METADATA_BYTES),
        ("grpc.http2.max_frame_size", 1024 * 1024),
        ("grpc.service_config", json.dumps(service_config(target))),
        ("grpc.inhibit_health_checking", int(not checked)),
        # A connection that nobody uses is asked, too: so middleboxes keep it, and one whose peer
        # has gone is mostly known to be dead before the next call goes over it. A call that does
        # has the time to be tried again on another.
        ("grpc.keepalive_time_ms", 30_000),
        ("grpc.keepalive_timeout_ms", 10_000),
        ("grpc.keepalive_permit_without_calls", 1),
        ("grpc.http2.max_pings_without_data", 0),  # no bound: a quiet stream may last
        # Shorter than a call waits for a server. gRPC's grow to two minutes, in which every call
        # fails at once.
        ("grpc.initial_reconnect_backoff_ms", 100),
        ("grpc.max_reconnect_backoff_ms", 1000),
        ("grpc.enable_http_proxy", int(not target.is_direct)),
    ]
