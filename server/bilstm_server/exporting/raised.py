"""What the owner's code raised, in one line that names its place there."""

from __future__ import annotations

import traceback
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import torch

from ..errors import ModelError
from ..quoting import one_line
from .refusals import ExportError

_OURS = str(Path(__file__).parent.parent)
_NOT_THE_OWNERS = (str(Path(torch.__file__).parent), _OURS, "<frozen")
_CHARACTERS = 300  # of its own words, and of a line of its code


@contextmanager
def owners_code(doing: str) -> Iterator[None]:
    """Run code of the owner's; `doing` says what it is to do. What it raises becomes an
    `ExportError` that names its line; so does an end of the process, which would end ours."""
    try:
        yield
    except (ModelError, KeyboardInterrupt, GeneratorExit):
        raise
    except SystemExit as error:
        if _innermost(error).filename.startswith(_OURS):  # a signal's, not the owner's
            raise
        raise ExportError(f"{doing}: {described(error)}; it must not end the process") from error
    except BaseException as error:
        raise ExportError(f"{doing}: {described(error)}") from error


def described(error: BaseException) -> str:
    """The kind of an error, its own words, and the last line of the owner's that led to it."""
    words = one_line(" ".join(str(error).split()), _CHARACTERS)
    said = f"{type(error).__name__}: {words}" if words else type(error).__name__
    if isinstance(error, SyntaxError):
        return said  # which names its line itself
    frames = traceback.extract_tb(error.__traceback__)
    own = [frame for frame in frames if not frame.filename.startswith(_NOT_THE_OWNERS)]
    if not own:
        return said
    code = f": `{one_line(own[-1].line, _CHARACTERS)}`" if own[-1].line else ""
    return f"{said} (line {own[-1].lineno} of {Path(own[-1].filename).name}{code})"


def _innermost(error: BaseException) -> traceback.FrameSummary:
    return traceback.extract_tb(error.__traceback__)[-1]
