"""What a Keras config says, read with its types: it is a user's file, and may hold anything."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any, TypeVar

Kind = TypeVar("Kind")


class Settings:
    """The settings of one layer, or of a model. Every one that is missing or of another type
    raises a `ValueError` that names it."""

    def __init__(self, content: object):
        if not isinstance(content, Mapping):
            raise ValueError(f"its config is {_described(content)}")
        self._content: Mapping[str, object] = content

    def __contains__(self, name: str) -> bool:
        return self._content.get(name) is not None

    def word(self, name: str, default: str | None = None) -> str:
        return self._read(name, str, default)

    def flag(self, name: str, default: bool = False) -> bool:
        return self._read(name, bool, default)

    def size(self, name: str, default: int | None = None) -> int:
        """A whole number; in a list alone, as sizes of one axis are."""
        content = self._content.get(name)
        if isinstance(content, list | tuple) and len(content) == 1:
            content = content[0]
        if content is None:
            content = default
        if not isinstance(content, int) or isinstance(content, bool):
            raise ValueError(f"{name} is {_described(content)}, expected a whole number")
        return content

    def number(self, name: str, default: float | None = None) -> float:
        content = self._content.get(name)
        if isinstance(content, int) and not isinstance(content, bool):
            return float(content)
        return self._read(name, float, default)

    def function(self, name: str, default: str = "linear") -> str:
        """A function's name; Keras writes one of its own as an object, and a lambda as code."""
        content = self._content.get(name)
        if isinstance(content, Mapping):
            word = content.get("class_name")
            if word == "function" and content.get("module") in (None, "builtins"):
                word = content.get("config")
            content = word if isinstance(word, str) else "something else"
        return default if content is None else str(content)

    def settings(self, name: str) -> Settings:
        return Settings(self._content.get(name))

    def several(self, name: str) -> Iterator[Settings]:
        for content in self._read(name, list, None):
            yield Settings(content)

    def content(self, name: str) -> Any:
        """Whatever is there, or None."""
        return self._content.get(name)

    def _read(self, name: str, kind: type[Kind], default: Kind | None) -> Kind:
        content = self._content.get(name)
        content = default if content is None else content
        if not isinstance(content, kind):
            raise ValueError(f"{name} is {_described(content)}, expected {kind.__name__}")
        return content


def _described(content: object) -> str:
    return "missing" if content is None else f"a {type(content).__name__}"
