"""The one table from the service's errors to gRPC codes, details and drop reasons."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import timedelta

import grpc
from google.protobuf.message import Message
from google.rpc import error_details_pb2, status_pb2
from grpc_status import rpc_status

from bilstm.v1 import encoder_pb2 as pb

from ..errors import (
    DeadlineExpired,
    Failed,
    InvalidInput,
    Loading,
    ModelNotFound,
    OutOfMemory,
    Overloaded,
    PermissionDenied,
    ServiceError,
    Stalled,
    Unauthenticated,
    Unavailable,
)


@dataclass(frozen=True, slots=True)
class _Status(grpc.Status):
    code: grpc.StatusCode
    details: str
    trailing_metadata: tuple[tuple[str, str | bytes], ...]


@dataclass(frozen=True, slots=True)
class _Row:
    code: grpc.StatusCode
    reason: str  # of `bilstm_dropped_total`


# The row of the most special class counts.
_TABLE: dict[type[ServiceError], _Row] = {
    InvalidInput: _Row(grpc.StatusCode.INVALID_ARGUMENT, "invalid"),
    ModelNotFound: _Row(grpc.StatusCode.NOT_FOUND, "invalid"),
    Unauthenticated: _Row(grpc.StatusCode.UNAUTHENTICATED, "unauthorized"),
    PermissionDenied: _Row(grpc.StatusCode.PERMISSION_DENIED, "unauthorized"),
    Overloaded: _Row(grpc.StatusCode.RESOURCE_EXHAUSTED, "overloaded"),
    DeadlineExpired: _Row(grpc.StatusCode.DEADLINE_EXCEEDED, "expired"),
    Stalled: _Row(grpc.StatusCode.UNAVAILABLE, "stalled"),
    Loading: _Row(grpc.StatusCode.UNAVAILABLE, "loading"),
    Failed: _Row(grpc.StatusCode.UNAVAILABLE, "failed"),
    Unavailable: _Row(grpc.StatusCode.UNAVAILABLE, "draining"),
    OutOfMemory: _Row(grpc.StatusCode.RESOURCE_EXHAUSTED, "failed"),
}
_TEXT_BYTES = 800
_ANY_OTHER = _Row(grpc.StatusCode.INTERNAL, "failed")


def drop_reason(error: Exception) -> str:
    """Return the reason under which `bilstm_dropped_total` counts a request that ended so."""
    return _row(error).reason


def status_of(error: ServiceError) -> grpc.Status:
    """Return the status that the caller is sent: code, message, and google.rpc details."""
    status = _status(_row(error).code, str(error), _details(error))
    # What RetryInfo says, for gRPC's own retries; those of a call have no more time than it has.
    if isinstance(error, Overloaded):
        pause = max(1, round(1000 * error.retry_after_seconds))
        metadata = (*status.trailing_metadata, ("grpc-retry-pushback-ms", str(pause)))
        status = _Status(status.code, status.details, metadata)
    return status


def sequence_error(error: ServiceError) -> pb.SequenceError:
    """Return what a stream's client is sent in place of one sequence's result."""
    answer = pb.SequenceError(code=_row(error).code.value[0], message=_bounded(str(error)))
    if isinstance(error, InvalidInput):
        answer.field, answer.expected = _bounded(error.field), _bounded(error.expected)
    if (seconds := _retry_seconds(error)) is not None:
        answer.retry_delay.FromTimedelta(timedelta(seconds=seconds))
    return answer


def internal_sequence_error(error_id: str) -> pb.SequenceError:
    """Return what a stream's client is sent where a sequence failed by the server's own fault."""
    return pb.SequenceError(
        code=_ANY_OTHER.code.value[0], message=_internal(error_id), error_id=error_id
    )


def _internal(error_id: str) -> str:
    return f"internal error {error_id}; the server's log has the cause under this id"


def internal_status(error_id: str) -> grpc.Status:
    """Return the status of an error that is the server's own fault: an id that the log has too, and
    nothing of the inside."""
    details: list[Message] = [error_details_pb2.RequestInfo(request_id=error_id)]
    return _status(_ANY_OTHER.code, _internal(error_id), details)


def _status(code: grpc.StatusCode, message: str, details: list[Message]) -> grpc.Status:
    status = status_pb2.Status(code=code.value[0], message=_bounded(message))
    for detail in details:
        status.details.add().Pack(detail)
    return rpc_status.to_status(status)


def _bounded(text: str) -> str:
    """Return as much of a text as a status may have. Beyond 8 KiB of metadata gRPC gives its caller
    an error of its own; a text is there up to three times, once with each of its bytes as three."""
    data = text.encode("utf-8", "backslashreplace")
    if len(data) <= _TEXT_BYTES:
        return data.decode()
    return f"{data[:_TEXT_BYTES].decode(errors='ignore')}…"


def _row(error: Exception) -> _Row:
    return next((_TABLE[kind] for kind in type(error).__mro__ if kind in _TABLE), _ANY_OTHER)


def _details(error: ServiceError) -> list[Message]:
    if isinstance(error, InvalidInput):
        violation = error_details_pb2.BadRequest.FieldViolation(
            field=_bounded(error.field), description=_bounded(error.expected)
        )
        return [error_details_pb2.BadRequest(field_violations=[violation])]
    if (seconds := _retry_seconds(error)) is not None:
        retry = error_details_pb2.RetryInfo()
        retry.retry_delay.FromTimedelta(timedelta(seconds=seconds))
        return [retry]
    return []


def _retry_seconds(error: ServiceError) -> float | None:
    """Return when the same may be asked for again with another outcome, if ever."""
    return error.retry_after_seconds if isinstance(error, Overloaded | DeadlineExpired) else None
