"""What a server that refuses, fails or is not there becomes: errors in words of the client."""

from __future__ import annotations

import pickle
import socket
from collections.abc import Iterator
from concurrent.futures import FIRST_COMPLETED, ThreadPoolExecutor, wait
from typing import Any

import grpc
import numpy as np
import pytest
import structlog

from bilstm_client import (
    DeadlineExceeded,
    EncoderError,
    InvalidInput,
    ModelNotFound,
    NotAnArray,
    NotSaved,
    Overloaded,
    ServerError,
    Unavailable,
)
from bilstm_server.errors import OutOfMemory
from tests.client.calls.encodings import CALLS, X, assert_same, sequence, wait_at
from tests.client.clients import AnyClient, Connect
from tests.support.engines import Gated
from tests.support.servers import RunningServer
from tests.support.waiting import HANGS_AFTER_SECONDS


def test_invalid_input(client: AnyClient) -> None:
    """Bad input is an InvalidInput with the code, the field and what was expected."""
    with pytest.raises(InvalidInput) as caught:
        client.encode(np.ones((2, 4), "f4"))
    assert caught.value.code is grpc.StatusCode.INVALID_ARGUMENT
    assert caught.value.field == "sequences[0].shape"
    assert "[T, 5]" in caught.value.expected
    assert isinstance(caught.value, EncoderError)
    assert isinstance(caught.value.__context__, grpc.RpcError)
    assert caught.value.__suppress_context__  # a traceback has the error once


@pytest.mark.parametrize("count", [1, 20])
def test_request_too_large(count: int, limited_client: AnyClient) -> None:
    """A sequence that no message can hold is an InvalidInput with its index, not an overload."""
    with pytest.raises(InvalidInput, match="larger than max") as caught:
        limited_client.encode_batch([*[sequence(1)] * (count - 1), sequence(100)])
    assert caught.value.code is grpc.StatusCode.RESOURCE_EXHAUSTED
    assert caught.value.field == f"sequences[{count - 1}]"
    assert "the request is larger than the server takes: " in caught.value.expected
    assert caught.value.expected.endswith("; encode_stream sends it in pieces")


def test_sequence_too_long(limited_client: AnyClient) -> None:
    """Where a sequence is longer than a call takes, the error names the method that takes it."""
    with pytest.raises(InvalidInput, match="encode_stream") as caught:
        limited_client.encode_batch([X, sequence(60)])
    assert caught.value.field == "sequences[1].shape"


def test_sequence_without_steps(limited_client: AnyClient) -> None:
    """No method takes a sequence without steps, and so the error names none."""
    with pytest.raises(InvalidInput, match=r"must have 1 to \d+ steps, got 0$"):
        limited_client.encode(sequence(1)[:0])


def test_model_not_found(client: AnyClient) -> None:
    """An unknown model or version is a ModelNotFound, whatever was asked of it."""
    for call in (
        lambda: client.encode(X, model="none"),
        lambda: client.encode_batch([X, X], version="9"),
        lambda: client.get_model("none"),
    ):
        with pytest.raises(ModelNotFound) as caught:
            call()
        assert caught.value.code is grpc.StatusCode.NOT_FOUND


def test_overloaded(connect: Connect, gated: tuple[RunningServer, Gated]) -> None:
    """What finds the queue full is an Overloaded that says when to try again."""
    server, gate = gated
    client = connect(server.target)
    x = sequence(4)
    with ThreadPoolExecutor() as pool:
        computing = pool.submit(client.encode, x)
        wait_at(gate)
        rivals = [pool.submit(client.encode, x) for _ in range(4)]  # more than the queue holds
        refused, _ = wait(rivals, HANGS_AFTER_SECONDS, FIRST_COMPLETED)
        gate.open()
        wait(rivals, HANGS_AFTER_SECONDS)  # those before leave room for another
        assert_same(computing.result(), client.encode(x))
        error = refused.pop().exception()
    assert isinstance(error, Overloaded)
    assert error.code is grpc.StatusCode.RESOURCE_EXHAUSTED
    assert error.retry_after_seconds is not None
    assert error.retry_after_seconds > 0


def test_out_of_memory(connect: Connect, gated: tuple[RunningServer, Gated]) -> None:
    """What the server's memory does not hold is an Overloaded that knows no better time."""

    def fail(staged: object) -> None:
        raise OutOfMemory("out of memory")

    server, gate = gated
    gate.engines["small"].fault = fail
    gate.open()
    with pytest.raises(Overloaded) as caught:
        connect(server.target).encode(X[:4])
    assert caught.value.retry_after_seconds is None


def test_deadline(connect: Connect, gated: tuple[RunningServer, Gated]) -> None:
    """A call without an answer within its timeout is a DeadlineExceeded."""
    client = connect(gated[0].target)
    with pytest.raises(DeadlineExceeded) as caught:
        client.encode(X[:4], timeout_seconds=0.1)
    assert caught.value.code is grpc.StatusCode.DEADLINE_EXCEEDED
    assert "timeout_seconds=" in str(caught.value)
    with pytest.raises(DeadlineExceeded):
        connect(gated[0].target, timeout_seconds=0.1).encode(X[:4])


@pytest.mark.parametrize(
    ("seconds", "kind"),
    [
        (float("nan"), ValueError),
        (float("inf"), ValueError),
        ("30", TypeError),
        (1j, TypeError),
        (True, TypeError),
    ],
)
def test_timeout_of_no_seconds(
    seconds: Any, kind: type[Exception], connect: Connect, server: RunningServer
) -> None:
    """A timeout that is no finite number is refused, by the constructor and by every call."""
    with pytest.raises(kind, match=r"^timeout_seconds must be a "):
        connect(server.target, timeout_seconds=seconds)
    with pytest.raises(TypeError, match=r"^timeout_seconds must be a number, got None"):
        connect(server.target, timeout_seconds=None)
    client = connect(server.target)
    for call in CALLS.values():
        with pytest.raises(kind, match=r"^timeout_seconds must be a "):
            call(client, timeout_seconds=seconds)


def test_server_error(connect: Connect, gated: tuple[RunningServer, Gated]) -> None:
    """A failure of the server is a ServerError whose id the server's log has, with the cause."""

    def fail(staged: object) -> None:
        raise RuntimeError("a secret of the engine")

    server, gate = gated
    gate.engines["small"].fault = fail
    gate.open()
    with structlog.testing.capture_logs() as events, pytest.raises(ServerError) as caught:
        connect(server.target).encode(X[:4])
    assert caught.value.code is grpc.StatusCode.INTERNAL
    assert caught.value.error_id
    assert "secret" not in str(caught.value)
    (logged,) = (e for e in events if e.get("error_id") == caught.value.error_id)
    assert "a secret of the engine" in str(logged["exc_info"])


@pytest.fixture
def nowhere() -> Iterator[str]:
    """An address that is taken, so that no one else gets it, and that nobody listens on."""
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        yield f"127.0.0.1:{taken.getsockname()[1]}"


def test_unavailable(connect: Connect, nowhere: str) -> None:
    """Where no server is, a call is an Unavailable."""
    with pytest.raises(Unavailable) as caught:
        connect(nowhere).encode(X)
    assert caught.value.code is grpc.StatusCode.UNAVAILABLE


def test_errors_cross_processes() -> None:
    """A pickled error, as a worker process hands it on, is as it was."""
    code = grpc.StatusCode.RESOURCE_EXHAUSTED
    invalid = InvalidInput(code, "sequences[3]: too large", "sequences[3]", "too large")
    invalid.index, invalid.key = 3, "a"
    errors: list[Exception] = [
        *(invalid, Overloaded(code, "full", 2.5), ServerError(code, "broken", "id7")),
        *(Unavailable(code, "gone"), NotAnArray("no array", 3, "a")),
        NotSaved(OSError(28, "No space left on device"), "x.npy", 3, "a"),
        NotSaved(OSError("odd"), None, 3, "a"),
    ]
    for error in errors:
        copied = pickle.loads(pickle.dumps(error))
        assert (type(copied), str(copied)) == (type(error), str(error))
        assert vars(copied) == vars(error)
