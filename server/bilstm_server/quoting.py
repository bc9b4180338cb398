"""Words of others, callers or files or pydantic, as an error or the log repeats them: short, and on
one line.
"""

from __future__ import annotations

from collections.abc import Collection
from itertools import islice

from pydantic import ValidationError

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
