"""`ModelConfig`: what `config.json` in a model folder says: a graph of named layers, what they
read, and what callers may ask for. Pure data; computes nothing.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping
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

# Bounds beyond any model, so that no config makes what is said or computed of it grow without one.
_MOST_WIDTH = 2**28  # columns of a value
_MOST_STEPS = 2**20  # that a sequence may need at least
_MOST_LSTM_LAYERS = 1024  # in all: each is built before its weights are looked for
_MOST_LABEL_BYTES = 2**20  # in all: replies have them


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
    layers: tuple[AnyLayer, ...] = Field(min_length=1, max_length=1024)
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
            if name in (STATE, "hidden", "cell"):
                raise problem(
                    f"outputs.{name}: is a name of the LSTM's state, which is offered by itself"
                )
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
        self._check_bounds()
        return self

    def _check_bounds(self) -> None:
        if not self.lstms:
            raise problem("layers: must have an lstm")
        if sum(lstm.num_layers for lstm in self.lstms) > _MOST_LSTM_LAYERS:
            raise problem(f"layers: must have at most {_MOST_LSTM_LAYERS} layers of LSTMs in all")
        if self.min_steps > _MOST_STEPS:
            raise problem(
                f"layers: their windows need sequences of more than {_MOST_STEPS} steps, the most "
                "that they may"
            )
        size = sum(len(label.encode()) for labels in self.labels.values() for label in labels)
        if size > _MOST_LABEL_BYTES:
            raise problem(f"labels: must be at most {_MOST_LABEL_BYTES} bytes in all, got {size}")

    @cached_property
    def values(self) -> Mapping[str, Value]:
        """The form of each value of the graph, by the name that layers read it by."""
        values = {name: config.value for name, config in self.inputs.items()}
        for layer in self.layers:
            if layer.name == "training":
                raise problem("layers: 'training' is torch's own name for something else")
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
        return self._slice_reasons.get(self._source(output))

    def not_live(self, output: str) -> str | None:
        """Why the output can't be given of a sequence that is still going on, or None if it can."""
        if output == STATE or not self.output_values[output].per_step:
            return "it is one of the whole sequence"
        return self._live_reasons.get(self._source(output))

    def _source(self, output: str) -> str:
        """The layer, or the input, that an output comes from."""
        reference = self.lstms[0].name if output == STATE else self.outputs[output]
        return reference.split(".")[0]

    @cached_property
    def _slice_reasons(self) -> Mapping[str, str]:
        return self._first_reasons(lambda layer: layer.unsliceable)

    @cached_property
    def _live_reasons(self) -> Mapping[str, str]:
        def reason_of(layer: LayerConfig) -> str | None:
            if layer.not_live:
                return layer.not_live
            if any(not self.values[reference].per_step for reference in layer.inputs):
                return "it reads what is known of whole sequences only"
            has_each = self.values[layer.name].grid == EVERY_STEP
            return None if has_each else "it has no row for each step"

        return self._first_reasons(reason_of)

    def _first_reasons(self, reason_of: Callable[[LayerConfig], str | None]) -> dict[str, str]:
        """By layer, the reason of the first layer on the way to it that has one."""
        found: dict[str, tuple[int, str]] = {}
        for index, layer in enumerate(self.layers):
            sources = (reference.split(".")[0] for reference in layer.inputs)
            reasons = [found[name] for name in sources if name in found]
            if own := reason_of(layer):
                reasons.append((index, f"layer {layer.name}: {own}"))
            if reasons:
                found[layer.name] = min(reasons)
        return {name: reason for name, (_, reason) in found.items()}


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
    if any(value.width > _MOST_WIDTH for value in gives.values()):
        raise problem(f"{place}: gives rows of more than {_MOST_WIDTH} columns")
    return {f"{layer.name}.{part}" if part else layer.name: v for part, v in gives.items()}


def problem(reason: str) -> PydanticCustomError:
    """Make what pydantic takes as a `ValueError`, but without "Value error, " before the words."""
    return PydanticCustomError("model", "{reason}", {"reason": reason})
