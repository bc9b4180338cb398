"""Examples in an `.npz`: sequences, and what their owner's module gives for each of them alone.

    inputs.NAME.0, inputs.NAME.1, …      [T, D] of floats or [T] of ids; of a model's only input
                                         `inputs.0`, `inputs.1`, … as well
    outputs.NAME.0, outputs.NAME.1, …    [T, width], [width], [T] of ids, or one id

Without a batch dimension. Knows the file; what the model needs is the proof's to say.
"""

from __future__ import annotations

import re
from collections.abc import Collection, Mapping
from pathlib import Path

import numpy as np

from ..engine.sequences import Array
from ..errors import ModelError
from ..model.config import ModelConfig
from ..quoting import listed
from .arrays import read_arrays
from .proof import Example

_KEY = re.compile(r"(inputs|outputs)\.(?:(\w+)\.)?([0-9]{1,6})")
_LAYOUT = "expected arrays named inputs.NAME.0, outputs.NAME.0, inputs.NAME.1, …"


def read_examples(path: Path, config: ModelConfig) -> list[Example]:
    """Read the examples for a model. Each has all of its inputs, and the same outputs.

    Raises `ModelError` in one line if the file can't be read, or misses something.
    """
    inputs: dict[int, dict[str, Array]] = {}
    outputs: dict[int, dict[str, Array]] = {}
    for key, array in _arrays(path).items():
        found = _KEY.fullmatch(key)
        if not found:
            raise ModelError(f"{path}: {key} is no name of an example's array; {_LAYOUT}")
        own = inputs if found[1] == "inputs" else outputs
        name = found[2] or _only(config.inputs if own is inputs else config.outputs, path, key)
        own.setdefault(int(found[3]), {})[name] = array
    if not inputs or not outputs:
        raise ModelError(f"{path}: holds no examples of inputs and outputs; {_LAYOUT}")
    first = next(iter(outputs.values()))
    for number in sorted(inputs | outputs):
        _check_names(path, f"inputs.*.{number}", inputs.get(number, {}), config.inputs)
        _check_names(path, f"outputs.*.{number}", outputs.get(number, {}), first)
    if unknown := [name for name in first if name not in config.outputs]:
        raise ModelError(
            f"{path}: the model has no output {unknown[0]!r}; it has: {listed(config.outputs)}"
        )
    return [
        Example({name: _as_input(inputs[number][name]) for name in config.inputs}, outputs[number])
        for number in sorted(inputs)
    ]


def _arrays(path: Path) -> dict[str, Array]:
    arrays = read_arrays(path)
    if not isinstance(arrays, dict):
        raise ModelError(f"{path}: is one array, not an .npz; {_LAYOUT}")
    return arrays


def _only(names: Collection[str], path: Path, key: str) -> str:
    if len(names) == 1:
        return next(iter(names))
    raise ModelError(f"{path}: {key} must name which it is of: {listed(names)}")


def _check_names(
    path: Path, keys: str, own: Mapping[str, Array], expected: Collection[str]
) -> None:
    if own.keys() != set(expected):
        given = listed(own) or "nothing"
        raise ModelError(f"{path}: {keys} are of {given}, expected: {listed(expected)}")


def _as_input(array: Array) -> Array:
    """Floats in the type that the server computes in, and ids in the one that callers send."""
    return array.astype(np.float32 if array.dtype.kind == "f" else np.int64)
