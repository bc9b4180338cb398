"""A layer's numbers in the files that Keras writes, in the order in which the layer made them.

Two layouts: that of Keras 3 (`layers/lstm_1/cell/vars/0`) tells layers apart by their classes and
their order, the older one (`lstm_1/lstm_1/lstm_cell/kernel:0`) by their names.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Protocol

import h5py
import numpy as np

from ....quoting import one_line
from ..drafts import Array

# Where Keras 3 keeps a wrapper's variables: in the layers inside, one after the other.
_PARTS: Mapping[str, tuple[str, ...]] = {
    "LSTM": ("cell",),
    "Bidirectional": ("forward_layer/cell", "backward_layer/cell"),
    "TimeDistributed": ("layer",),
}
_CONTAINERS = ("layers", "_layer_checkpoint_dependencies")  # the latter in TensorFlow 2.12 to 2.15


class Weights(Protocol):
    """The weights of a model's layers, or of a model inside of it."""

    def of(self, name: str, kind: str, number: int) -> list[Array]:
        """The variables of a layer, by its name; `number` counts the model's layers of its kind."""
        ...

    def inside(self, name: str, kind: str, number: int) -> Weights:
        """The weights of a model that is a layer of this one."""
        ...


class NumberedWeights:
    """The layout of Keras 3."""

    def __init__(self, group: h5py.Group):
        self._group = group
        found = next((name for name in _CONTAINERS if name in group), "")
        self._layers = open_group(group, found) if found else group

    def of(self, name: str, kind: str, number: int) -> list[Array]:
        layer = self._layer(kind, number)
        arrays = []
        for part in _PARTS.get(kind, ("",)):
            variables = open_group(layer, f"{part}/vars".lstrip("/"))
            with reading():
                keys = sorted(variables, key=_as_number)
            arrays += [read_array(variables, key) for key in keys]
        return arrays

    def inside(self, name: str, kind: str, number: int) -> NumberedWeights:
        return NumberedWeights(self._layer(kind, number))

    def _layer(self, kind: str, number: int) -> h5py.Group:
        return open_group(self._layers, snake_case(kind) + (f"_{number}" if number else ""))


class NamedWeights:
    """The older layout: each layer's group lists the names of its variables."""

    def __init__(self, group: h5py.Group, names: list[str] | None = None):
        self._group = group
        self._names = names  # of a model inside: its variables are among the outer one's

    def of(self, name: str, kind: str, number: int) -> list[Array]:
        if self._names is None:
            group = open_group(self._group, name)
            return [read_array(group, variable) for variable in read_names(group, "weight_names")]
        own = [variable for variable in self._names if name in variable.split("/")[:-1]]
        return [read_array(self._group, variable) for variable in own]

    def inside(self, name: str, kind: str, number: int) -> NamedWeights:
        if self._names is not None:
            return self
        group = open_group(self._group, name)
        return NamedWeights(group, read_names(group, "weight_names"))


@contextmanager
def reading() -> Iterator[None]:
    """Say so where HDF5 finds the file damaged, for which it has many types of errors."""
    try:
        yield
    except Exception as error:
        raise ValueError(f"the file is damaged: {one_line(str(error))}") from error


def open_weights(file: h5py.Group) -> Weights:
    """The weights in a file, whichever layout it has."""
    with reading():
        has_names = "layer_names" in file.attrs or "layer_names0" in file.attrs
        is_whole = "model_weights" in file
    if is_whole:
        return NamedWeights(open_group(file, "model_weights"))
    return NamedWeights(file) if has_names else NumberedWeights(file)


def snake_case(kind: str) -> str:
    """A class's name as files of Keras 3 have it: `global_max_pooling1d` of GlobalMaxPooling1D."""
    apart = re.sub(r"(?<=[a-z])(?=[A-Z])|(?<=.)(?=[A-Z][a-z])", "_", kind)
    return apart.lower()


def open_group(group: h5py.Group, path: str) -> h5py.Group:
    found = _entry(group, path)
    if not isinstance(found, h5py.Group):
        raise ValueError(f"the file has no group {path} for it")
    return found


def read_array(group: h5py.Group, path: str) -> Array:
    """Read a dataset that stands in this file as it is: one that is compressed, elsewhere or not
    there could take any memory, and Keras writes none.
    """
    found = _entry(group, path)
    if not isinstance(found, h5py.Dataset):
        raise ValueError(f"the file has no dataset {path} for it")
    with reading():
        is_plain = found.dtype.kind in "fiu" and not found.is_virtual and found.external is None
        is_whole = found.id.get_storage_size() == found.nbytes
    if not is_plain:
        raise ValueError(f"{path} is no array of numbers in this file")
    if not is_whole:
        raise ValueError(f"{path} is compressed or incomplete; save the model with Keras anew")
    with reading():
        return np.asarray(found[()])


def _entry(group: h5py.Group, path: str) -> object:
    """What is under a path, unless a link on the way leads elsewhere."""
    found: object = group
    for name in path.split("/"):
        if not isinstance(found, h5py.Group):
            return None
        with reading():
            if not isinstance(found.get(name, getlink=True), h5py.HardLink):
                return None
            found = found[name]
    return found


def read_names(group: h5py.Group, attribute: str) -> list[str]:
    """A list of names, which Keras splits where it is long: `weight_names0`, `weight_names1` …"""
    with reading():
        parts = [group.attrs[attribute]] if attribute in group.attrs else []
        while (numbered := f"{attribute}{len(parts)}") in group.attrs:
            parts.append(group.attrs[numbered])
    names = [name for part in parts for name in np.atleast_1d(part).tolist()]
    return [name.decode() if isinstance(name, bytes) else str(name) for name in names]


def _as_number(word: str) -> int:
    return int(word) if word.isdecimal() else -1
