"""Files of weights alone: each layer's tensors under the names of its module in torch.

What stands between the layers, such a file does not say.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping

import h5py
import numpy as np
import torch
from torch import Tensor

from ..drafts import Array
from .lstms import parameters
from .weights import open_group, read_array, read_names, reading

# Keras's names of a layer's variables, in its order, by the group that has them in Keras 3.
_VARIABLES: Mapping[str, tuple[str, ...]] = {
    "cell": ("kernel", "recurrent_kernel", "bias"),
    "embedding": ("embeddings",),
    "dense": ("kernel", "bias"),
    "layer": ("kernel", "bias"),  # in time_distributed
    "conv1d": ("kernel", "bias"),
}
_NORMS = re.compile(r"(^|_)(gamma|beta|normalization)($|_)")
_OUTER = ("layers", "_layer_checkpoint_dependencies")
_Layer = tuple[str, dict[str, Array]]  # where it is in the file, and its variables by name


def read_state_dict(file: h5py.File) -> dict[str, Tensor]:
    """Read all layers' tensors, named `layer.parameter`. Raises `ValueError` for a layer whose
    variables are of no known kind."""
    with reading():
        has_names = "layer_names" in file.attrs
    tensors: dict[str, Tensor] = {}
    for path, arrays in _named(file) if has_names else _numbered(file):
        suffix = "_reverse" if re.search("(^|/)backward_", path) else ""
        layer = re.sub(
            "/((forward|backward)_)?(lstm_cell|lstm|layer|cell)(_\\d+)?(?=/|$)", "", path
        )
        try:
            own = _translate(arrays, suffix)
        except ValueError as error:
            raise ValueError(f"{path}: {error}") from error
        for parameter, array in own.items():
            tensors[f"{layer.replace('/', '.')}.{parameter}"] = torch.from_numpy(
                np.array(array, order="C")
            )
    return tensors


def _named(file: h5py.File) -> Iterator[_Layer]:
    """The variables of each layer and cell of the older layout, which have names."""
    for layer in read_names(file, "layer_names"):
        group = open_group(file, layer)
        found: dict[str, dict[str, Array]] = {}
        for variable in read_names(group, "weight_names"):
            path, _, name = variable.rpartition("/")
            found.setdefault(path, {})[name.split(":")[0]] = read_array(group, variable)
        yield from found.items()


def _numbered(file: h5py.File) -> Iterator[_Layer]:
    """The variables of each layer and cell of Keras 3's layout, which are numbered: their layer's
    class tells which is which."""
    groups: list[str] = []
    with reading():
        # Each once, and none behind a link. A damaged name is bytes.
        file.visit(lambda path: groups.append(str(path)))
    for path in groups:
        *outer, last = path.split("/")
        if last != "vars" or not outer or "optimizer" in outer:
            continue
        kind, count = re.sub(r"_\d+$", "", outer[-1]), len(open_group(file, path))
        if not count:
            continue
        names = _VARIABLES.get(kind, ())
        if count > len(names):
            raise ValueError(f"{path}: {_unknown(kind)}")
        arrays = (read_array(file, f"{path}/{number}") for number in range(count))
        place = "/".join(part for part in outer if part not in _OUTER)
        yield place, dict(zip(names, arrays, strict=False))


def _translate(arrays: Mapping[str, Array], suffix: str) -> dict[str, Array]:
    """A layer's tensors as torch's module has them."""
    match dict(arrays):
        case {"kernel": kernel, "recurrent_kernel": recurrent, **biases}:
            if kernel.shape[-1] != 4 * recurrent.shape[0]:
                raise ValueError("is a recurrent layer, but no LSTM")
            return parameters([kernel, recurrent, *biases.values()], suffix)
        case {"kernel": kernel, **biases} if kernel.ndim in (2, 3):
            return {"weight": kernel.transpose()} | biases
        case {"embeddings": weight}:
            return {"weight": weight}
    raise ValueError(_unknown(*arrays))


def _unknown(*names: str) -> str:
    """Why a layer's variables can't be taken, by their names or their class."""
    if any(map(_NORMS.search, names)):
        return (
            "is of a norm, whose eps no weights tell (Keras's own is 1e-3, torch's 1e-5); save the "
            "whole model: model.save('model.keras')"
        )
    return (
        f"is of a kind that is not served ({', '.join(sorted(names))}); save the whole model: "
        "model.save('model.keras')"
    )
