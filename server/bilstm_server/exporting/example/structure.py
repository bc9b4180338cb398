"""Tensors and numbers within nested arguments: dictionaries, lists, tuples, dataclasses."""

from __future__ import annotations

import copy
import dataclasses
import re
from collections.abc import Callable, Iterator, Mapping
from typing import Any

from torch import Tensor

Path = tuple[str, ...]

_MOST_CHARACTERS = 64


def leaves(value: Any, path: Path = ()) -> Iterator[tuple[Path, Any]]:
    """Each thing that holds no other, and the names that lead to it."""
    parts = _parts(value)
    if parts is None:
        yield path, value
        return
    for name, part in parts.items():
        yield from leaves(part, (*path, name))


def mapped(value: Any, function: Callable[[Path, Any], Any], path: Path = ()) -> Any:
    """The same structure, anew, with each leaf replaced."""
    parts = _parts(value)
    if parts is None:
        return function(path, value)
    made = {name: mapped(part, function, (*path, name)) for name, part in parts.items()}
    if isinstance(value, Mapping):
        whole = copy.copy(value) if not isinstance(value, dict) else type(value)(value)
        for key in value:
            whole[key] = made[str(key)]  # type: ignore[index]
        return whole
    if dataclasses.is_dataclass(value):
        copied = copy.copy(value)
        for name, part in made.items():
            object.__setattr__(copied, name, part)
        return copied
    if hasattr(value, "_fields"):
        return type(value)(*made.values())
    return type(value)(made.values())


def _parts(value: Any) -> dict[str, Any] | None:
    """What a structure holds, by name; None for a leaf."""
    if isinstance(value, Tensor):
        return None
    if isinstance(value, Mapping):
        return {str(key): part for key, part in value.items()}
    if dataclasses.is_dataclass(value) and not isinstance(value, type):
        return {field.name: getattr(value, field.name) for field in dataclasses.fields(value)}
    if hasattr(value, "_fields"):
        return {name: getattr(value, name) for name in value._fields}
    if isinstance(value, list | tuple) and not _is_lengths(value):
        return {str(index): part for index, part in enumerate(value)}
    return None


def _is_lengths(value: list[Any] | tuple[Any, ...]) -> bool:
    return len(value) > 0 and all(type(part) is int for part in value)


def names_of(paths: list[Path]) -> dict[Path, str]:
    """A name for each: with a number only where others are in the same list."""
    names = [name_of(path) for path in paths]
    return {
        path: f"{name}_{path[-1]}"[-_MOST_CHARACTERS:] if names.count(name) > 1 else name
        for path, name in zip(paths, names, strict=True)
    }


def name_of(path: Path) -> str:
    """A name for what is there: the last word that is no number."""
    words = [re.sub(r"\W+", "_", word).strip("_") for word in path]
    named = [word for word in words if word and not word.isdigit()]
    word = named[-1] if named else "input"
    return (f"_{word}" if word[0].isdigit() else word)[:_MOST_CHARACTERS]
