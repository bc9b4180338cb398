"""What can go wrong, in the service's own words. `rpc/status.py` maps each to a gRPC code.

    ServiceError
    ├── InvalidInput       the request can't be served as it is: names the field
    ├── ModelNotFound      no such model or version
    ├── Overloaded         the queue is full; carries when to try again
    ├── DeadlineExpired    the caller's deadline passed before the result was computed
    ├── Stalled            a stream's client moved nothing for too long
    ├── Unavailable        the server is draining
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
    """Base of every error that a caller is told in the service's own words."""


class InvalidInput(ServiceError):
    """A field of the request is not what it must be.

    `field` is its path (`sequences[3].shape`), `expected` says what was expected and found.
    """

    def __init__(self, field: str, expected: str):
        super().__init__(f"{field}: {expected}" if field else expected)
        self.field = field
        self.expected = expected


class ModelNotFound(ServiceError):
    """The request names a model or a version that this server does not have."""


class Overloaded(ServiceError):
    """The queue has no room for the request now."""

    def __init__(self, message: str, retry_after_seconds: float):
        super().__init__(message)
        self.retry_after_seconds = retry_after_seconds


class DeadlineExpired(ServiceError):
    """The deadline passed while the request waited."""


class Stalled(ServiceError):
    """A stream, or a sequence of one, that ended because its client moved nothing for too long. It
    may open another."""


class Unavailable(ServiceError):
    """The server takes no requests any more: it is draining."""


class Loading(Unavailable):
    """The server takes no requests yet: its models are loading."""


class DeviceLost(Unavailable):
    """The GPU computes no more in this process, whatever it is given."""


class OutOfMemory(ServiceError):
    """The device's memory does not hold the computation of this one sequence."""


class StartError(Exception):
    """What ends a command before its work begins; its message is one clear line, whatever the files
    hold that it speaks of."""

    def __init__(self, reason: str):
        super().__init__(one_line(reason))


class ModelError(StartError):
    """A model folder or checkpoint is missing, broken, or not what was expected."""


class ListenError(StartError):
    """An address can't be listened on."""


def forget_locals(error: BaseException | None) -> None:
    """Let go of what the calls that an error ended had in memory; their traceback can be read as
    before. Otherwise whoever has the error, be it an event loop for a moment, keeps all of it.
    """
    while error is not None:
        traceback.clear_frames(error.__traceback__)
        error = error.__cause__ or error.__context__


# -- words of others in an error ------------------------------------------------------------------

_CHARACTERS = 100  # of a name or value that an error repeats
_NAMES = 10  # that an error lists
_LINE = 2_000  # characters


def one_line(text: str, most: int = _LINE) -> str:
    """The text, cut where it is long, with escapes in place of what is no printable character."""
    cut = text if len(text) <= most else f"{text[:most]}…"
    return "".join(c if c.isprintable() else ascii(c)[1:-1] for c in cut)


def quoted(text: str) -> str:
    """Text of a caller's, a file's or a setting's, as an error or the log repeats it: on one line,
    cut where it is long."""
    return repr(text) if len(text) <= _CHARACTERS else f"{text[:_CHARACTERS]!r}…"


def listed(names: Collection[str]) -> str:
    """The first of these names, and how many more there are."""
    more = f" and {len(names) - _NAMES} more" if len(names) > _NAMES else ""
    return ", ".join(_cut(name) for name in islice(names, _NAMES)) + more


def _cut(name: str) -> str:
    return name if len(name) <= _CHARACTERS else f"{name[:_CHARACTERS]}…"


def first_problem(error: ValidationError) -> str:
    """The first field that a file or a setting has wrong, what is wrong with it, and its value."""
    first = error.errors()[0]
    field = ".".join(str(part) for part in first["loc"])
    field = field if field.isprintable() and len(field) <= _CHARACTERS else quoted(field)
    problem = first["msg"].removeprefix("Value error, ")
    if first["type"] != "value_error" and isinstance(first["input"], str | int | float):
        got = first["input"]
        problem += f", got {quoted(got) if isinstance(got, str) else repr(got)}"
    return f"{field}: {problem}" if field else problem
