"""Words of files and servers, as a terminal may show them."""

from __future__ import annotations


def printable(text: str) -> str:
    """The text with a ? for each character that could move a terminal's cursor."""
    return "".join(character if character.isprintable() else "?" for character in text)
