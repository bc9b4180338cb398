"""A Keras model's graph, followed from its outputs back to its inputs.

Owns which layer reads what; what a layer becomes is in `layers`.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from ....quoting import quoted
from ..drafts import Draft
from .call import Call
from .calls import Arguments, Source, find_sources, parse_call, parse_outputs
from .layers import convert
from .settings import Settings
from .weights import Weights

_MODELS = ("Functional", "Model", "Sequential")
_PACKAGES = ("keras", "tf_keras", "tensorflow")
# What Keras computes masks with, of `not_equal(ids, 0)`: true at all steps where that is.
_MASKS = ("Any", "Concatenate", "ExpandDims", "LogicalOr")
_CONSTANT_MASKS = ("OnesLike", "ZerosLike")

Place = tuple[str, int]  # a layer, and which of its calls


@dataclass(frozen=True, slots=True)
class _Layer:
    name: str
    kind: str
    number: int  # among the model's layers of its class
    entry: Settings
    calls: Sequence[Arguments]

    @property
    def settings(self) -> Settings:
        return self.entry.settings("config")


class Model:
    """A Sequential or functional model, or one that is a layer of another."""

    def __init__(self, entry: Settings, weights: Weights, draft: Draft, prefix: str = ""):
        kind = _kind(entry)
        if kind not in _MODELS:
            raise ValueError(
                f"is a {quoted(kind)}, and its code alone says what it computes; Sequential and "
                "functional models say it in their files"
            )
        self._config = entry.settings("config")
        self._is_sequential = kind == "Sequential"
        self._weights = weights
        self._draft = draft
        self._prefix = prefix
        self._layers = {layer.name: layer for layer in self._read_layers()}
        if not self._layers:
            raise ValueError("has no layers")
        self._results: dict[Place, Sequence[str]] = {}

    def convert(self, given: Sequence[str] | None = None) -> dict[str, str]:
        """Add the model's layers to the draft, and return the values of its outputs, by name.
        `given` are the values that it reads if it is a layer of another model."""
        inputs = self._inputs()
        if given is None:
            given = [self._add_input(self._layer(name)) for name in inputs]
        if len(given) != len(inputs):
            raise ValueError(f"reads {len(inputs)} values, got {len(given)}")
        for name, value in zip(inputs, given, strict=True):
            self._results[name, 0] = (value,)
        results: dict[str, str] = {}
        for name, source in self._outputs():
            results[name if name not in results else f"{name}_{len(results)}"] = self._value(source)
        return results

    def _read_layers(self) -> Iterator[_Layer]:
        counted: Counter[str] = Counter()
        before: str | None = None
        for entry in self._config.several("layers"):
            kind = _kind(entry)
            settings = entry.settings("config")
            name = settings.word("name") if "name" in settings else entry.word("name")
            if self._is_sequential:
                if before is None and kind != "InputLayer":
                    before = f"{name}_input"
                    yield _Layer(before, "InputLayer", 0, entry, ())
                calls = [] if before is None else [Arguments((Source(before),))]
                before = name
            else:
                calls = [parse_call(call) for call in entry.content("inbound_nodes") or ()]
            yield _Layer(name, kind, counted[kind], entry, calls)
            counted[kind] += 1

    def _inputs(self) -> list[str]:
        if self._is_sequential:
            return [next(iter(self._layers))]
        return [source.layer for _, source in parse_outputs(self._config.content("input_layers"))]

    def _outputs(self) -> Iterator[tuple[str, Source]]:
        if self._is_sequential:
            last = next(reversed(self._layers))
            yield last, Source(last)
        else:
            yield from parse_outputs(self._config.content("output_layers"))

    def _add_input(self, layer: _Layer) -> str:
        shape = layer.settings.content("batch_shape") or layer.settings.content("batch_input_shape")
        match shape:
            case [_, steps, int(width)]:
                name = self._draft.add_input(layer.name, width)
            case [_, steps]:
                name = self._draft.add_input(layer.name)
            case _:
                raise ValueError(
                    f"input {layer.name}: its shape is {shape}, expected [batch, steps, features], "
                    "or [batch, steps] of ids"
                )
        if steps is not None:
            self._draft.note(
                f"input {name} has {steps} steps in the file; here a sequence has as many as it "
                "has, and is not padded: the numbers are the file's for sequences of that length"
            )
        return name

    def _value(self, wanted: Source) -> str:
        """Convert all that a value depends on, what is read first. No recursion: a file may chain
        thousands of layers.
        """
        stack: list[Place] = [wanted[:2]]
        begun: set[Place] = set()
        while stack:
            place = stack[-1]
            if place in self._results:
                stack.pop()
                continue
            layer, arguments = self._call(place)
            missing = [read[:2] for read in arguments.reads if read[:2] not in self._results]
            if missing and place in begun:
                raise ValueError(f"layer {layer.name} reads its own result")
            begun.add(place)
            stack += missing
            if not missing:
                self._results[place] = self._convert(layer, arguments)
        return self._result(wanted)

    def _convert(self, layer: _Layer, arguments: Arguments) -> Sequence[str]:
        reads = [self._result(source) for source in arguments.reads]
        weights, name, kind, number = self._weights, layer.name, layer.kind, layer.number
        try:
            self._check_named(arguments)
            if kind in _MODELS:
                inside = weights.inside(name, kind, number)
                model = Model(layer.entry, inside, self._draft, f"{self._prefix}{name}_")
                return list(model.convert(reads).values())
            return convert(
                Call(
                    self._prefix + name,
                    kind,
                    layer.settings,
                    reads,
                    arguments.others,
                    lambda: weights.of(name, kind, number),
                    self._draft,
                )
            )
        except ValueError as error:
            raise ValueError(f"layer {name} ({kind}): {error}") from error

    def _check_named(self, arguments: Arguments) -> None:
        """Refuse what a layer is called with beside what it reads, if that changes its numbers."""
        for name, content in arguments.named.items():
            if content in (None, False):
                continue
            if name != "mask":
                raise ValueError(f"is called with {name}, which is not served")
            for source in find_sources(content):
                self._check_mask(source)

    def _check_mask(self, wanted: Source) -> None:
        """Allow the masks that Keras makes of ids that stand for padding, which are then refused at
        the door: every step of a sequence counts."""
        stack = [wanted]
        seen = set()
        while stack:
            source = stack.pop()
            if source in seen:
                continue
            seen.add(source)
            layer, arguments = self._call(source[:2])
            if layer.kind == "NotEqual" and len(arguments.reads) == len(arguments.others) == 1:
                self._set_padding(self._value(arguments.reads[0]), arguments.others[0])
            elif layer.kind in _MASKS:
                stack += arguments.reads
            elif layer.kind not in _CONSTANT_MASKS:
                raise ValueError(f"reads a mask from {source.layer}, which is not served")

    def _set_padding(self, name: str, padding: object) -> None:
        if not isinstance(padding, int | float):
            raise ValueError(f"reads a mask of what is not {quoted(str(padding))}")
        if name in self._draft.values and not self._draft.values[name].ids:
            self._draft.note_masking(name, padding)
        else:
            self._draft.set_padding(name, int(padding))

    def _call(self, place: Place) -> tuple[_Layer, Arguments]:
        layer = self._layer(place[0])
        if not 0 <= place[1] < len(layer.calls):
            raise ValueError(f"layer {layer.name} is not called {place[1] + 1} times")
        return layer, layer.calls[place[1]]

    def _layer(self, name: str) -> _Layer:
        if name not in self._layers:
            raise ValueError(f"there is no layer {quoted(name)}")
        return self._layers[name]

    def _result(self, source: Source) -> str:
        results = self._results[source[:2]]
        if not 0 <= source.result < len(results):
            raise ValueError(f"layer {source.layer} has no result {source.result}")
        return results[source.result]


def _kind(entry: Settings) -> str:
    """The class of a layer. That of a user's own, which may compute anything under a name of
    Keras's, has a name that no table has."""
    kind, registered = entry.word("class_name"), entry.word("registered_name", "")
    module = entry.word("module", "keras")
    if ">" in registered:
        return registered
    return kind if module.split(".")[0] in _PACKAGES else f"{module}.{kind}"
