"""How a command says what it has done: on standard output, in plain lines."""

from __future__ import annotations

from ..errors import StartError


def say(text: str) -> None:
    """Print a line at once. Raises `StartError` if standard output can't be written to."""
    try:
        print(text, flush=True)
    except OSError as error:
        raise StartError(f"can't write to standard output: {error.strerror}") from error
