"""`ModelConfig`: what `config.json` in a model folder says: a graph of named layers, what they
read, and what callers may ask for. Pure data; computes nothing.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping
from functools import cached_property
from typing import Annotated, Any, Literal, NamedTuple, Self

from pydantic import Field, PositiveInt, model_validator
from pydantic_core import PydanticCustomError

from .layers import AnyLayer
from .layers.interface import LayerConfig, Name, Reference, Size, Strict
from .layers.lstm import LstmConfig
from .layers.values import EVERY_STEP, Value

STATE = "state"  # the output that is two tensors: `hidden` and `cell`

# Outputs whose meaning every client knows: whether they have a row for each step (None: either),
# and whether they are ids.
KNOWN: dict[str, tuple[bool | None, bool]] = {
    "states": (True, False),
    "final": (False, False),
    "mean": (False, False),
    "max": (False, False),
    "logits": (None, False),
    "probabilities": (None, False),
    "labels": (None, True),
}

Label = Annotated[str, Field(max_length=1000)]


class InputConfig(Strict):
    """One of a model's inputs: token ids [T], or floats [T, width]."""

    ids: Size | None = Field(default=None, description="Token ids are 0 to ids - 1.")
    width: Size | None = Field(default=None, description="The floats of a step.")
    padding_id: int | None = Field(
        default=None,
        description="An id that a sequence must not have: the model's owner takes it for padding.",
    )

    @model_validator(mode="after")
    def _agree(self) -> Self:
        if (self.ids is None) == (self.width is None):
            raise problem("must have either ids or width")
        if self.padding_id is not None and not 0 <= self.padding_id < (self.ids or 0):
            raise problem("padding_id must be one of the ids")
        return self

    @property
    def value(self) -> Value:
        """The form of the input in the graph."""
        return Value(self.width or 1, ids=self.ids or 0)


class StateShape(NamedTuple):
    """The LSTM state of a sequence: hidden [rows, hidden] and cell [rows, cell]."""

    rows: int  # L*K: layer by layer, forward then backward
    hidden: int  # P
    cell: int  # H
    directions: int  # K


class ModelConfig(Strict):
    """A model as a graph of named layers."""

    schema_address: str | None = Field(
        default=None, alias="$schema", exclude=True, description="For editors; not read."
    )
    format: Literal[2] = 2
    version: PositiveInt = 1
    inputs: dict[Name, InputConfig] = Field(min_length=1, max_length=16)
    layers: tuple[AnyLayer, ...] = Field(min_length=1, max_length=4096)
    outputs: dict[Name, Reference] = Field(min_length=1, max_length=64)
    labels: dict[Name, tuple[Label, ...]] = Field(
        default_factory=dict, description="For an output, the names of its classes or ids."
    )

    @model_validator(mode="before")
    @classmethod
    def _read_layer_before(cls, data: Any) -> Any:
        """Fill in what a layer reads that names nothing: the layer before, or the only input."""
        if not isinstance(data, dict) or not isinstance(data.get("layers"), list | tuple):
            return data
        inputs = data.get("inputs")
        before = next(iter(inputs)) if isinstance(inputs, dict) and len(inputs) == 1 else None
        layers = []
        for layer in data["layers"]:
            if isinstance(layer, dict):
                if "inputs" not in layer and before is not None:
                    layer = layer | {"inputs": (before,)}
                before = layer.get("name")
            layers.append(layer)
        return data | {"layers": layers}

    @model_validator(mode="after")
    def _agree(self) -> Self:
        for name, reference in self.outputs.items():
            if reference not in self.values:
                raise problem(f"outputs.{name}: no layer gives {reference!r}")
            value = self.values[reference]
            if name == STATE:
                raise problem("outputs.state: is offered by itself; choose another name")
            per_step, ids = KNOWN.get(name, (None, bool(value.ids)))
            if bool(value.ids) != ids or per_step not in (None, value.per_step):
                raise problem(f"outputs.{name}: {reference!r} has {value.describe()}")
        for name, labels in self.labels.items():
            if name not in self.outputs:
                raise problem(f"labels.{name}: there is no such output")
            output = self.output_values[name]
            count = output.ids or output.width
            if labels and len(labels) != count:
                raise problem(
                    f"labels.{name}: expected one for each of {count} classes, got {len(labels)}"
                )
        if not self.lstms:
            raise problem("layers: must have an lstm")
        return self

    @cached_property
    def values(self) -> Mapping[str, Value]:
        """The form of each value of the graph, by the name that layers read it by."""
        values = {name: config.value for name, config in self.inputs.items()}
        for layer in self.layers:
            if layer.name in values:
                raise problem(f"layers: two are named {layer.name!r}, or an input is, too")
            values |= _values_of(layer, values)
        return values

    @cached_property
    def output_values(self) -> Mapping[str, Value]:
        """The form of each output but `state`."""
        return {name: self.values[reference] for name, reference in self.outputs.items()}

    @cached_property
    def lstms(self) -> tuple[LstmConfig, ...]:
        """The LSTMs, in order."""
        return tuple(layer for layer in self.layers if isinstance(layer, LstmConfig))

    @cached_property
    def state(self) -> StateShape | None:
        """The LSTM's state, which a caller may give and ask for: of a model with one LSTM, which
        begins with the first step and has no initial states of its own."""
        lstm, *others = self.lstms
        if others or lstm.reverse or lstm.initial_states:
            return None
        return StateShape(lstm.state_rows, lstm.state_size, lstm.hidden_size, lstm.num_directions)

    @cached_property
    def output_names(self) -> tuple[str, ...]:
        """All that may be asked for."""
        return (*self.outputs, *((STATE,) if self.state else ()))

    @cached_property
    def min_steps(self) -> int:
        """The steps of the shortest sequence that the model takes."""
        return max(value.grid.min_steps for value in self.values.values())

    def needed(self, outputs: Collection[str]) -> tuple[LayerConfig, ...]:
        """The layers that these outputs depend on, in order."""
        wanted = {self.outputs[name] for name in outputs if name != STATE}
        if STATE in outputs:
            wanted.add(self.lstms[0].name)
        names = {reference.split(".")[0] for reference in wanted}
        needed = []
        for layer in reversed(self.layers):
            if layer.name in names:
                needed.append(layer)
                names |= {reference.split(".")[0] for reference in layer.inputs}
        return tuple(reversed(needed))

    def unsliceable(self, output: str) -> str | None:
        """Why the output can't be computed a slice of steps at a time, or None if it can."""
        for layer in self.needed([output]):
            if reason := layer.unsliceable:
                return f"layer {layer.name}: {reason}"
        return None

    def not_live(self, output: str) -> str | None:
        """Why the output can't be given of a sequence that is still going on, or None if it can."""
        if output == STATE or not self.output_values[output].per_step:
            return "it is one of the whole sequence"
        for layer in self.needed([output]):
            if reason := layer.not_live:
                return f"layer {layer.name}: {reason}"
            if any(not self.values[reference].per_step for reference in layer.inputs):
                return f"layer {layer.name}: it reads what is known of whole sequences only"
            if self.values[layer.name].grid != EVERY_STEP:
                return f"layer {layer.name}: it has no row for each step"
        return None


def _values_of(layer: LayerConfig, values: Mapping[str, Value]) -> dict[str, Value]:
    place = f"layers.{layer.name}"
    if missing := [reference for reference in layer.inputs if reference not in values]:
        raise problem(f"{place}: reads {missing[0]!r}, which nothing before it gives")
    least, most = layer.number_of_inputs or 1, layer.number_of_inputs or len(layer.inputs)
    if not least <= len(layer.inputs) <= most:
        raise problem(f"{place}: must read {least} values, got {len(layer.inputs)}")
    try:
        gives = layer.gives(*(values[reference] for reference in layer.inputs))
    except ValueError as error:
        raise problem(f"{place}: {error}") from error
    return {f"{layer.name}.{part}" if part else layer.name: v for part, v in gives.items()}


def problem(reason: str) -> PydanticCustomError:
    """Make what pydantic takes as a `ValueError`, but without "Value error, " before the words."""
    return PydanticCustomError("model", "{reason}", {"reason": reason})
