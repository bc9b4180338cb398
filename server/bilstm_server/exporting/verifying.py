"""A model folder, held against the module that it came from, or against examples of its outputs."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path

from ..errors import ModelError
from ..model.config import ModelConfig
from ..model.layers.values import Value
from ..model.storage.folder import read_config
from ..quoting import listed
from .converting import Converted
from .expected import read_examples
from .proof import Example, Proof, prove
from .saving import examples_of


@dataclass(frozen=True)
class Verified:
    """How far a folder's outputs are from what they should be, and what was not compared."""

    proof: Proof
    notes: tuple[str, ...]


def verify_module(folder: Path, converted: Converted) -> Verified:
    """Compare the outputs of a folder, as they are served, with what the module gives.

    Inputs and outputs belong together by their names, inputs else by their order. Raises
    `ModelError` where nothing can be compared.
    """
    config = read_config(folder)
    inputs = _inputs(folder, config, converted.config)
    ours, theirs = config.output_values, converted.config.output_values
    compared = [name for name in ours if name in theirs]
    if not compared:
        raise ModelError(
            f"{folder}: no output of its has the name of one of the module's: it has "
            f"{listed(ours)}, the module {listed(theirs)}; name them with --outputs"
        )
    for name in compared:
        if _form(ours[name]) != _form(theirs[name]):
            raise ModelError(
                f"{folder}: {name} is {ours[name].describe()}, the module's is "
                f"{theirs[name].describe()}"
            )
    examples = [
        Example(
            {inputs[name]: array for name, array in example.inputs.items()},
            {name: example.outputs[name] for name in compared},
        )
        for example in examples_of(converted)
    ]
    notes = (*_left(ours, theirs), *_padding(inputs, config, converted.config))
    return Verified(prove(folder, examples), notes)


def verify_examples(folder: Path, expected: Path) -> Verified:
    """Compare the outputs of a folder, as they are served, with those in a file of examples."""
    config = read_config(folder)
    examples = read_examples(expected, config)
    left = [name for name in config.outputs if name not in examples[0].outputs]
    notes = [f"not compared, since {expected} has none: {listed(left)}"] if left else []
    return Verified(prove(folder, examples), tuple(notes))


def _inputs(folder: Path, config: ModelConfig, other: ModelConfig) -> Mapping[str, str]:
    """The name in the folder of each of the module's inputs."""
    ours, theirs = config.inputs, other.inputs
    if ours.keys() == theirs.keys():
        names = {name: name for name in theirs}
    else:
        names = dict(zip(theirs, ours, strict=False))
    for its, own in names.items():
        given, expected = theirs[its].value, ours[own].value
        if bool(given.ids) != bool(expected.ids) or given.width != expected.width:
            names = {}
            break
    if len(names) != len(ours) or len(names) != len(theirs):
        raise ModelError(
            f"{folder}: reads {_described(config)}, the module {_described(other)}: it was made "
            "from another module"
        )
    return names


def _padding(names: Mapping[str, str], config: ModelConfig, other: ModelConfig) -> Iterator[str]:
    for its, own in names.items():
        padding = other.inputs[its].padding_id
        if padding is not None and config.inputs[own].padding_id != padding:
            yield (
                f"not the module's: it takes id {padding} of {own} for padding, and what is served "
                f'computes with it; "padding_id": {padding} in config.json refuses it'
            )


def _described(config: ModelConfig) -> str:
    return listed([f"{k} ({given.value.describe()})" for k, given in config.inputs.items()])


def _form(value: Value) -> tuple[object, ...]:
    return value.per_step, bool(value.ids), value.width


def _left(ours: Mapping[str, Value], theirs: Mapping[str, Value]) -> Iterator[str]:
    if left := [name for name in ours if name not in theirs]:
        yield f"not compared, since the module returns none: {listed(left)}"
    if left := [name for name in theirs if name not in ours]:
        yield f"not compared, since the folder has none: {listed(left)}"
