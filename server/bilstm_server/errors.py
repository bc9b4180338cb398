"""What can go wrong, in the service's own words. `rpc/status.py` maps each to a gRPC code.

    ServiceError
    ├── InvalidInput       the request can't be served as it is: names the field
    ├── ModelNotFound      no such model or version
    ├── Overloaded         the queue is full; carries when to try again
    ├── DeadlineExpired    the caller's deadline passed before the result was computed
    ├── Stalled            a stream's client moved nothing for too long
    ├── Unavailable        the server is draining, or the model was unloaded
    │   ├── Loading        or has not loaded its models yet
    │   └── DeviceLost     or its GPU computes no more, and it ends
    └── OutOfMemory        one sequence alone does not fit into the device's memory
    StartError             the server or command can't start: one line, never on the wire
    ├── ModelError         a model folder or checkpoint can't be used
    └── ListenError        a port can't be had

Knows nothing of gRPC, torch or Prometheus.
"""

from __future__ import annotations

import traceback
from collections.abc import Collection
from itertools import islice

from pydantic import ValidationError


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


class Overloaded(ServiceError):
    """The queue has no room for the request now; `retry_after_seconds` says when it may have."""

    def __init__(self, message: str, retry_after_seconds: float):
        super().__init__(message)
        self.retry_after_seconds = retry_after_seconds


class DeadlineExpired(ServiceError):
    """The deadline passed while the request waited."""


class Stalled(ServiceError):
    """A stream, or a sequence of one, was ended because its client moved nothing for too long. The
    client may open another."""


class Unavailable(ServiceError):
    """The server, or a model of it, takes no requests any more: it is draining, or unloaded."""


DRAINING = "the server is draining; try another one"  # what an `Unavailable` says then


class Loading(Unavailable):
    """The server takes no requests yet: its models are loading."""


class DeviceLost(Unavailable):
    """The GPU computes no more in this process, whatever it is given."""


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


def forget_locals(error: BaseException | None) -> None:
    """Clear the local variables of the frames in an error's traceback, and in its causes'.

    Otherwise whoever has the error keeps what the failed calls had in memory, be it an event loop
    for a moment. The traceback can be printed as before.
    """
    while error is not None:
        traceback.clear_frames(error.__traceback__)
        error = error.__cause__ or error.__context__


# -- words of others in an error ------------------------------------------------------------------

_QUOTED_CHARACTERS = 100  # at most, of a name or value that an error repeats
_LISTED_NAMES = 10  # at most
_LINE_CHARACTERS = 2_000  # at most


def one_line(text: str, max_characters: int = _LINE_CHARACTERS) -> str:
    """The text, cut where it is long, with escapes in place of what is no printable character."""
    cut = text if len(text) <= max_characters else f"{text[:max_characters]}…"
    return "".join(c if c.isprintable() else ascii(c)[1:-1] for c in cut)


def quoted(text: str) -> str:
    """Text of a caller, a file or a setting as an error or the log repeats it: quoted, on one line,
    cut where it is long."""
    if len(text) <= _QUOTED_CHARACTERS:
        return repr(text)
    return f"{text[:_QUOTED_CHARACTERS]!r}…"


def listed(names: Collection[str]) -> str:
    """The first of these names, and how many more there are."""
    more = f" and {len(names) - _LISTED_NAMES} more" if len(names) > _LISTED_NAMES else ""
    return ", ".join(_cut(name) for name in islice(names, _LISTED_NAMES)) + more


def _cut(name: str) -> str:
    return name if len(name) <= _QUOTED_CHARACTERS else f"{name[:_QUOTED_CHARACTERS]}…"


def first_problem(error: ValidationError) -> str:
    """What is wrong with the first field that a validation refused: `field: problem, got value`."""
    first = error.errors()[0]
    field = ".".join(str(part) for part in first["loc"])
    field = field if field.isprintable() and len(field) <= _QUOTED_CHARACTERS else quoted(field)
    problem = first["msg"].removeprefix("Value error, ")
    if first["type"] != "value_error" and isinstance(first["input"], str | int | float):
        got = first["input"]
        problem += f", got {quoted(got) if isinstance(got, str) else repr(got)}"
    return f"{field}: {problem}" if field else problem
