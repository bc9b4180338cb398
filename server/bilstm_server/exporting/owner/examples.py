"""Examples that the owner has in a file: arguments of `forward`, by name or in order."""

from __future__ import annotations

import inspect
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from ...quoting import listed, quoted
from ..arrays import read_arrays, read_saved
from ..refusals import ExportError

_IN_ORDER = re.compile(r"arg(?:_?)([0-9]{1,2})")


def read_call(path: Path, module: nn.Module) -> tuple[tuple[Any, ...], dict[str, Any]]:
    """The arguments and keyword arguments for the module, as the file has them.

    An `.npy` is the first argument. An `.npz` has arguments by their names in `forward`, or as
    arg0, arg1, …; numpy's own arr_0 is arg0. A `.pt` is a tensor, a tuple of arguments, or a
    dictionary by name. A dictionary with other names is the only argument itself. Raises
    `ModelError` in one line.
    """
    if path.suffix in (".npy", ".npz"):
        arrays = read_arrays(path)
        content: Any = (
            {name: _tensor(path, name, array, module) for name, array in arrays.items()}
            if isinstance(arrays, dict)
            else _tensor(path, "it", arrays, module)
        )
    else:
        content = read_saved(path)
    if type(content) in (tuple, list):
        return tuple(content), {}
    if not isinstance(content, Mapping):
        return (content,), {}
    return _by_name(path, content, module)


def _by_name(
    path: Path, content: Mapping[str, Any], module: nn.Module
) -> tuple[tuple[Any, ...], dict[str, Any]]:
    parameters = inspect.signature(module.forward).parameters
    numbered = {name: _IN_ORDER.fullmatch(name.replace("arr_", "arg")) for name in content}
    in_order = {int(found[1]): content[name] for name, found in numbered.items() if found}
    named = {name: value for name, value in content.items() if not numbered[name]}
    if sorted(in_order) != list(range(len(in_order))):
        raise ExportError(f"{path}: expected arg0, arg1, … without a gap, got {listed(content)}")
    takes_any = any(p.kind is p.VAR_KEYWORD for p in parameters.values())
    if takes_any or all(name in parameters for name in named):
        return tuple(in_order[number] for number in sorted(in_order)), named
    if not in_order and len(parameters) == 1:
        return (dict(content),), {}
    unknown = next(name for name in named if name not in parameters)
    raise ExportError(
        f"{path}: {type(module).__name__}.forward has no argument {quoted(unknown)}; it has "
        f"{listed(parameters)}, and they may be arg0, arg1, … as well"
    )


def _tensor(path: Path, name: str, array: np.ndarray[Any, Any], module: nn.Module) -> Tensor:
    """Floats in the type of the module's weights, and integers in int64."""
    if array.dtype.kind not in "biuf":
        raise ExportError(f"{path}: {name} is of {array.dtype}; expected floats, integers or bools")
    tensor = torch.from_numpy(np.array(array, array.dtype.newbyteorder("=")))
    if array.dtype.kind == "f":
        floats = (p.dtype for p in module.parameters() if p.is_floating_point())
        return tensor.to(next(floats, torch.float32))
    return tensor if array.dtype.kind == "b" else tensor.to(torch.int64)
