"""What a call can raise. Every `EncoderError` carries the gRPC code and the server's message.

EncoderError
├── InvalidInput        INVALID_ARGUMENT: `field` is the one at fault; or RESOURCE_EXHAUSTED by
│                       gRPC itself: the request is larger than the server takes
├── ModelNotFound       NOT_FOUND
├── Overloaded          RESOURCE_EXHAUSTED by the server: `retry_after_seconds`, if it said
├── DeadlineExceeded    DEADLINE_EXCEEDED
├── Unavailable         UNAVAILABLE, after the retries: `retry_after_seconds`, if it said; or
│   │                   a stream's server has given no sign of life within the timeout
│   └── NotTrusted      UNAVAILABLE by the client's own TLS: not what it was told to trust
├── Unauthenticated     UNAUTHENTICATED: the token, or that there is none; or none could be had
├── PermissionDenied    PERMISSION_DENIED: the caller is known, and may not do this
├── Cancelled           CANCELLED; by the server, after the retries
└── ServerError         any other code: `error_id`, which the server's log has too; or a reply
                        that can't be read

In a stream, one sequence may also fail in the client. Each error of one sequence has its `index`
and `key`.

NotAnArray (TypeError)  what was given as a sequence, or as a chunk of it, is no array of numbers
NotSaved (OSError)      its states can't be written to the file that `save_states` named

And of a result:

NotRequested (AttributeError, KeyError)  an output that the call did not ask for
"""

from __future__ import annotations

from typing import Any

import grpc


class EncoderError(Exception):
    """The base of all errors that a call raises, but those of wrong arguments."""

    code: grpc.StatusCode
    """The status that the server, or gRPC itself, has ended the call with."""
    message: str
    """What the server says of it."""
    retry_after_seconds: float | None
    """Seconds after which to try again, if the server has said so."""
    index: int | None
    """The place in its source of the sequence that a stream's error is about, from 0 on."""
    key: Any
    """The key of that sequence; without pairs its place in the source."""

    def __init__(self, code: grpc.StatusCode, message: str):
        super().__init__(message)
        self.code = code
        self.message = message
        self.retry_after_seconds = None
        self.index = None
        self.key = None

    def __str__(self) -> str:
        return f"{self.code.name}: {self.message}"

    def __reduce__(self) -> tuple[Any, ...]:  # errors cross processes
        return type(self), (self.code, self.message), self.__dict__


class InvalidInput(EncoderError):
    """A field of the request is not what it must be."""

    field: str
    """The path of the field, such as `sequences[3].shape`; empty if the server named none."""
    expected: str
    """What the server says that the field must be."""

    def __init__(self, code: grpc.StatusCode, message: str, field: str = "", expected: str = ""):
        super().__init__(code, message)
        self.field = field
        self.expected = expected


class ModelNotFound(EncoderError):
    """The server has no such model, or no such version of it."""


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
    """No server could be reached, or the one that was is loading or draining."""


class NotTrusted(Unavailable):
    """What answers has no certificate to trust: its signer, its name or its time is wrong, or it
    has no TLS at all. To try again would not help, unless the server is changed.
    """


class Unauthenticated(EncoderError):
    """The server does not know who calls: the token is missing or wrong, or there was none to send,
    because the caller's function has failed: the error's `__cause__` says how.
    """


class PermissionDenied(EncoderError):
    """The server knows who calls, and that this caller may not do this."""


class Cancelled(EncoderError):
    """The call was cancelled, by the server or because the client was closed."""


class ServerError(EncoderError):
    """The server failed, or its reply can't be read."""

    error_id: str
    """What the server's log calls the error; empty if the server has named none."""

    def __init__(self, code: grpc.StatusCode, message: str, error_id: str = ""):
        super().__init__(code, message)
        self.error_id = error_id


class NotAnArray(TypeError):
    """What a stream was given as a sequence, or as a chunk of one, is no array of numbers."""

    index: int
    """The place of the sequence in its source, from 0 on."""
    key: Any
    """The key of the sequence; without pairs its place in the source."""

    def __init__(self, message: str, index: int, key: Any):
        super().__init__(message)
        self.index = index
        self.key = key

    def __reduce__(self) -> tuple[Any, ...]:
        return type(self), (str(self), self.index, self.key)


class NotSaved(OSError):
    """The states of one sequence of a stream can't be written: `errno`, `strerror` and `filename`
    say why and where.
    """

    index: int
    """The place of the sequence in its source, from 0 on."""
    key: Any
    """The key of the sequence; without pairs its place in the source."""

    def __init__(self, error: OSError, filename: str | None, index: int, key: Any):
        super().__init__(error.errno, error.strerror or str(error), filename)
        self.index = index
        self.key = key

    def __reduce__(self) -> tuple[Any, ...]:
        error = OSError(self.errno, self.strerror)
        return type(self), (error, self.filename, self.index, self.key)


class NotRequested(AttributeError, KeyError):
    """A result has no such output, because the call did not request it: the message says how to.

    As it is an `AttributeError`, `hasattr` is False, and a `KeyError`, as the result may be asked
    for it as a mapping. Its `name` is that of the output.
    """

    def __init__(self, message: str, output: str | None = None):
        super().__init__(message, name=output)

    def __str__(self) -> str:
        return str(self.args[0])  # a KeyError's own is in quotes


# Why one sequence of a stream has no result: all of these have its `index` and `key`.
SequenceFailure = EncoderError | NotAnArray | NotSaved
