"""Words of others, callers or files or pydantic, as an error or the log repeats them: short, and on
one line.
"""

from __future__ import annotations

import re
from collections.abc import Collection, Mapping
from difflib import get_close_matches
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
    problems = error.errors()
    # A field that is not known is perhaps one that is missed, misspelt.
    first = next((its for its in problems if its["type"] == "extra_forbidden"), problems[0])
    field = ".".join(str(part) for part in first["loc"])
    field = field if field.isprintable() and len(field) <= _QUOTED_CHARACTERS else quoted(field)
    problem = first["msg"].removeprefix("Value error, ")
    if first["type"] == "union_tag_invalid":
        return _no_such_type(field, first["ctx"])
    if first["type"] != "value_error" and isinstance(first["input"], str | int | float):
        got = first["input"]
        problem += f", got {quoted(got) if isinstance(got, str) else repr(got)}"
    return f"{field}: {problem}" if field else problem


def _no_such_type(field: str, context: Mapping[str, object]) -> str:
    """What is wrong with a `type` that is none, and which one is near it."""
    given = str(context["tag"])
    types = re.findall(r"'(\w+)'", str(context["expected_tags"]))
    near = get_close_matches(given, types, n=1)
    there_are = f"did you mean {near[0]!r}?" if near else f"there are: {', '.join(sorted(types))}"
    return f"{field}: there is no type {quoted(given)}; {there_are}"
