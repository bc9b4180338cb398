"""What can go wrong, in the service's own words. `rpc/status.py` maps each to a gRPC code.

    ServiceError
    ├── InvalidInput       the request can't be served as it is: names the field
    ├── ModelNotFound      no such model or version
    ├── Unauthenticated    the call has no token that lets it in
    ├── PermissionDenied   who calls may not use what it asks for
    ├── Overloaded         the queue is full; carries when to try again
    ├── DeadlineExpired    the caller's deadline passed before the result was computed
    ├── Stalled            a stream's client moved nothing for too long
    ├── Unavailable        the server is draining, or the model was unloaded
    │   ├── Loading        or has not loaded its models yet
    │   └── Failed         or computes no more, and ends
    │       ├── DeviceLost     its GPU is lost
    │       └── EngineHung     its engine does not return
    └── OutOfMemory        one sequence alone does not fit into the device's memory
    StartError             the server or command can't start: one line, never on the wire
    ├── ModelError         a model folder or checkpoint can't be used
    ├── ListenError        a port can't be had
    └── UnusableFile       a certificate, key or file of tokens can't be used

Knows nothing of gRPC, torch or Prometheus.
"""

from __future__ import annotations

import traceback

from .quoting import one_line


class ServiceError(Exception):
    """Base of every error that a caller gets in the service's own words."""


class InvalidInput(ServiceError):
    """A field of the request is not what it must be.

    `field` is its path, `sequences[3].shape` say; `expected` says what was expected and what found.
    """

    def __init__(self, field: str, expected: str):
        super().__init__(f"{field}: {expected}" if field else expected)
        self.field = field
        self.expected = expected


class ModelNotFound(ServiceError):
    """The request names a model or a version that this server does not have."""


class Unauthenticated(ServiceError):
    """The call has no token, or none that lets it in. The message repeats nothing of it."""


class PermissionDenied(ServiceError):
    """Who calls is known, and may not use what the call asks for."""


class Overloaded(ServiceError):
    """The queue has no room for the request now; `retry_after_seconds` says when it may have."""

    def __init__(self, message: str, retry_after_seconds: float):
        super().__init__(message)
        self.retry_after_seconds = retry_after_seconds


class DeadlineExpired(ServiceError):
    """The deadline passed while the request waited, or would have before there was a result.

    `retry_after_seconds` says when a call like it, with as much time, may be answered; None where
    that is not known, or never.
    """

    def __init__(self, message: str, retry_after_seconds: float | None = None):
        super().__init__(message)
        self.retry_after_seconds = retry_after_seconds


class Stalled(ServiceError):
    """A stream, or a sequence of one, was ended because its client moved nothing for too long. The
    client may open another."""


class Unavailable(ServiceError):
    """The server, or a model of it, takes no requests any more: it is draining, or unloaded."""


DRAINING = "the server is draining; try another one"  # what an `Unavailable` says then


class Loading(Unavailable):
    """The server takes no requests yet: its models are loading."""


class Failed(Unavailable):
    """The server computes no more, and its process ends."""


class DeviceLost(Failed):
    """The GPU computes no more in this process, whatever it is given."""


class EngineHung(Failed):
    """The engine has not returned within the time that its work may take."""


class OutOfMemory(ServiceError):
    """The device's memory does not hold the computation of this one sequence."""


class StartError(Exception):
    """A command can't begin its work. The message is one line, whatever the files hold that it
    speaks of."""

    def __init__(self, reason: str):
        super().__init__(one_line(reason))


class ModelError(StartError):
    """A model folder or checkpoint is missing, broken, or not what was expected."""


class ListenError(StartError):
    """The server can't listen on an address."""


class UnusableFile(StartError):
    """A certificate, a key or a file of tokens can't be read, or not be used. Nothing of what it
    holds is repeated. A server that has started goes on with what it had."""


def forget_locals(error: BaseException | None) -> None:
    """Clear the local variables of the frames in an error's traceback, and in its causes'.

    Otherwise whoever has the error keeps what the failed calls had in memory, be it an event loop
    for a moment. The traceback can be printed as before.
    """
    while error is not None:
        traceback.clear_frames(error.__traceback__)
        error = error.__cause__ or error.__context__
