"""Random small graphs of every layer type that there is, for properties of all of them."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any, Literal, get_args, get_origin

from hypothesis import strategies as st
from pydantic.fields import FieldInfo

from bilstm_server.model.config import InputConfig, ModelConfig
from bilstm_server.model.layers.embedding import EmbeddingConfig
from bilstm_server.model.layers.interface import LayerConfig
from bilstm_server.model.layers.lstm import LstmConfig
from bilstm_server.model.layers.values import Value

_MOST = 4  # of a size that is drawn
_WIDEST = 24  # value
_MOST_STEPS = 100  # that a graph may need

Values = dict[str, Value]


def _types(of: type[LayerConfig]) -> Iterator[type[LayerConfig]]:
    for subclass in of.__subclasses__():
        if "type" in subclass.model_fields:
            yield subclass
        yield from _types(subclass)


TYPES = {cls.model_fields["type"].default: cls for cls in _types(LayerConfig)}


def _field(info: FieldInfo) -> st.SearchStrategy[Any]:
    """Of what a field may be; its default where that is not known."""
    annotation = info.annotation
    if annotation is bool:
        return st.booleans()
    if annotation is int:
        bounds = {k: v for m in info.metadata for k in ("ge", "le") if (v := getattr(m, k, None))}
        least = bounds.get("ge", 0)
        return st.integers(least, min(bounds.get("le", _MOST), least + _MOST - 1))
    if annotation is float:
        return st.floats(0.5, 2, width=32)
    if get_origin(annotation) is Literal:
        return st.sampled_from(get_args(annotation))
    assert not info.is_required(), f"draw {info} here"
    return st.just(info.get_default(call_default_factory=True))


def _fields(cls: type[LayerConfig]) -> st.SearchStrategy[dict[str, Any]]:
    own = {n: f for n, f in cls.model_fields.items() if n not in ("name", "type", "inputs")}
    return st.fixed_dictionaries({name: _field(info) for name, info in own.items()})


@st.composite
def _layers(draw: st.DrawFn, name: str, kind: str, values: Values) -> LayerConfig | None:
    """A layer of this type that can read some of the values, if one is found soon."""
    cls = TYPES[kind]
    most = cls.number_of_inputs or 3
    for _ in range(4):
        count = cls.number_of_inputs or draw(st.integers(1, most))
        inputs = tuple(draw(st.sampled_from(list(values))) for _ in range(count))
        try:
            layer = cls(name=name, inputs=inputs, **draw(_fields(cls)))
            given = layer.gives(*(values[reference] for reference in inputs))
        except ValueError:  # pydantic's, too
            continue
        if all(v.width <= _WIDEST and v.grid.min_steps <= _MOST_STEPS for v in given.values()):
            return layer
    return None


@st.composite
def graphs(draw: st.DrawFn) -> ModelConfig:
    """A valid model, whose outputs are all values of its layers."""
    graph = _Graph()
    for index in range(draw(st.integers(1, 3))):
        graph.read(f"in{index}", draw(st.sampled_from(["ids", "width"])), draw(_sizes))
    for index, kind in enumerate(draw(_kinds)):
        layer = draw(_layers(f"{kind}{index}", kind, graph.values))
        if layer is not None:
            graph.add(layer)
    if not any(isinstance(layer, LstmConfig) for layer in graph.layers):
        rows = next(name for name, value in graph.values.items() if not value.ids)
        graph.add(LstmConfig(name="lstm", inputs=(rows,), hidden_size=3))
    outputs = {f"out{i}": name for i, name in enumerate(graph.values)}
    return ModelConfig.model_validate(
        {"inputs": graph.inputs, "layers": graph.layers, "outputs": outputs}
    )


_sizes = st.integers(1, _MOST)
_lstms = st.integers(1, 2).map(lambda count: ["lstm"] * count)
_others = st.lists(st.sampled_from(sorted(TYPES)), min_size=1, max_size=7)
_kinds = st.tuples(_lstms, _others).flatmap(lambda lists: st.permutations(lists[0] + lists[1]))


class _Graph:
    """What there is of a model so far."""

    def __init__(self) -> None:
        self.inputs: dict[str, dict[str, int]] = {}
        self.layers: list[LayerConfig] = []
        self.values: Values = {}

    def read(self, name: str, kind: str, size: int) -> None:
        self.inputs[name] = {kind: size}
        self.values[name] = InputConfig(**self.inputs[name]).value
        if kind == "ids":
            self.add(EmbeddingConfig(name=f"{name}_rows", inputs=(name,), width=3))

    def add(self, layer: LayerConfig) -> None:
        self.layers.append(layer)
        given = layer.gives(*(self.values[reference] for reference in layer.inputs))
        self.values |= {f"{layer.name}.{p}" if p else layer.name: v for p, v in given.items()}
