"""What settings say of single callers, by their names: `NAME=WEIGHT` and `NAME=PRIORITY`."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import NamedTuple, TypeVar

from ..callers import Priority
from ..quoting import quoted

_LEAST_WEIGHT, _MOST_WEIGHT = 0.01, 100.0
_PRIORITIES = ", ".join(priority.name.lower() for priority in Priority)

T = TypeVar("T")


class CallerShare(NamedTuple):
    """How many times the part of another caller one has."""

    name: str
    weight: float


class CallerPriority(NamedTuple):
    """The highest priority that the calls of a caller may ask for."""

    name: str
    priority: Priority


def parse_caller_shares(value: object) -> object:
    """Read the setting: `NAME=WEIGHT`, or several of them, in a list or separated by commas. Raises
    `ValueError`."""
    return _parse(value, "WEIGHT", _parse_share)


def parse_caller_priorities(value: object) -> object:
    """Read the setting: `NAME=PRIORITY`, or several of them, in a list or separated by commas.
    Raises `ValueError`."""
    return _parse(value, "PRIORITY", _parse_priority)


def _parse(value: object, what: str, parse: Callable[[str, str], T]) -> object:
    if isinstance(value, str):
        value = value.split(",")
    if not isinstance(value, list | tuple):
        return value
    parsed: dict[str, object] = {}
    for item in value:
        if not isinstance(item, str):
            parsed[item[0]] = item
            continue
        name, equals, text = item.strip().rpartition("=")  # a name may have an = itself
        if not (name and equals and text):
            raise ValueError(f"must be NAME={what}, got {quoted(item)}")
        if name in parsed:
            raise ValueError(f"has {quoted(name)} twice")
        parsed[name] = parse(name, text)
    return tuple(parsed.values())


def _parse_share(name: str, text: str) -> CallerShare:
    try:
        weight = float(text)
    except ValueError:
        weight = math.nan
    if not _LEAST_WEIGHT <= weight <= _MOST_WEIGHT:
        raise ValueError(
            f"the weight of {quoted(name)} must be a number from {_LEAST_WEIGHT:g} to "
            f"{_MOST_WEIGHT:g}, got {quoted(text)}"
        )
    return CallerShare(name, weight)


def _parse_priority(name: str, text: str) -> CallerPriority:
    try:
        return CallerPriority(name, Priority[text.upper()])
    except KeyError:
        raise ValueError(
            f"the priority of {quoted(name)} must be one of {_PRIORITIES}, got {quoted(text)}"
        ) from None
