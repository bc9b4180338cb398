"""gRPC's errors as the client's own, whatever a server, or something in its place, has sent.
Details that can't be read, or that contradict the status, are left out.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any, TypeVar

import grpc
from google.protobuf import duration_pb2
from google.protobuf.message import DecodeError, Message
from google.rpc import error_details_pb2, status_pb2

from bilstm import tensors
from bilstm.v1 import encoder_pb2 as pb

from ..errors import (
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
from .target import Target
from .tls import Tls
from .unreached import unreached

_PLAIN: dict[grpc.StatusCode, type[EncoderError]] = {
    grpc.StatusCode.NOT_FOUND: ModelNotFound,
    grpc.StatusCode.DEADLINE_EXCEEDED: DeadlineExceeded,
    grpc.StatusCode.UNAVAILABLE: Unavailable,
    grpc.StatusCode.CANCELLED: Cancelled,
    grpc.StatusCode.UNAUTHENTICATED: Unauthenticated,
    grpc.StatusCode.PERMISSION_DENIED: PermissionDenied,
}
_CODES = {code.value[0]: code for code in grpc.StatusCode if code is not grpc.StatusCode.OK}
_DETAILS_KEY = "grpc-status-details-bin"
_PUSHBACK_KEY = "grpc-retry-pushback-ms"
_CHUNK_FIELDS = {"", *(field.name for field in pb.SequenceChunk.DESCRIPTOR.fields)}
_MORE_TIME = "(give the call more time: timeout_seconds=, --timeout-seconds)"
_MAX_SECONDS = 315_576_000_000  # of a Duration, by its definition


@contextmanager
def typed_errors(part: slice, target: Target, tls: Tls | None = None) -> Iterator[None]:
    """Turn grpc's error, or a reply that can't be read, into one of the client's own.

    `part` says which of the caller's sequences the request has, so that an error names the caller's
    index. `target` is where the request goes, and `tls` how that is secured.
    """
    try:
        yield
    except grpc.RpcError as error:
        # It says the same at length, and so stays only the context, which is not printed.
        raise through(target.proxy, _typed(error, part, target, tls)) from None
    except (tensors.TensorError, KeyError) as error:  # KeyError: of a code that grpc.aio has not
        raise broken_reply(str(error)) from error


def broken_reply(what: str) -> ServerError:
    """The error of a reply that contradicts itself, or what was requested."""
    return ServerError(grpc.StatusCode.INTERNAL, f"the server's reply is broken: {what}")


def sequence_error(error: pb.SequenceError, index: int) -> EncoderError:
    """The error of one sequence of a stream, as an error of the client's own."""
    code = _CODES.get(error.code, grpc.StatusCode.UNKNOWN)
    typed: EncoderError
    if kind := _PLAIN.get(code):
        typed = kind(code, error.message)
    elif code is grpc.StatusCode.INVALID_ARGUMENT:
        typed = _invalid(code, _of_sequence(error.field, index), error.expected or error.message)
    elif code is grpc.StatusCode.RESOURCE_EXHAUSTED:
        typed = Overloaded(code, error.message)
    else:
        typed = ServerError(code, error.message, error.error_id)
    if error.HasField("retry_delay"):
        typed.retry_after_seconds = _delay(error.retry_delay)
    return typed


def no_token_ids(error: InvalidInput, shape: list[int]) -> InvalidInput:
    """The error of integers that were sent as features to a model that takes token ids."""
    field = error.field.removesuffix("data_type") + "shape"
    return _invalid(error.code, field, f"must be [T] of token ids, got {shape}")


def seconds_of(duration: duration_pb2.Duration) -> float:
    """The duration in seconds, however large it is."""
    return duration.seconds + duration.nanos / 1e9


def _delay(duration: duration_pb2.Duration) -> float | None:
    """The delay in seconds, or None if it can't be waited for."""
    seconds = seconds_of(duration)
    return seconds if 0 <= seconds <= _MAX_SECONDS else None


def through(proxy: str, error: EncoderError) -> EncoderError:
    """The same error; if it may be the proxy's, its message names the proxy."""
    if proxy and isinstance(error, Unavailable | DeadlineExceeded):
        worded(error, f"{error.message} (through the proxy {proxy})")
    return error


def worded(error: EncoderError, message: str) -> None:
    """Give the error this message."""
    error.message = message
    error.args = (message,)


def _typed(error: Any, part: slice, target: Target, tls: Tls | None) -> EncoderError:
    code, message = error.code(), error.details() or ""
    status = _status(error, code)
    typed: EncoderError
    if code is grpc.StatusCode.UNAVAILABLE:
        kind, message = unreached(message, target, tls)
        typed = kind(code, message)
    else:
        typed = _by_code(code, message, status, part)
    retry = _detail(status, error_details_pb2.RetryInfo)
    if retry is not None:
        typed.retry_after_seconds = _delay(retry.retry_delay)
    else:
        typed.retry_after_seconds = _pushback(error)
    return typed


def _pushback(error: Any) -> float | None:
    """The delay that gRPC's own trailing metadata give, as a proxy may send them."""
    values = [value for key, value in error.trailing_metadata() or () if key == _PUSHBACK_KEY]
    if len(values) == 1 and re.fullmatch(r"[0-9]{1,9}", str(values[0])):
        return int(values[0]) / 1000
    return None


def _by_code(
    code: grpc.StatusCode, message: str, status: status_pb2.Status | None, part: slice
) -> EncoderError:
    if code is grpc.StatusCode.DEADLINE_EXCEEDED:
        return DeadlineExceeded(code, f"{message} {_MORE_TIME}")
    if kind := _PLAIN.get(code):
        return kind(code, message)
    if code is grpc.StatusCode.INVALID_ARGUMENT:
        bad = _detail(status, error_details_pb2.BadRequest)
        if bad is None or not bad.field_violations:
            return InvalidInput(code, message)
        violation = bad.field_violations[0]
        field = violation.field.removeprefix("options.")  # of a stream; the caller has no other
        expected = violation.description
        if part.stop > part.start:  # no stream; the server has no names of this client's methods
            expected = re.sub(r"\ba stream\b", "encode_stream", expected)
        return _invalid(code, _shifted(field, part.start), expected)
    if code is grpc.StatusCode.RESOURCE_EXHAUSTED:
        if status is None and "larger than max" in message:  # gRPC's words, not the service's
            field = f"sequences[{part.start}]" if part.stop - part.start == 1 else "sequences"
            instead = "; encode_stream sends it in pieces" if part.stop > part.start else ""
            expected = f"the request is larger than the server takes: {message}{instead}"
            return _invalid(code, field, expected)
        if "metadata size exceeds" in message:  # gRPC's words of what the server has said
            return ServerError(code, message)
        return Overloaded(code, message)
    info = _detail(status, error_details_pb2.RequestInfo)
    return ServerError(code, message, info.request_id if info else "")


def _invalid(code: grpc.StatusCode, field: str, expected: str) -> InvalidInput:
    return InvalidInput(code, f"{field}: {expected}" if field else expected, field, expected)


def _status(error: Any, code: grpc.StatusCode) -> status_pb2.Status | None:
    """The status with its details, if it can be read and has the same code."""
    for key, value in error.trailing_metadata() or ():
        if key == _DETAILS_KEY:
            try:
                status = status_pb2.Status.FromString(value)
            except (DecodeError, TypeError):
                return None
            return status if _CODES.get(status.code) is code else None
    return None


M = TypeVar("M", bound=Message)


def _detail(status: status_pb2.Status | None, kind: type[M]) -> M | None:
    for packed in status.details if status else ():
        detail = kind()
        try:
            if packed.Unpack(detail):
                return detail
        except DecodeError:
            continue
    return None


def _of_sequence(field: str, index: int) -> str:
    """`steps.shape` of a chunk -> `sequences[3].shape` for index = 3, as calls say it; an input's
    name stays: `features.shape` -> `sequences[3].features.shape`."""
    name, _, rest = field.partition(".")
    if name == "initial_state":
        place = f"initial_states[{index}]"
    else:
        place = f"sequences[{index}]" + ("" if name in _CHUNK_FIELDS else f".{name}")
    return f"{place}.{rest}" if rest else place


def _shifted(field: str, first: int) -> str:
    """`sequences[3].shape` -> `sequences[13].shape` for first = 10. By name or not, sequences and
    outputs are called by one name."""
    field = re.sub(r"^named_sequences\b", "sequences", field)
    field = re.sub(r"^output_names\b", "outputs", field)
    return re.sub(
        r"^(sequences|initial_states)\[([0-9]{1,9})\]",
        lambda match: f"{match[1]}[{int(match[2]) + first}]",
        field,
    )
