"""`eager`: keeps torch.compile out of a function. Knows no module and no kernel."""

from __future__ import annotations

import sys
from collections.abc import Callable
from functools import wraps
from typing import ParamSpec, TypeVar

import torch

P = ParamSpec("P")
R = TypeVar("R")


def eager(reason: str) -> Callable[[Callable[P, R]], Callable[P, R]]:
    """Make a decorator of functions that torch.compile leaves as they are: they run between the
    graphs of what is around them. Where all must be one graph (`fullgraph=True`, a strict
    torch.export), torch refuses them with the reason.
    """

    def decorate(function: Callable[P, R]) -> Callable[P, R]:
        @wraps(function)
        def run(*args: P.args, **kwargs: P.kwargs) -> R:
            # Not imported here: it takes seconds and much memory, and without it none compiles.
            if "torch._dynamo" not in sys.modules:
                return function(*args, **kwargs)
            if torch.compiler.is_dynamo_compiling():
                torch._dynamo.graph_break(msg=reason)
            uncompiled: Callable[P, R] = torch.compiler.disable(function)  # type: ignore[no-untyped-call]
            return uncompiled(*args, **kwargs)

        return run

    return decorate
