"""Deadlines and retries, as a scripted server sees them on the wire."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack
from typing import Any, cast

import grpc
import numpy as np
import pytest

from bilstm import tensors
from bilstm.v1 import encoder_pb2 as pb
from bilstm_client import (
    Cancelled,
    DeadlineExceeded,
    EncoderError,
    InvalidInput,
    ModelNotFound,
    Overloaded,
    PermissionDenied,
    ServerError,
    Unauthenticated,
    Unavailable,
)
from tests.client.calls.encodings import CALLS, INPUT_SIZE, X
from tests.client.clients import Connect


class Scripted(grpc.GenericRpcHandler):
    """Answers each method's calls with the statuses it is given, then with `reply`."""

    def __init__(self, reply: bytes, statuses: Sequence[grpc.StatusCode] = ()):
        self._reply = reply
        self._statuses = list(statuses)
        self.remaining: list[float | None] = []  # each call's seconds until its deadline
        self.sizes: list[int] = []  # each call's message, in bytes

    def service(
        self, handler_call_details: grpc.HandlerCallDetails
    ) -> grpc.RpcMethodHandler[bytes, bytes]:
        return grpc.unary_unary_rpc_method_handler(self._answer)

    def _answer(self, request: bytes, context: grpc.ServicerContext) -> bytes:
        self.remaining.append(context.time_remaining())
        self.sizes.append(len(request))
        if self._statuses:
            context.abort(self._statuses.pop(0), "as the script says")
        return self._reply


ONE_ENCODING = pb.EncodeResponse(
    encodings=[pb.Encoding(states=tensors.encode(np.zeros((len(X), 1), "f4")))]
).SerializeToString()
Script = Callable[..., tuple[Scripted, str]]


@pytest.fixture
def script() -> Iterator[Script]:
    """Starts raw servers."""
    with ExitStack() as stack:

        def start(*statuses: grpc.StatusCode, reply: bytes = ONE_ENCODING) -> tuple[Scripted, str]:
            scripted = Scripted(reply, statuses)
            pool = stack.enter_context(ThreadPoolExecutor(4))
            server = grpc.server(pool, [scripted])
            port = server.add_insecure_port("127.0.0.1:0")
            server.start()
            stack.callback(lambda: server.stop(None).wait())
            return scripted, f"127.0.0.1:{port}"

        yield start


def test_outputs_of_a_newer_server(connect: Connect, script: Script) -> None:
    """An output that the client does not know is left out of a model's."""
    model = pb.Model(outputs=[pb.OUTPUT_STATES, cast(Any, 99), pb.OUTPUT_MAX])
    _, target = script(reply=pb.GetModelResponse(model=model).SerializeToString())
    assert connect(target).get_model().outputs == ("states", "max")


@pytest.mark.parametrize("call", CALLS)
def test_every_call_has_a_deadline(call: str, connect: Connect, script: Script) -> None:
    """A call carries its own timeout, else its client's, else one of 30 s."""
    scripted, target = script(reply=ONE_ENCODING if call.startswith("encode") else b"")
    CALLS[call](connect(target))
    CALLS[call](connect(target, timeout_seconds=2000.0))
    CALLS[call](connect(target), timeout_seconds=1000.0)
    default, of_client, of_call = scripted.remaining
    # gRPC rounds up by as much as 1 % on the way.
    assert default is not None
    assert 0 < default < 31
    assert of_client is not None
    assert 1100 < of_client < 2030
    assert of_call is not None
    assert 40 < of_call < 1030


def test_parts_share_a_deadline(connect: Connect, script: Script) -> None:
    """The timeout is for all of a batch's calls together: each has less of it than the last."""
    scripted, target = script(reply=ONE_ENCODING)  # as a model, it has no limits to speak of
    connect(target).encode_batch([X, X, X], timeout_seconds=1000.0)
    left = [cast(float, seconds) for seconds in scripted.remaining[1:]]  # the first is GetModel
    assert len(left) == 3
    assert max(left) < 1030


UNAVAILABLE, CANCELLED = grpc.StatusCode.UNAVAILABLE, grpc.StatusCode.CANCELLED


@pytest.mark.parametrize("steps", [7, 30_000], ids=["small", "over 256 KiB"])
@pytest.mark.parametrize("statuses", [(UNAVAILABLE, UNAVAILABLE), (CANCELLED, UNAVAILABLE)])
def test_retries(
    statuses: tuple[grpc.StatusCode, ...], steps: int, connect: Connect, script: Script
) -> None:
    """A call that the server can't take, or leaves unserved as it stops, is sent again, however
    large it is."""
    encoding = pb.Encoding(states=tensors.encode(np.zeros((steps, 1), "f4")))
    reply = pb.EncodeResponse(encodings=[encoding]).SerializeToString()
    scripted, target = script(*statuses, reply=reply)
    x = np.ones((steps, INPUT_SIZE), "f4")
    assert len(connect(target).encode(x).states) == steps
    assert len(scripted.sizes) == 3
    assert min(scripted.sizes) == max(scripted.sizes) >= x.nbytes


@pytest.mark.parametrize(("status", "kind"), [(UNAVAILABLE, Unavailable), (CANCELLED, Cancelled)])
def test_retries_end(
    status: grpc.StatusCode, kind: type[EncoderError], connect: Connect, script: Script
) -> None:
    """A server that goes on refusing is asked a few times, then the call is an error."""
    scripted, target = script(*[status] * 99)
    with pytest.raises(kind, match="as the script says") as caught:
        connect(target).encode(X)
    assert caught.value.code is status
    assert 3 <= len(scripted.sizes) <= 33


@pytest.mark.parametrize(
    ("status", "kind"),
    [
        (grpc.StatusCode.UNKNOWN, ServerError),
        (grpc.StatusCode.INTERNAL, ServerError),
        (grpc.StatusCode.UNIMPLEMENTED, ServerError),
        (grpc.StatusCode.FAILED_PRECONDITION, ServerError),
        (grpc.StatusCode.PERMISSION_DENIED, PermissionDenied),
        (grpc.StatusCode.UNAUTHENTICATED, Unauthenticated),
        (grpc.StatusCode.RESOURCE_EXHAUSTED, Overloaded),
        (grpc.StatusCode.INVALID_ARGUMENT, InvalidInput),
        (grpc.StatusCode.NOT_FOUND, ModelNotFound),
        (grpc.StatusCode.DEADLINE_EXCEEDED, DeadlineExceeded),
    ],
)
def test_other_statuses(
    status: grpc.StatusCode, kind: type[EncoderError], connect: Connect, script: Script
) -> None:
    """Any other status, also a proxy's without details, is a typed error, and is not retried."""
    scripted, target = script(status)
    with pytest.raises(EncoderError) as caught:
        connect(target).encode(X)
    assert type(caught.value) is kind
    assert caught.value.code is status
    assert "as the script says" in str(caught.value)
    assert len(scripted.sizes) == 1
