"""The command `bilstm`: runs what was typed, and says in one line what went wrong.

Each subcommand has a module of its own; what may be typed is in `arguments`.
"""

from __future__ import annotations

import os
import sys
from argparse import Namespace
from collections.abc import Callable, Sequence

from ..client import Client
from ..errors import EncoderError, Unavailable
from . import encode, encode_stream, health, models
from .arguments import parse
from .connection import NoConnection, connect
from .encode_stream import NotAllEncoded
from .files import FileError
from .health import NotReady
from .printing import printable

_INTERRUPTED, _UNREAD = 130, 141  # as shells have it: 128 and the number of SIGINT, SIGPIPE


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command and return its exit code: 0, 1 for a failure, 130 for Ctrl-C, 141 where what
    reads its output wants no more, as `head` does."""
    code = _run(arguments)
    try:
        if sys.stdout is not None:  # closed
            sys.stdout.flush()
    except OSError as error:
        # What is left in it would be tried again at the interpreter's end, with a traceback.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        if isinstance(error, BrokenPipeError):
            return code or _UNREAD
        return code or _fail(f"can't write to standard output: {error.strerror}")
    return code


def _run(arguments: Sequence[str] | None) -> int:
    parsed = parse(arguments)
    try:
        with connect(parsed) as client:
            _command(parsed)(client, parsed)
    except BrokenPipeError:
        return _UNREAD
    except Unavailable as error:
        said = parsed.server in error.message
        return _fail(error.message if said else f"{parsed.server}: {error.message}")
    except (EncoderError, FileError, NoConnection, NotAllEncoded, NotReady, OSError) as error:
        return _fail(str(error))
    except KeyboardInterrupt:
        _fail("interrupted")
        return _INTERRUPTED
    return 0


def _command(parsed: Namespace) -> Callable[[Client, Namespace], None]:
    if parsed.command == "encode":
        return encode_stream.run if parsed.stream else encode.run
    return models.run if parsed.command == "models" else health.run


def _fail(message: str) -> int:
    print(f"bilstm: {printable(message)}", file=sys.stderr)
    return 1
