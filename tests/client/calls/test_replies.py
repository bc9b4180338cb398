"""Whatever answers in a server's place, and whatever it says: a client raises its own errors."""

from __future__ import annotations

import logging
import math
import socket
from collections.abc import Callable, Iterator
from typing import Any

import grpc
import pytest
from google.protobuf.duration_pb2 import Duration
from google.protobuf.message import Message
from google.rpc import error_details_pb2, status_pb2
from hypothesis import HealthCheck, given
from hypothesis import settings as hypothesis_settings
from hypothesis import strategies as st

from bilstm.v1 import encoder_pb2 as pb
from bilstm_client import (
    DeadlineExceeded,
    EncoderError,
    InvalidInput,
    ModelNotFound,
    Overloaded,
    ServerError,
    Unavailable,
)
from tests.client.calls.raw_server import Answer, answering, status
from tests.client.clients import AnyClient
from tests.client.streams.sources import X


@pytest.fixture(autouse=True)
def quiet() -> Iterator[None]:
    """gRPC logs what it can't read."""
    logging.disable(logging.CRITICAL)
    yield
    logging.disable(logging.NOTSET)


class Liar:
    """A server that gives each call `answer`."""

    def __init__(self) -> None:
        self.answer = Answer()
        self.target = ""


@pytest.fixture
def liar() -> Iterator[Liar]:
    liar = Liar()
    with answering(lambda: liar.answer) as liar.target:
        yield liar


@pytest.fixture
def lied_to(connect: Callable[..., AnyClient], liar: Liar) -> AnyClient:
    return connect(liar.target, timeout_seconds=0.5)


def details(code: int, *messages: Message) -> bytes:
    said = status_pb2.Status(code=code)
    for message in messages:
        said.details.add().Pack(message)
    return bytes(said.SerializeToString())


def retry(seconds: int) -> Message:
    info: Message = error_details_pb2.RetryInfo(retry_delay=Duration(seconds=seconds))
    return info


def violation(field: str) -> Message:
    bad: Message = error_details_pb2.BadRequest(
        field_violations=[
            error_details_pb2.BadRequest.FieldViolation(field=field, description="must be so")
        ]
    )
    return bad


def unreadable(code: int, kind: str) -> bytes:
    """Details of a kind that they are not."""
    said = status_pb2.Status(code=code)
    said.details.add(type_url=f"type.googleapis.com/google.rpc.{kind}", value=b"\xff\xff")
    return bytes(said.SerializeToString())


def page(status: bytes) -> Answer:
    """As a web server or a proxy answers."""
    return Answer([], [("x", b"y")], status, b"text/html", b"<html>no</html>")


STATUSES: dict[str, tuple[Answer, type[EncoderError]]] = {
    "unknown code": (status(99), ServerError),
    "no number": (status("abc"), ServerError),
    "negative": (status(-1), ServerError),
    "no status": (Answer(trailers=[]), ServerError),
    "message of no text": (status(13, b"\xff\xfe%FF"), ServerError),
    "huge message": (status(5, b"x" * 40_000), ModelNotFound),
    "message beyond all bounds": (status(5, b"x" * 200_000), ServerError),
    "details of no message": (status(8, b"", b"\xff\xff\xff"), Overloaded),
    "details of no bytes": (status(3, b"", b""), InvalidInput),
    "details of another code": (status(8, b"", details(5, retry(1))), Overloaded),
    "details that are others": (status(3, b"", unreadable(3, "BadRequest")), InvalidInput),
    "negative delay": (status(8, b"", details(8, retry(-5))), Overloaded),
    "endless delay": (status(8, b"", details(8, retry(2**62))), Overloaded),
    "unreadable delay": (status(14, b"", unreadable(14, "RetryInfo")), Unavailable),
    "huge index": (
        status(3, b"", details(3, violation(f"sequences[{'9' * 5000}].shape"))),
        InvalidInput,
    ),
    "bad gateway": (page(b"502"), Unavailable),
    "not found": (page(b"404"), ServerError),
    "a page": (page(b"200"), ServerError),
}


@pytest.mark.parametrize("case", STATUSES)
def test_status(case: str, lied_to: AnyClient, liar: Liar) -> None:
    """Every status, also none, is a typed error of calls and streams. (Who answers a stream before
    he has read it may have ended it before all of it was seen.)"""
    liar.answer, kind = STATUSES[case]
    with pytest.raises(EncoderError) as caught:
        lied_to.encode(X)
    assert type(caught.value) is kind
    assert caught.value.retry_after_seconds is None
    with pytest.raises((kind, Unavailable)):
        list(lied_to.encode_stream([X]))


def test_delays_of_both_kinds(lied_to: AnyClient, liar: Liar) -> None:
    """When to come again is read from the details, or from gRPC's own header."""
    liar.answer = status(8, b"", details(8, retry(7)))
    with pytest.raises(Overloaded) as caught:
        lied_to.encode(X)
    assert caught.value.retry_after_seconds == 7
    liar.answer = status(8)
    liar.answer.trailers.append(("grpc-retry-pushback-ms", b"1500"))
    with pytest.raises(Overloaded) as caught:
        lied_to.encode(X)
    assert caught.value.retry_after_seconds == 1.5
    liar.answer.trailers[-1] = ("grpc-retry-pushback-ms", b"-1")
    with pytest.raises(Overloaded) as caught:
        lied_to.encode(X)
    assert caught.value.retry_after_seconds is None
    liar.answer.trailers[-1] = ("grpc-retry-pushback-ms", b"soon")
    with pytest.raises(ServerError):
        lied_to.encode(X)


def tensor(data_type: int, shape: list[int], size: int) -> pb.Tensor:
    kind: Any = data_type
    return pb.Tensor(data_type=kind, shape=shape, data=bytes(size))


WHOLE = tensor(1, [7, 2], 56)
ENCODINGS: dict[str, list[pb.Encoding]] = {
    "none": [],
    "one too many": [pb.Encoding(states=WHOLE), pb.Encoding(states=WHOLE)],
    "nothing of what was asked": [pb.Encoding(final=tensor(1, [2], 8))],
    "bytes that are missing": [pb.Encoding(states=tensor(1, [7, 2], 55))],
    "bytes that are too many": [pb.Encoding(states=WHOLE, final=tensor(1, [2], 9))],
    "negative sizes": [pb.Encoding(states=tensor(1, [-7, -2], 56))],
    "sizes beyond all bounds": [pb.Encoding(states=tensor(1, [2**62, 0], 0))],
    "sizes without end": [pb.Encoding(states=tensor(1, [1] * 40, 4))],
    "unknown type": [pb.Encoding(states=WHOLE, mean=tensor(77, [1], 4))],
    "other steps": [pb.Encoding(states=tensor(1, [6, 2], 48))],
    "no steps": [pb.Encoding(states=tensor(1, [], 4))],
}


ROWS = pb.OutputInfo(name="labels", per_step=True, ids=3)
HALVES = pb.OutputInfo(name="labels", per_step=True, ids=3, windows=[pb.Window(add=-1, stride=2)])
SPARSE = pb.OutputInfo(name="labels", per_step=True, ids=3, sparse=True)
NAMED: dict[str, tuple[pb.OutputInfo, int, bool]] = {  # rows, and whether that can be
    "a row for each step": (ROWS, 7, True),
    "a row less": (ROWS, 6, False),
    "a row for every second step": (HALVES, 4, True),
    "a row of those less": (HALVES, 3, False),
    "some of the rows": (SPARSE, 3, True),
}


@pytest.mark.parametrize("case", NAMED)
def test_rows(case: str, lied_to: AnyClient, liar: Liar) -> None:
    """An output has as many rows as the reply itself says that it has of such a sequence."""
    info, rows, is_good = NAMED[case]
    named = pb.Encoding(named=[pb.NamedTensor(name="labels", tensor=tensor(4, [rows], 4 * rows))])
    response = pb.EncodeResponse(encodings=[named], outputs=[info])
    liar.answer = Answer([response.SerializeToString()])
    if is_good:
        assert lied_to.encode(X, outputs="labels").labels.shape == (rows,)
    else:
        with pytest.raises(ServerError, match=f"labels of shape \\[{rows}\\], not of"):
            lied_to.encode(X, outputs="labels")


@pytest.mark.parametrize("case", ENCODINGS)
def test_reply(case: str, lied_to: AnyClient, liar: Liar) -> None:
    """A reply that contradicts itself, or what was asked, is a ServerError that says how."""
    response = pb.EncodeResponse(encodings=ENCODINGS[case])
    liar.answer = Answer([response.SerializeToString()])
    with pytest.raises(ServerError, match="the server's reply is broken: ") as caught:
        lied_to.encode(X)
    assert caught.value.code is grpc.StatusCode.INTERNAL


def test_reply_of_no_message(lied_to: AnyClient, liar: Liar) -> None:
    """A reply that is no message at all, or missing, is a typed error."""
    for messages in ([b"\xff\xff\xff"], []):
        liar.answer = Answer(messages)
        calls: list[Callable[[], object]] = [
            lambda: lied_to.encode(X),
            lied_to.list_models,
            lied_to.get_model,
            lambda: list(lied_to.encode_stream([X])),
        ]
        for call in calls:
            with pytest.raises(ServerError):
                call()


def test_absurd_timing(lied_to: AnyClient, liar: Liar) -> None:
    """Durations that are none are no reason to lose a result."""
    timing = pb.Timing(queue=Duration(seconds=2**62, nanos=-(2**31)), compute=Duration(seconds=-1))
    response = pb.EncodeResponse(encodings=[pb.Encoding(states=WHOLE)], timing=timing)
    liar.answer = Answer([response.SerializeToString()])
    assert lied_to.encode(X).timing.queue_seconds > 1e18


def states(*shape: int, first_step: int = 0, data_type: int = 1, last: bool = True) -> Any:
    """A part of a reply, of zeros."""
    size = math.prod(shape) * (4 if data_type == 1 else 2)
    encoding = pb.Encoding(states=tensor(data_type, list(shape), size))
    return pb.EncodingChunk(first_step=first_step, encoding=encoding, last=last)


def error(**values: Any) -> pb.EncodingChunk:
    return pb.EncodingChunk(error=pb.SequenceError(**values), last=True)


BROKEN = pb.Encoding(states=tensor(1, [7, 2], 1))
BROKEN_FINAL = pb.Encoding(states=WHOLE, final=tensor(1, [7], 2))
CHUNKS: dict[str, list[pb.EncodingChunk]] = {
    "bytes that are missing": [pb.EncodingChunk(encoding=BROKEN, last=True)],
    "no steps": [states(last=True)],
    "a step before the first": [states(7, 2, first_step=-(2**63))],
    "steps that are missing": [states(1, 2, first_step=3)],
    "other width": [states(1, 2, last=False), states(6, 3, first_step=1)],
    "other type": [states(1, 2, last=False), states(6, 2, first_step=1, data_type=2)],
    "other outputs": [pb.EncodingChunk(encoding=BROKEN_FINAL, last=True)],
    "nothing of what was asked": [pb.EncodingChunk(last=True)],
    "steps that it has not": [states(8, 2)],
    "more steps at the end": [states(7, 2, last=False), states(1, 2, first_step=7)],
    "an error of no error": [error(code=0)],
    "an error of no code": [error(code=99, retry_delay=Duration(seconds=2**62))],
}


@pytest.mark.parametrize("case", CHUNKS)
def test_reply_to_a_stream(case: str, lied_to: AnyClient, liar: Liar) -> None:
    """The same of what a stream is told, as soon as it is seen."""
    opened = pb.EncodeStreamResponse(opened=pb.StreamOpened())
    chunks = pb.EncodeStreamResponse(chunks=CHUNKS[case])
    liar.answer = Answer([opened.SerializeToString(), chunks.SerializeToString()])
    with pytest.raises((ServerError, Unavailable)):
        list(lied_to.encode_stream([X]))


@given(data=st.binary(max_size=200), code=st.integers(0, 20))
@hypothesis_settings(
    max_examples=60,
    deadline=None,
    derandomize=True,
    suppress_health_check=[HealthCheck.function_scoped_fixture],
)
def test_any_bytes(data: bytes, code: int, lied_to: AnyClient, liar: Liar) -> None:
    """Whatever bytes are a reply, they are one, or a typed error."""
    liar.answer = Answer([data], trailers=[("grpc-status", str(code).encode())])
    with pytest.raises(EncoderError):
        lied_to.encode(X)


def test_deadline(connect: Callable[..., AnyClient]) -> None:
    """A server that takes the connection and says nothing is a DeadlineExceeded of calls."""
    with socket.create_server(("127.0.0.1", 0)) as mute:
        client = connect(f"127.0.0.1:{mute.getsockname()[1]}", timeout_seconds=0.5)
        with pytest.raises(DeadlineExceeded):
            client.encode(X)
