"""What may be typed for the options of `bilstm`, each refused in the user's words."""

from __future__ import annotations

import argparse
from typing import Any

from ._calls.messages import output_numbers
from ._calls.session import finite_seconds
from ._calls.target import Target


def outputs(text: str) -> list[str]:
    """Names of outputs, comma-separated."""
    names: list[Any] = [name.strip() for name in text.split(",")]
    try:
        output_numbers(names)
    except ValueError as error:
        raise argparse.ArgumentTypeError(str(error)) from error
    return names


def server(text: str) -> str:
    """HOST:PORT, or another target."""
    try:
        Target.of(text)
    except ValueError as error:
        raise argparse.ArgumentTypeError(str(error)) from error
    return text


def count(text: str) -> int:
    """A number, 1 or more."""
    try:
        number = int(text)
    except ValueError as error:
        raise argparse.ArgumentTypeError(f"must be a number, got {text!r}") from error
    if number < 1:
        raise argparse.ArgumentTypeError(f"must be 1 or more, got {number}")
    return number


def seconds(text: str) -> float:
    """A finite number of seconds."""
    try:
        return finite_seconds(float(text))
    except ValueError as error:
        raise argparse.ArgumentTypeError(str(error)) from error
