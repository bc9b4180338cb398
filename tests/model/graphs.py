"""Random small graphs of every layer type that there is, for properties of all of them."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from types import UnionType
from typing import Annotated, Any, Literal, Union, cast, get_args, get_origin

from annotated_types import Ge
from hypothesis import strategies as st
from pydantic.fields import FieldInfo

from bilstm_server.model.config import InputConfig, ModelConfig
from bilstm_server.model.layers.embedding import EmbeddingConfig
from bilstm_server.model.layers.interface import LayerConfig, WindowConfig
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


TYPES: dict[str, type[LayerConfig]] = {
    cls.model_fields["type"].default: cls for cls in _types(cast(Any, LayerConfig))
}


def _field(info: FieldInfo) -> st.SearchStrategy[Any]:
    """Of what a field may be; its default where that can't be told from its type."""
    extra = info.json_schema_extra
    if isinstance(extra, dict) and isinstance(extra.get("enum"), list):
        return st.sampled_from(cast(list[Any], extra["enum"]))
    bounds = [cast(int, of.ge) for of in info.metadata if isinstance(of, Ge)]
    try:
        return _of_type(info.annotation, max(bounds, default=0))
    except NotImplementedError:
        return st.just(info.get_default())


def _of_type(annotation: Any, least: int) -> st.SearchStrategy[Any]:
    origin, own = get_origin(annotation), get_args(annotation)
    if origin is Annotated:
        return _of_type(own[0], least)
    if origin is Literal:
        return st.sampled_from(own)
    if origin is tuple and Ellipsis not in own:
        return st.tuples(*(_of_type(of, least) for of in own))
    if origin in (Union, UnionType):
        return st.one_of(*(_of_type(of, least) for of in own))
    if annotation is bool:
        return st.booleans()
    if annotation is int:
        return st.integers(least, least + _MOST - 1)
    raise NotImplementedError


def _divisor(width: int) -> st.SearchStrategy[int]:
    return st.sampled_from([count for count in range(1, width + 1) if width % count == 0])


@st.composite
def _shapes(draw: st.DrawFn, width: int) -> tuple[int, int]:
    rows = draw(_divisor(width))
    return rows, width // rows


# What depends on the width of what is read.
_BY_WIDTH: dict[str, Callable[[int], st.SearchStrategy[Any]]] = {
    "groups": _divisor,
    "heads": _divisor,
    "start": lambda width: st.integers(0, width - 1),
    "stop": lambda width: st.integers(1, width),
    "shape": _shapes,
    "order": lambda width: st.permutations([0, 1]),
    "axis": lambda width: st.integers(0, 1),
}


def _fields(cls: type[LayerConfig], width: int) -> st.SearchStrategy[dict[str, Any]]:
    own = {n: f for n, f in cls.model_fields.items() if n not in ("name", "type", "inputs")}
    return st.fixed_dictionaries(
        {
            name: _BY_WIDTH[name](width) if name in _BY_WIDTH else _field(info)
            for name, info in own.items()
        }
    )


@st.composite
def _layers(draw: st.DrawFn, name: str, kind: str, values: Values) -> LayerConfig | None:
    """A layer of this type that can read some of the values, if one is found soon."""
    cls = TYPES[kind]
    names = list(values)
    references = st.sampled_from(names[-5:]) | st.sampled_from(names)  # deep rather than wide
    for _ in range(6):
        count = cls.number_of_inputs or draw(st.integers(1, 3))
        inputs = tuple(draw(references) for _ in range(count))
        try:
            fields = draw(_fields(cls, values[inputs[0]].width))
            layer = cls.model_validate({"name": name, "inputs": inputs} | fields)
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
    for index in range(draw(st.integers(1, 2))):
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
_windows = [kind for kind, cls in TYPES.items() if issubclass(cls, WindowConfig)]
_others = st.lists(st.sampled_from(sorted([*TYPES, *_windows, *_windows])), min_size=3, max_size=9)
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
