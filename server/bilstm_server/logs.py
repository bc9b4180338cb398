"""How events are written: one line each, to standard error. No payloads, no secrets."""

from __future__ import annotations

import sys

import structlog
from structlog.tracebacks import ExceptionDictTransformer


def configure_logs(log_format: str) -> None:
    """`console` for people, `json` for machines, `auto` by whether it is a terminal."""
    if log_format == "auto":
        log_format = "console" if sys.stderr.isatty() else "json"
    timestamp = structlog.processors.TimeStamper(fmt="iso", utc=True)
    processors: list[structlog.typing.Processor] = [
        structlog.processors.add_log_level,
        timestamp,
    ]
    if log_format == "json":
        processors += [
            # Without local variables: those hold payloads.
            structlog.processors.ExceptionRenderer(ExceptionDictTransformer(show_locals=False)),
            structlog.processors.JSONRenderer(),
        ]
    else:
        processors.append(
            structlog.dev.ConsoleRenderer(
                colors=sys.stderr.isatty(), exception_formatter=structlog.dev.plain_traceback
            )
        )
    structlog.configure(
        processors=processors, logger_factory=structlog.PrintLoggerFactory(sys.stderr)
    )
