"""What a call can raise. Every error carries the gRPC code and the server's message.

EncoderError
├── InvalidInput        INVALID_ARGUMENT: `field` is the one at fault; or RESOURCE_EXHAUSTED by
│                       gRPC itself: the request is larger than the server takes
├── ModelNotFound       NOT_FOUND
├── Overloaded          RESOURCE_EXHAUSTED by the server: `retry_after_seconds`, if it said
├── DeadlineExceeded    DEADLINE_EXCEEDED
├── Unavailable         UNAVAILABLE, after the retries: `retry_after_seconds`, if it said; or
│                       a stream's server has given no sign of life for its timeout
├── Cancelled           CANCELLED; by the server, after the retries
└── ServerError         any other code: `error_id`, which the server's log has too; or a reply
                        that can't be read

In a stream, one sequence may also fail on this side. Each error of one sequence has its `index` and
`key`.

NotAnArray (TypeError)  what was given as a sequence, or as a chunk of it, is no array of numbers
NotSaved (OSError)      its states can't be written to the file that `save_states` named

And of a result:

NotRequested (AttributeError)  an output that the call did not ask for
"""

from __future__ import annotations

from typing import Any

import grpc


class EncoderError(Exception):
    """Base of all that a call raises."""

    def __init__(self, code: grpc.StatusCode, message: str):
        super().__init__(message)
        self.code = code
        self.message = message
        # Where the server said when to come again: seconds from then.
        self.retry_after_seconds: float | None = None
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


class NotRequested(AttributeError):
    """The result has no such output, because the call did not ask for it: the message says how.

    As an `AttributeError` it lets `hasattr` say False. `name` is the output's.
    """

    def __init__(self, message: str, output: str | None = None):
        super().__init__(message, name=output)


# Why one sequence of a stream has no result: all of these have its `index` and `key`.
SequenceFailure = EncoderError | NotAnArray | NotSaved
