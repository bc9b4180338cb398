"""What an ONNX model holds: the nodes that its outputs need, their attributes, and its numbers."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import onnx

from ..drafts import Array
from .files import read_tensor

_DOMAINS = ("", "ai.onnx")


@dataclass(frozen=True, slots=True)
class Entry:
    """A node as the file has it."""

    name: str
    kind: str
    attributes: Mapping[str, Any]
    inputs: tuple[str, ...]  # "" for one that is left out
    outputs: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class Input:
    """An input of the model."""

    name: str
    has_ids: bool
    sizes: tuple[int | None, ...]  # None for what the file leaves open


class Graph:
    """A model's graph. Raises `ValueError` for what is not of plain ONNX."""

    def __init__(self, model: onnx.ModelProto, folder: Path):
        graph = model.graph
        if graph.sparse_initializer:
            raise ValueError("has sparse tensors, which are not served")
        self.opset: int = max(
            (entry.version for entry in model.opset_import if entry.domain in _DOMAINS), default=1
        )
        self.outputs: list[str] = [entry.name for entry in graph.output]
        needed = _needed(graph.node, self.outputs)
        self.entries = [_read_node(node, folder) for node in needed]
        self._readers: dict[str, list[Entry | None]] = {name: [None] for name in self.outputs}
        for entry in self.entries:
            for name in entry.inputs:
                self._readers.setdefault(name, []).append(entry)
        self.numbers: dict[str, Array] = {
            tensor.name: read_tensor(tensor, folder)
            for tensor in graph.initializer
            if tensor.name in self._readers
        }
        self.inputs = [
            _read_input(entry)
            for entry in graph.input
            if entry.name in self._readers and entry.name not in self.numbers
        ]

    def only_reader(self, name: str) -> Entry | None:
        """The node that reads a result, if it alone does."""
        readers = self._readers.get(name, [])
        return readers[0] if len(readers) == 1 else None


def _needed(nodes: Iterable[onnx.NodeProto], outputs: Iterable[str]) -> list[onnx.NodeProto]:
    """The nodes that the outputs depend on, in order: each stands behind what it reads."""
    names = set(outputs)
    found = []
    for node in reversed(list(nodes)):
        if names.intersection(node.output):
            names.update(node.input)
            found.append(node)
    return found[::-1]


def _read_node(node: onnx.NodeProto, folder: Path) -> Entry:
    kind = node.op_type if node.domain in _DOMAINS else f"{node.domain}.{node.op_type}"
    attributes = {entry.name: _read_attribute(entry, folder) for entry in node.attribute}
    return Entry(_layer_name(node), kind, attributes, tuple(node.input), tuple(node.output))


def _read_attribute(attribute: onnx.AttributeProto, folder: Path) -> Any:
    if attribute.type == onnx.AttributeProto.TENSOR:
        return read_tensor(attribute.t, folder)
    if attribute.type in (onnx.AttributeProto.GRAPH, onnx.AttributeProto.GRAPHS):
        return None  # of a node that branches or loops: none of those is served
    content = onnx.helper.get_attribute_value(attribute)
    if isinstance(content, bytes):
        return content.decode(errors="replace")
    if attribute.type == onnx.AttributeProto.STRINGS:
        return [part.decode(errors="replace") for part in content]
    return list(content) if attribute.type in _LISTS else content


_LISTS = (onnx.AttributeProto.FLOATS, onnx.AttributeProto.INTS)


def _layer_name(node: onnx.NodeProto) -> str:
    """The module that a node is of, as exporters name it: `fc` for `/fc/MatMul`."""
    *modules, own = node.name.strip("/").split("/")
    return "_".join(modules) or own.removeprefix("node_") or node.op_type.lower()


def _read_input(entry: onnx.ValueInfoProto) -> Input:
    tensor = entry.type.tensor_type
    sizes = tuple(
        dim.dim_value if dim.WhichOneof("value") == "dim_value" else None
        for dim in tensor.shape.dim
    )
    has_ids = tensor.elem_type in (onnx.TensorProto.INT32, onnx.TensorProto.INT64)
    return Input(entry.name, has_ids, sizes)
