"""What can't be exported, in words for the module's owner: which module, which line, what to do."""

from __future__ import annotations

import linecache
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from types import FrameType

import numpy as np
import torch
from torch import Tensor, nn

from ..errors import ModelError
from ..quoting import one_line

_INNER = (
    str(Path(torch.__file__).parent),
    str(Path(np.__file__).parent),
    str(Path(__file__).parent.parent),
)

BY_NUMPY = "is computed by numpy, which can't be followed; compute it with torch"


@dataclass(frozen=True)
class Place:
    """Where in the owner's code an operation was called."""

    module: str = ""  # its name in the exported module, "" for that itself
    kind: str = ""  # its class
    file: str = ""
    line: int = 0
    is_leaf: bool = False  # it is one of torch's own, that holds no other module

    @property
    def text(self) -> str:
        """The line of code."""
        return linecache.getline(self.file, self.line).strip() if self.line else ""

    def __str__(self) -> str:
        name = f"{self.module} ({self.kind})" if self.module else self.kind or "the module"
        if not self.line:
            return name
        code = f": `{self.text}`" if self.text else ""
        return f"{name}, line {self.line} of {Path(self.file).name}{code}"


class ExportError(ModelError):
    """The module can't be exported as it is. One line says why, and what can be done."""


class Refusal(ExportError):
    """An operation that no layer type computes, and where it was called."""

    def __init__(self, reason: str, place: Place | None = None):
        super().__init__(one_line(f"{place}: {reason}" if place else reason))
        self.reason = reason
        self.place = place


def is_narrow(tensor: Tensor) -> bool:
    """Whether it has floats of fewer bits than what is served."""
    return tensor.is_floating_point() and tensor.itemsize < torch.float32.itemsize


def narrow_words(tensor: Tensor) -> str:
    """Why a result in such floats is refused."""
    return f"computes in {tensor.dtype}, as autocast does; export it without, in float32"


class Places:
    """Finds where the running code of a module is."""

    def __init__(self, module: nn.Module):
        self._names = {id(part): name for name, part in module.named_modules()}

    def here(self) -> Place:
        """The innermost module that is running, and the innermost line that is not torch's."""
        module, name, line = None, "", None
        for frame in _frames():
            owner = frame.f_locals.get("self")
            if module is None and isinstance(owner, nn.Module) and id(owner) in self._names:
                module, name = owner, self._names[id(owner)]
            if line is None and not frame.f_code.co_filename.startswith(_INNER):
                line = frame
            if module is not None and line is not None:
                break
        return Place(
            name,
            type(module).__name__ if module is not None else "",
            line.f_code.co_filename if line else "",
            line.f_lineno if line else 0,
            module is not None
            and type(module).__module__.startswith("torch.nn")
            and all(name == "parametrizations" for name, _ in module.named_children()),
        )


def _frames() -> Iterator[FrameType]:
    frame: FrameType | None = sys._getframe(1)
    while frame is not None:
        yield frame
        frame = frame.f_back
