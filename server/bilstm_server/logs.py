"""How events are written: one line each, to standard error. No payloads, no secrets."""

from __future__ import annotations

import sys
from typing import Any

import structlog
from structlog.tracebacks import ExceptionDictTransformer

from .process.stderr import BackgroundStream
from .quoting import one_line

log = structlog.get_logger()

_CHARACTERS = 2_000  # of one value


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
            _cut_values,
            _order,
            structlog.processors.JSONRenderer(),
        ]
    else:
        processors += [
            _cut_values,
            _escape_values,
            structlog.dev.ConsoleRenderer(
                colors=sys.stderr.isatty(), exception_formatter=structlog.dev.plain_traceback
            ),
        ]
    structlog.configure(
        processors=processors,
        wrapper_class=_Logger,
        logger_factory=structlog.WriteLoggerFactory(sys.stderr),
    )
    if isinstance(sys.stderr, BackgroundStream):
        sys.stderr.report_dropped = lambda lines: log.warning("log lines dropped", lines=lines)


class _Logger(structlog.make_filtering_bound_logger(0)):  # type: ignore[misc]
    """Never raises: who logs has something else to do."""

    def _proxy_to_logger(self, method_name: str, event: str, **values: Any) -> Any:
        try:
            return super()._proxy_to_logger(method_name, event, **values)
        except Exception as error:
            return self._logger.msg(f"an event could not be written: {type(error).__name__}")


def _order(_: object, __: str, event: structlog.typing.EventDict) -> structlog.typing.EventDict:
    """What happened comes first: whoever reads lines reads their beginning."""
    first = {key: event.pop(key) for key in ("event", "level", "timestamp") if key in event}
    return {**first, **event}


def _cut_values(
    _: object, __: str, event: structlog.typing.EventDict
) -> structlog.typing.EventDict:
    return {key: _cut(value) for key, value in event.items()}


def _cut(value: Any) -> Any:
    if isinstance(value, str) and len(value) > _CHARACTERS:
        return f"{value[:_CHARACTERS]}…"
    if isinstance(value, list | tuple):
        return [_cut(item) for item in value]
    if isinstance(value, dict):
        return {key: _cut(item) for key, item in value.items()}
    return value


def _escape_values(
    _: object, __: str, event: structlog.typing.EventDict
) -> structlog.typing.EventDict:
    """Nothing in a value may move a terminal's cursor."""
    return {
        key: one_line(value) if isinstance(value, str) else value for key, value in event.items()
    }
