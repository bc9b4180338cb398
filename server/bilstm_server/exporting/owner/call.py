"""All that a command needs of the owner's: a module with its weights, and a call of it."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from torch import nn

from ..placing import bare, on_cpu
from ..results import Outputs
from .code import NOTHING, load_function, load_module
from .examples import read_call
from .made_up import make_example
from .weights import load_weights

LEFT_OUT = "_"  # in a list of outputs


@dataclass(frozen=True)
class OwnersCall:
    """A module, what to call it with, and what to say of them."""

    module: nn.Module
    example: tuple[Any, ...]
    kwargs: Mapping[str, Any]
    outputs: Outputs
    notes: tuple[str, ...]


def load_call(
    factory: str,
    *,
    weights: Path | None = None,
    key: str | None = None,
    example: Path | None = None,
    outputs: str | None = None,
) -> OwnersCall:
    """Make the module of `pkg.module:factory`, and load its weights and example.

    `outputs` are names with commas between them, _ for a result that is left out, or a
    `pkg.module:function`. Raises `ModelError` in one line.
    """
    owned = load_module(factory)
    module = bare(owned.module)
    if weights is None:
        notes = [f"no --weights: these are what {factory} gives"]
    else:
        notes = load_weights(module, weights, key)
    module = on_cpu(module)
    kwargs: Mapping[str, Any] = {}
    if example is not None:
        arguments, kwargs = read_call(example, module)
    elif owned.example is not NOTHING:
        arguments = owned.example if type(owned.example) is tuple else (owned.example,)
    else:
        made = make_example(module)
        arguments = made.arguments
        notes.append(made.words)
    return OwnersCall(module, arguments, kwargs, _outputs(outputs), tuple(notes))


def _outputs(text: str | None) -> Outputs:
    if text is None:
        return None
    if ":" in text:
        return load_function(text)
    return [None if name == LEFT_OUT else name for name in text.split(",")]
