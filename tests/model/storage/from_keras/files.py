"""Files as Keras 3 (`.keras`, `.weights.h5`) and Keras 2 (`.h5`) lay them out, written by hand."""

from __future__ import annotations

import io
import json
import zipfile
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import h5py
import numpy as np

from tests.model.storage.from_keras.reference import LAYERS, Array

# A cell's variables as both layouts name and order them.
_CELL = ("kernel", "recurrent_kernel", "bias")
_NAMES: Mapping[str, Sequence[str]] = {
    "Embedding": ("embeddings",),
    "BatchNormalization": ("gamma", "beta", "moving_mean", "moving_variance"),
    "LayerNormalization": ("gamma", "beta"),
    "Normalization": ("mean", "variance", "count"),
    "SeparableConv1D": ("depthwise_kernel", "pointwise_kernel", "bias"),
}


_GROUPS = {  # of Keras 3
    "Activation": "activation",
    "BatchNormalization": "batch_normalization",
    "Bidirectional": "bidirectional",
    "Conv1D": "conv1d",
    "Dense": "dense",
    "DepthwiseConv1D": "depthwise_conv1d",
    "Dropout": "dropout",
    "Embedding": "embedding",
    "GlobalAveragePooling1D": "global_average_pooling1d",
    "GlobalMaxPooling1D": "global_max_pooling1d",
    "LSTM": "lstm",
    "LayerNormalization": "layer_normalization",
    "Masking": "masking",
    "Normalization": "normalization",
    "SeparableConv1D": "separable_conv1d",
    "TimeDistributed": "time_distributed",
}


@dataclass
class Layer:
    """A layer, its config and its variables in Keras's order."""

    kind: str
    config: dict[str, Any]
    variables: list[Array] = field(default_factory=list)

    @property
    def name(self) -> str:
        return str(self.config["name"])

    @property
    def parts(self) -> dict[str, list[Array]]:
        """The groups that Keras 3 keeps the variables in."""
        if self.kind == "LSTM":
            return {"vars": [], "cell/vars": self.variables}
        if self.kind == "Bidirectional":
            half = len(self.variables) // 2
            forward, backward = self.variables[:half], self.variables[half:]
            return {"forward_layer/cell/vars": forward, "backward_layer/cell/vars": backward}
        return {"layer/vars" if self.kind == "TimeDistributed" else "vars": self.variables}

    @property
    def named(self) -> list[tuple[str, Array]]:
        """The variables as Keras 2 names them."""
        if self.kind == "Bidirectional":
            half = len(self.variables) // 2
            return [
                (f"{self.name}/{way}_lstm/lstm_cell/{name}:0", array)
                for way, own in (
                    ("forward", self.variables[:half]),
                    ("backward", self.variables[half:]),
                )
                for name, array in zip(_CELL, own, strict=False)
            ]
        names = _NAMES.get(self.kind, _CELL if self.kind == "LSTM" else ("kernel", "bias"))
        cell = "lstm_cell/" if self.kind == "LSTM" else ""
        return [
            (f"{self.name}/{cell}{name}:0", array)
            for name, array in zip(names, self.variables, strict=False)
        ]


def run(layers: Sequence[Layer], x: Any) -> Array:
    """What the sequential model gives for one sequence."""
    for layer in layers:
        x = LAYERS[layer.kind](layer.config, layer.variables, x)
    return np.asarray(x)


def sequential(layers: Sequence[Layer], shape: Sequence[int | None]) -> dict[str, Any]:
    """The config of a sequential model, as Keras 3 has it."""
    first = {"batch_shape": shape, "dtype": "float32", "name": "sequence"}
    entries = [("InputLayer", first), *((layer.kind, layer.config) for layer in layers)]
    return {
        "module": "keras",
        "class_name": "Sequential",
        "config": {
            "name": "sequential",
            "layers": [
                {
                    "module": "keras.layers",
                    "class_name": kind,
                    "config": config,
                    "registered_name": None,
                }
                for kind, config in entries
            ],
        },
        "registered_name": "Sequential",
    }


def write_keras(path: Path, config: Mapping[str, Any], layers: Sequence[Layer]) -> Path:
    """A `.keras` file."""
    weights = io.BytesIO()
    with h5py.File(weights, "w") as file:
        fill_numbered(file, layers)
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr("metadata.json", json.dumps({"keras_version": "3.15.1"}))
        archive.writestr("config.json", json.dumps(config))
        archive.writestr("model.weights.h5", weights.getvalue())
    return path


def write_numbered(path: Path, layers: Sequence[Layer]) -> Path:
    """A `.weights.h5` file of Keras 3."""
    with h5py.File(path, "w") as file:
        fill_numbered(file, layers)
    return path


def fill_numbered(file: h5py.File, layers: Sequence[Layer]) -> None:
    counted: Counter[str] = Counter()
    file.create_group("vars")
    for layer in layers:
        kind = _GROUPS.get(layer.kind, layer.kind.lower())
        number = counted[kind]
        counted[kind] += 1
        for part, arrays in layer.parts.items():
            group = file.create_group(f"layers/{kind}{f'_{number}' if number else ''}/{part}")
            for place, array in enumerate(arrays):
                group[str(place)] = array


def write_named(path: Path, config: Mapping[str, Any] | None, layers: Sequence[Layer]) -> Path:
    """An `.h5` file of Keras 2: of a whole model, or without a config of its weights."""
    with h5py.File(path, "w") as file:
        group = file
        if config is not None:
            file.attrs["model_config"] = json.dumps(config)
            group = file.create_group("model_weights")
        group.attrs["layer_names"] = [layer.name.encode() for layer in layers]
        for layer in layers:
            own = group.create_group(layer.name)
            own.attrs["weight_names"] = [name.encode() for name, _ in layer.named]
            for name, array in layer.named:
                own[name] = array
    return path


def write_nested(
    folder: Path, config: Mapping[str, Any], outer: Sequence[Layer], inner: Sequence[Layer]
) -> list[Path]:
    """Files of a model with a model `inner` inside, in both layouts."""
    numbered = write_keras(folder / "model.keras", config, outer)
    weights = io.BytesIO(zipfile.ZipFile(numbered).read("model.weights.h5"))
    with h5py.File(weights, "a") as file:
        fill_numbered(file.create_group("layers/sequential"), inner)
    with zipfile.ZipFile(numbered, "w") as archive:
        archive.writestr("config.json", json.dumps(config))
        archive.writestr("model.weights.h5", weights.getvalue())
    named = write_named(folder / "model.h5", config, outer)
    with h5py.File(named, "a") as file:
        own = file.create_group("model_weights/inner")
        arrays = dict(pair for layer in inner for pair in layer.named)
        own.attrs["weight_names"] = [name.encode() for name in arrays]
        for name, array in arrays.items():
            own[name] = array
    return [numbered, named]
