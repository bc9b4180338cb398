"""Errors that are the server's own fault: logged under an id that the caller gets, too."""

from __future__ import annotations

import secrets

import structlog

from .context import Context

log = structlog.get_logger()

_REQUEST_ID = "x-request-id"
_REQUEST_ID_CHARACTERS = 128


def log_internal_error(
    error: Exception, context: Context, caller: str, trace_id: str | None = None
) -> str:
    """Log an error that is the server's own fault, with the name of the caller that met it.

    Returns the id that the log has it under.
    """
    ids = {"error_id": secrets.token_hex(8)}
    if caller:  # it is known
        ids["caller"] = caller
    if request_id := _request_id(context):
        ids["request_id"] = request_id
    if trace_id is not None:
        ids["trace_id"] = trace_id
    log.error("internal error", **ids, exc_info=error)
    return ids["error_id"]


def _request_id(context: Context) -> str:
    """Return the caller's own name for its request; empty if it gave none that can be logged."""
    for key, value in context.invocation_metadata() or ():
        if key == _REQUEST_ID and isinstance(value, str) and len(value) <= _REQUEST_ID_CHARACTERS:
            return value if value.isascii() and value.isprintable() else ""
    return ""
