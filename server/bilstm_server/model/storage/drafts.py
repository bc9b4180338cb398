"""A model's config and tensors while a reader of another framework's file puts them together.

Knows layer types; knows no file. Every problem is a `ValueError` in words, which the reader
completes with the place in its file.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from pydantic import TypeAdapter, ValidationError
from torch import Tensor

from ...quoting import first_problem
from ..config import KNOWN, STATE, ModelConfig
from ..layers import AnyLayer
from ..layers.interface import LayerConfig
from ..layers.values import Value

Array = NDArray[Any]

_MOST_CHARACTERS = 64  # of a name
_LAYER: TypeAdapter[LayerConfig] = TypeAdapter(AnyLayer)


class ForeignModel(NamedTuple):
    """What a file of another framework holds."""

    config: ModelConfig | None  # None: the file has weights alone, named as in a state_dict
    tensors: dict[str, Tensor]  # by `layer.parameter`
    notes: tuple[str, ...]  # what its numbers depend on beyond its sequences


class Draft:
    """A graph that grows layer by layer. Values are named as in `config.json`."""

    def __init__(self) -> None:
        self.inputs: dict[str, dict[str, int]] = {}
        self.values: dict[str, Value] = {}
        self.notes: list[str] = []  # what the owner must know, since no config says it
        self.types: dict[str, str] = {}  # of the layer that gives a value
        self._layers: dict[str, dict[str, Any]] = {}
        self._tensors: dict[str, dict[str, Tensor]] = {}

    def add_input(self, wanted: str, width: int | None = None) -> str:
        """Add an input of floats, or one whose ids `set_ids` counts; returns its name, which is as
        near to the wanted one as the config allows."""
        name = self._free_name(wanted)
        self.inputs[name] = {}
        if width is not None:
            self.inputs[name] = {"width": width}
            self.values[name] = Value(width)
        return name

    def set_ids(self, name: str, ids: int) -> None:
        """Say that an input is ids from 0 to `ids` - 1."""
        value = Value(1, ids=ids)
        if name not in self.inputs or self.values.setdefault(name, value) != value:
            raise ValueError(f"reads {name} as ids below {ids}, which it is not")
        self.inputs[name]["ids"] = ids

    def set_padding(self, name: str, padding_id: int) -> None:
        """Say that an id stands for padding: it is refused at the door, since the model's owner
        leaves out steps that have it."""
        if name not in self.inputs:
            raise ValueError(f"takes {padding_id} for padding in {name}, which is no input")
        if self.inputs[name].setdefault("padding_id", padding_id) != padding_id:
            raise ValueError(f"takes {padding_id} for padding, and another layer another id")

    def note(self, words: str) -> None:
        """Keep what the owner must know, since no config says it."""
        if words not in self.notes:
            self.notes.append(words)

    def note_masking(self, name: str, number: float) -> None:
        """Say that steps of nothing but `number` count here, and not in the owner's module."""
        self.note(
            f"steps of {name} that hold nothing but {number:g} are left out by the file's model; "
            "here all steps count, so send sequences without such padding"
        )

    def value(self, reference: str) -> Value:
        """The form of a value that layers may read."""
        if reference not in self.values:
            raise ValueError(
                f"reads {reference}, which has one number a step and is no layer's ids; floats "
                "are [batch, steps, features]"
            )
        return self.values[reference]

    def add(
        self,
        type: str,
        reads: str | Sequence[str],
        wanted: str = "",
        tensors: Mapping[str, Array] | None = None,
        **fields: Any,
    ) -> str:
        """Add a layer; returns the name of its value. Its tensors have torch's names and shapes.

        Raises `ValueError` if the type does not have such fields, or can't read such values.
        """
        inputs = [reads] if isinstance(reads, str) else list(reads)
        name = self._free_name(wanted or type, fields.get("function", type))
        layer = {"name": name, "type": type, "inputs": inputs, **fields}
        try:
            config = _LAYER.validate_python(layer)
        except ValidationError as error:
            raise ValueError(first_problem(error)) from error
        forms = [self.value(read) for read in inputs]
        own = {key: _tensor(array) for key, array in (tensors or {}).items()}
        for part, value in config.gives(*forms).items():
            reference = f"{name}.{part}" if part else name
            self.values[reference] = value
            self.types[reference] = type
        _check(own, config, forms)
        self._layers[name] = layer
        self._tensors[name] = own
        return name

    def reads(self, reference: str) -> list[str]:
        """The values that the layer behind a value reads; none for an input."""
        layer = self._layers.get(reference.split(".")[0])
        return list(layer["inputs"]) if layer else []

    def finish(self, results: Mapping[str, str]) -> ForeignModel:
        """The model that gives these values, by name. What no output needs is left out.

        A single result gets the names that clients know, by what gives it: `logits`, `states` …;
        and the states of the last LSTM are an output too.
        """
        outputs = {_own_name(name): reference for name, reference in results.items()}
        if len(outputs) < len(results):
            raise ValueError(f"has outputs that would have one name: {', '.join(results)}")
        if len(results) == 1:
            ((name, reference),) = results.items()
            outputs = self._known_outputs(name, reference)
        if lstms := [name for name, kind in self.types.items() if kind == "lstm"]:
            outputs.setdefault("states", lstms[-1].split(".")[0])
        needed = self._needed(outputs.values())
        try:
            config = ModelConfig.model_validate(
                {
                    "inputs": {name: form for name, form in self.inputs.items() if name in needed},
                    "layers": [layer for name, layer in self._layers.items() if name in needed],
                    "outputs": outputs,
                }
            )
        except ValidationError as error:
            raise ValueError(first_problem(error)) from error
        tensors = {
            f"{layer}.{parameter}": tensor
            for layer, own in self._tensors.items()
            if layer in needed
            for parameter, tensor in own.items()
        }
        return ForeignModel(config, tensors, tuple(self.notes))

    def _known_outputs(self, name: str, reference: str) -> dict[str, str]:
        """The names that every client knows for the model's only result, or else its own."""
        value, kind = self.values[reference], self.types.get(reference)
        reads = self.reads(reference)
        if value.ids and kind:
            return {"labels": reference}
        if kind == "linear":
            return {"logits": reference}
        if kind == "softmax" or (
            self._is_sigmoid(reference) and self.types.get(reads[0]) == "linear"
        ):
            is_log = self._layers[reference].get("log", False)
            known = {
                "logits": reads[0],
                "log_probabilities" if is_log else "probabilities": reference,
            }
            if kind == "softmax" and value.width > 1:
                known["labels"] = self.add("argmax", reads[0], "labels")
            return known
        if kind == "lstm" and not reference.endswith(".cell"):
            return {"states" if value.per_step else "final": reference}
        if kind in ("last", "first") and self.types.get(reads[0]) == "lstm":
            return {"final": reference}
        return {kind if kind in ("final", "mean", "max") else _own_name(name): reference}

    def _is_sigmoid(self, reference: str) -> bool:
        return self._layers.get(reference, {}).get("function") == "sigmoid"

    def _needed(self, references: Iterable[str]) -> set[str]:
        """The inputs and layers that these values depend on."""
        names = {reference.split(".")[0] for reference in references}
        for name, layer in reversed(self._layers.items()):
            if name in names:
                names |= {reference.split(".")[0] for reference in layer["inputs"]}
        return names

    def _free_name(self, wanted: str, kind: str = "") -> str:
        """A name that the config allows and that is not taken: the wanted one, or if it is taken
        with its kind, or else with a number."""
        name = word = _word(wanted)
        number = 0
        if kind and self._is_taken(name):
            name = word = f"{word}_{kind}"
        while self._is_taken(name):
            number += 1
            name = f"{word}_{number}"
        return name

    def _is_taken(self, name: str) -> bool:
        return name in self._layers or name in self.inputs


def _word(wanted: str) -> str:
    """A name that the config allows, short enough for what may be added to it."""
    word = re.sub(r"\W", "_", wanted, flags=re.ASCII)[: _MOST_CHARACTERS // 2]
    return word if re.match(r"[A-Za-z_]", word) else f"_{word}"


def _own_name(wanted: str) -> str:
    """An output's name in its owner's words, unless clients know another thing by it."""
    word = _word(wanted)
    return f"{word}_output" if word in (*KNOWN, STATE) else word


def _tensor(array: Array) -> Tensor:
    # A copy: what is read from a file or a view of it must neither change nor keep it.
    return torch.from_numpy(np.array(array, np.float32, order="C"))


def _check(tensors: Mapping[str, Tensor], config: LayerConfig, inputs: Sequence[Value]) -> None:
    """Raise `ValueError` unless the tensors are the layer's parameters."""
    with torch.device("meta"):
        expected = config.build(*inputs).state_dict()
    for name, tensor in expected.items():
        own = list(tensors[name].shape) if name in tensors else None
        if own != list(tensor.shape):
            raise ValueError(f"{name} is {own or 'missing'}, expected {list(tensor.shape)}")
        if not tensors[name].isfinite().all():
            raise ValueError(f"{name} holds NaN or infinity, in float32 at least")
    if unknown := tensors.keys() - expected.keys():
        raise ValueError(f"has a tensor {min(unknown)} too many")
