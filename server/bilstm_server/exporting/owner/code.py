"""The owner's module, by the name that it has in Python, with the weights of its checkpoint."""

from __future__ import annotations

import importlib
import inspect
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from torch import nn

from ...quoting import quoted
from ..raised import owners_code
from ..refusals import ExportError

NOTHING = object()  # where a factory gives no example


@dataclass(frozen=True)
class Owned:
    """A module, and the example that came with it, or `NOTHING`."""

    module: nn.Module
    example: Any = NOTHING


@contextmanager
def current_directory() -> Iterator[None]:
    """Let Python find the owner's code in the current directory first, as `python` itself does."""
    directory = str(Path.cwd())
    sys.path.insert(0, directory)
    try:
        yield
    finally:
        sys.path.remove(directory)


def load_module(name: str) -> Owned:
    """Import `pkg.module:factory` and make the module.

    The factory is a function or a class that needs no arguments, or the module itself; it may give
    (module, example). Raises `ExportError` for code that is not there, or that raises.
    """
    made = load_object(name)
    if not isinstance(made, nn.Module | tuple):
        if not callable(made):
            raise ExportError(
                f"{name}: is a {type(made).__name__}; expected an nn.Module, or a function that "
                "makes one"
            )
        _check_arguments(name, made)
        with owners_code(f"{name} failed"):
            made = made()
    owned = Owned(*made) if isinstance(made, tuple) and len(made) == 2 else Owned(made)
    if not isinstance(owned.module, nn.Module):
        raise ExportError(
            f"{name}: gives a {type(owned.module).__name__}; expected an nn.Module, or (module, "
            "example)"
        )
    return owned


def load_function(name: str) -> Callable[..., Any]:
    """Import `pkg.module:function`. Raises `ExportError` for code that is not there."""
    made = load_object(name)
    if not callable(made):
        raise ExportError(f"{name}: is a {type(made).__name__}; expected a function")
    return made  # type: ignore[no-any-return]


def load_object(name: str) -> Any:
    """Import what is at `pkg.module:name`, or at a name within it: `pkg.module:Class.method`."""
    where, _, attributes = name.partition(":")
    if not all(part.isidentifier() for part in [*where.split("."), *attributes.split(".")]):
        raise ExportError(
            f"{quoted(name)}: expected pkg.module:factory, as in 'from pkg.module import factory'"
        )
    with owners_code(f"{where} can't be imported"):
        try:
            found = importlib.import_module(where)
        except ModuleNotFoundError as error:
            if error.name is None or not f"{where}.".startswith(f"{error.name}."):
                raise
            raise ExportError(
                f"{name}: Python finds no module {error.name}; run the command in the folder that "
                "has it, or set PYTHONPATH"
            ) from error
    made: Any = found
    for attribute in attributes.split("."):
        if not hasattr(made, attribute):
            raise ExportError(f"{name}: {where} has no {attributes}")
        made = getattr(made, attribute)
    return made


def _check_arguments(name: str, factory: Callable[..., Any]) -> None:
    """Refuse a factory that needs arguments, before it fails on that."""
    try:
        inspect.signature(factory).bind()
    except TypeError as error:
        raise ExportError(
            f"{name}: {error}; name a function that needs no arguments and returns the module, "
            "with the sizes that it was trained with"
        ) from error
    except ValueError:  # has no signature: written in C
        return
