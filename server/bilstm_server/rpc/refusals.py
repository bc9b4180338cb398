"""`RefusalLog`: that calls are refused, in a line now and then for each way in which they are."""

from __future__ import annotations

import asyncio

import grpc
import structlog

from ..errors import ServiceError

log = structlog.get_logger()

_LOG_SECONDS = 10.0  # from one line to the next of a kind
# Those that an operator can do something about: tokens, rights, limits, servers.
_LOGGED = frozenset(
    {
        grpc.StatusCode.UNAUTHENTICATED,
        grpc.StatusCode.PERMISSION_DENIED,
        grpc.StatusCode.RESOURCE_EXHAUSTED,
        grpc.StatusCode.DEADLINE_EXCEEDED,
    }
)


class _Refused:
    """The calls that were refused in one way since its last line."""

    __slots__ = ("caller", "calls", "is_quiet", "reason")

    def __init__(self) -> None:
        self.calls = 0
        self.caller = self.reason = ""  # of the last one
        self.is_quiet = False  # for a while after a line


class RefusalLog:
    """Writes the first refusal of each kind at once, and then how many there were meanwhile, as
    long as there are any. A refusal costs no more than to be counted."""

    def __init__(self, log_seconds: float = _LOG_SECONDS):
        """Write at most one line of each kind in so many seconds."""
        self._log_seconds = log_seconds
        # By the kind of the error, of which there are a few.
        self._refused: dict[type[ServiceError], _Refused] = {}

    def note(self, error: ServiceError, code: grpc.StatusCode, caller: str) -> None:
        """Take into account that a call of the caller, empty if it has no name, ended with this
        error and code."""
        if code not in _LOGGED:
            return
        refused = self._refused.get(type(error))
        if refused is None:
            refused = self._refused[type(error)] = _Refused()
        refused.calls += 1
        refused.caller, refused.reason = caller, str(error)
        if not refused.is_quiet:
            self._write(refused, code)

    def _write(self, refused: _Refused, code: grpc.StatusCode) -> None:
        log.warning(
            "calls refused",
            status=code.name,
            calls=refused.calls,
            caller=refused.caller or None,
            reason=refused.reason,
        )
        refused.calls, refused.is_quiet = 0, True
        asyncio.get_running_loop().call_later(self._log_seconds, self._go_on, refused, code)

    def _go_on(self, refused: _Refused, code: grpc.StatusCode) -> None:
        refused.is_quiet = False
        if refused.calls:
            self._write(refused, code)
