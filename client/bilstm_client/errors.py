"""What a call can raise. Every error carries the gRPC code and the server's message.

EncoderError
├── InvalidInput        INVALID_ARGUMENT: `field` is the one at fault; or RESOURCE_EXHAUSTED by
│                       gRPC itself: the request is larger than the server takes
├── ModelNotFound       NOT_FOUND
├── Overloaded          RESOURCE_EXHAUSTED by the server: `retry_after_seconds`, if it said
├── DeadlineExceeded    DEADLINE_EXCEEDED
├── Unavailable         UNAVAILABLE, after the retries
├── Cancelled           CANCELLED; by the server, after the retries
└── ServerError         any other code: `error_id`, which the server's log has too

In a stream, one sequence may also fail on this side. Each error of one sequence has its `index` and
`key`.

NotAnArray (TypeError)  what was given as a sequence, or as a chunk of it, is no array of numbers
NotSaved (OSError)      its states can't be written to the file that `save_states` named
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any, TypeVar

import grpc
from google.protobuf.message import Message
from google.rpc import error_details_pb2, status_pb2
from grpc_status import rpc_status

from bilstm.v1 import encoder_pb2 as pb


class EncoderError(Exception):
    """Base of all that a call raises."""

    def __init__(self, code: grpc.StatusCode, message: str):
        super().__init__(message)
        self.code = code
        self.message = message
        self.index: int | None = None  # in a stream, of one sequence: its place in the source
        self.key: Any = None  # and its key; without pairs its place, too

    def __str__(self) -> str:
        return f"{self.code.name}: {self.message}"


class InvalidInput(EncoderError):
    """A field of the request is not what it must be; `field` is its path, such as
    `sequences[3].shape`, and `expected` what the server says of it."""

    def __init__(self, code: grpc.StatusCode, message: str, field: str = "", expected: str = ""):
        super().__init__(code, message)
        self.field = field
        self.expected = expected


class ModelNotFound(EncoderError):
    """The server has no such model or version."""


class Overloaded(EncoderError):
    """The server's queue is full, or its memory."""

    def __init__(
        self, code: grpc.StatusCode, message: str, retry_after_seconds: float | None = None
    ):
        super().__init__(code, message)
        self.retry_after_seconds = retry_after_seconds


class DeadlineExceeded(EncoderError):
    """There was no answer within the timeout."""


class Unavailable(EncoderError):
    """No server could be reached, or it is loading or draining."""


class Cancelled(EncoderError):
    """The call was cancelled."""


class ServerError(EncoderError):
    """The server failed."""

    def __init__(self, code: grpc.StatusCode, message: str, error_id: str = ""):
        super().__init__(code, message)
        self.error_id = error_id


class NotAnArray(TypeError):
    """What a stream was given as a sequence, or as a chunk of it, is no array of numbers."""

    def __init__(self, message: str, index: int, key: Any):
        super().__init__(message)
        self.index = index  # its place in the source
        self.key = key  # without pairs its place, too


class NotSaved(OSError):
    """The states of one sequence of a stream can't be written: `errno`, `strerror` and `filename`
    tell why and where."""

    def __init__(self, error: OSError, filename: str | None, index: int, key: Any):
        super().__init__(error.errno, error.strerror or str(error), filename)
        self.index = index  # its place in the source
        self.key = key  # without pairs its place, too


# Why one sequence of a stream has no result: all of these have its `index` and `key`.
SequenceFailure = EncoderError | NotAnArray | NotSaved

_PLAIN: dict[grpc.StatusCode, type[EncoderError]] = {
    grpc.StatusCode.NOT_FOUND: ModelNotFound,
    grpc.StatusCode.DEADLINE_EXCEEDED: DeadlineExceeded,
    grpc.StatusCode.UNAVAILABLE: Unavailable,
    grpc.StatusCode.CANCELLED: Cancelled,
}
_CODES = {code.value[0]: code for code in grpc.StatusCode}


@contextmanager
def typed_errors(part: slice) -> Iterator[None]:
    """Turn grpc's error into one of this module's.

    `part`: which of the caller's sequences the request has, so that a violated field names the
    caller's own index.
    """
    try:
        yield
    except grpc.RpcError as error:
        raise _typed(error, part) from error


def sequence_error(error: pb.SequenceError, index: int) -> EncoderError:
    """Why the sequence of that index in a stream has no result."""
    code = _CODES.get(error.code, grpc.StatusCode.UNKNOWN)
    if kind := _PLAIN.get(code):
        return kind(code, error.message)
    if code is grpc.StatusCode.INVALID_ARGUMENT:
        return _invalid(code, _of_sequence(error.field, index), error.expected or error.message)
    if code is grpc.StatusCode.RESOURCE_EXHAUSTED:
        said = error.HasField("retry_delay")
        seconds = error.retry_delay.ToTimedelta().total_seconds() if said else None
        return Overloaded(code, error.message, seconds)
    return ServerError(code, error.message, error.error_id)


def _typed(error: Any, part: slice) -> EncoderError:
    code, message = error.code(), error.details() or ""
    if kind := _PLAIN.get(code):
        return kind(code, message)
    status = rpc_status.from_call(error)
    if code is grpc.StatusCode.INVALID_ARGUMENT:
        bad = _detail(status, error_details_pb2.BadRequest)
        if bad is None or not bad.field_violations:
            return InvalidInput(code, message)
        violation = bad.field_violations[0]
        field = violation.field.removeprefix("options.")  # of a stream; the caller has no other
        return _invalid(code, _shifted(field, part.start), violation.description)
    if code is grpc.StatusCode.RESOURCE_EXHAUSTED:
        if status is None and "larger than max" in message:  # gRPC's words, not the service's
            field = f"sequences[{part.start}]" if part.stop - part.start == 1 else "sequences"
            expected = f"the request is larger than the server takes: {message}"
            return _invalid(code, field, expected)
        retry = _detail(status, error_details_pb2.RetryInfo)
        seconds = None if retry is None else retry.retry_delay.ToTimedelta().total_seconds()
        return Overloaded(code, message, seconds)
    info = _detail(status, error_details_pb2.RequestInfo)
    return ServerError(code, message, info.request_id if info else "")


def _invalid(code: grpc.StatusCode, field: str, expected: str) -> InvalidInput:
    return InvalidInput(code, f"{field}: {expected}" if field else expected, field, expected)


M = TypeVar("M", bound=Message)


def _detail(status: status_pb2.Status | None, kind: type[M]) -> M | None:
    for packed in status.details if status else ():
        detail = kind()
        if packed.Unpack(detail):
            return detail
    return None


def _of_sequence(field: str, index: int) -> str:
    """`steps.shape` of a chunk -> `sequences[3].shape` for index = 3, as calls say it."""
    name, _, rest = field.partition(".")
    place = f"initial_states[{index}]" if name == "initial_state" else f"sequences[{index}]"
    return f"{place}.{rest}" if rest else place


def _shifted(field: str, first: int) -> str:
    """`sequences[3].shape` -> `sequences[13].shape` for first = 10."""
    return re.sub(
        r"^(sequences|initial_states)\[(\d+)\]",
        lambda match: f"{match[1]}[{int(match[2]) + first}]",
        field,
    )
