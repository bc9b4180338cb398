"""Files that arguments name: an error says which argument it was."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager


@contextmanager
def named(argument: str) -> Iterator[None]:
    """Let an `OSError` say which argument its file was given as."""
    try:
        yield
    except OSError as error:
        error.strerror = f"{error.strerror} ({argument})"
        raise
