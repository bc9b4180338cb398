"""`BaseClient`: what both clients hold and decide, without any I/O: the channel's options,
timeouts, being closed, remembered models, and grpc's errors as the client's own.
"""

from __future__ import annotations

import json
import math
from collections.abc import Iterator
from contextlib import contextmanager
from numbers import Real
from typing import Any, Generic, TypeVar

from .errors import InvalidInput, ModelNotFound, typed_errors
from .types import Model

DEFAULT_TIMEOUT_SECONDS = 30.0
_MAX_TIMEOUT_SECONDS = 1e8  # three years; gRPC's own times end a little later
_MAX_RETRIED_BYTES = 256 * 1024 * 1024

_RETRY_POLICY = {
    "maxAttempts": 5,
    "initialBackoff": "0.1s",
    "maxBackoff": "2s",
    "backoffMultiplier": 2,
    # A server that stops ends the calls that it had not yet seen as CANCELLED. No call changes
    # anything on the server, so trying again is safe. What the caller cancels is not retried.
    "retryableStatusCodes": ["UNAVAILABLE", "CANCELLED"],
}
_SERVICE = "bilstm.v1.EncoderService"
_SERVICE_CONFIG = {
    "methodConfig": [
        {"name": [{"service": _SERVICE}], "retryPolicy": _RETRY_POLICY},
        # The client itself resends what a stream was not answered, which gRPC does not know: it
        # would keep all that was sent.
        {"name": [{"service": _SERVICE, "method": "EncodeStream"}]},
    ]
}
STREAM_METHOD = f"/{_SERVICE}/EncodeStream"
CHANNEL_OPTIONS: list[tuple[str, Any]] = [
    ("grpc.max_receive_message_length", -1),  # the server bounds its replies
    ("grpc.max_send_message_length", -1),  # and refuses requests that are too large
    ("grpc.http2.max_frame_size", 1024 * 1024),
    ("grpc.per_rpc_retry_buffer_size", _MAX_RETRIED_BYTES),
    ("grpc.service_config", json.dumps(_SERVICE_CONFIG)),
    # A stream that waits for its results has no deadline by which it would notice a dead peer.
    ("grpc.keepalive_time_ms", 60_000),
    ("grpc.keepalive_timeout_ms", 20_000),
    # As a stream's own pauses: gRPC's grow to two minutes, in which every call fails at once.
    ("grpc.initial_reconnect_backoff_ms", 100),
    ("grpc.max_reconnect_backoff_ms", 2000),
]

ModelKey = tuple[str, str]  # name and version, as the caller gives them
DEFAULT_MODEL: ModelKey = ("", "")
NO_SEQUENCES = slice(0, 0)


def finite_seconds(seconds: Any) -> float:
    """A timeout, if it is one: `TypeError` or `ValueError` if not."""
    if not isinstance(seconds, Real):
        raise TypeError(f"timeout_seconds must be a number, got {seconds!r}")
    if not math.isfinite(seconds):
        raise ValueError(f"timeout_seconds must be a finite number, got {seconds!r}")
    return min(float(seconds), _MAX_TIMEOUT_SECONDS)


S = TypeVar("S")  # how a client's streams run


class BaseClient(Generic[S]):
    """See the module."""

    def __init__(self, target: str, timeout_seconds: float):
        self.target = target
        self.streams: set[S] = set()  # that run
        self._timeout_seconds = finite_seconds(timeout_seconds)
        self._closed = False
        self._models: dict[ModelKey, Model] = {}  # whose limits batches are cut by

    @property
    def is_closed(self) -> bool:
        """Whether `close` was called."""
        return self._closed

    def _check_open(self) -> None:
        if self._closed:
            raise ValueError("the client is closed")

    def _begin(self, timeout_seconds: float | None) -> float:
        """What every call does first. Returns its timeout."""
        self._check_open()
        return self._timeout_seconds if timeout_seconds is None else finite_seconds(timeout_seconds)

    @contextmanager
    def calling(self, key: ModelKey = DEFAULT_MODEL, part: slice = NO_SEQUENCES) -> Iterator[None]:
        """Around one RPC, for the model of `key` and the sequences `part` of the caller's batch:
        what it raises is the client's own, and a model that may have changed is forgotten."""
        try:
            with typed_errors(part):
                yield
        except (InvalidInput, ModelNotFound):
            self._models.pop(key, None)
            raise
        except ValueError:
            self._check_open()  # grpc's word for a channel that was closed since the call began
            raise
