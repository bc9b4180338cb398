"""The graph of a recording as `config.json` has it: names for layers and outputs."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from typing import Any

from torch import Tensor

from .example.structure import Path
from .graph import Graph, Node

_MOST_CHARACTERS = 64

# What an output is that the owner gives no name, by the layer that it comes from.
_NAMES = {
    "lstm": "states",
    "linear": "logits",
    "softmax": "probabilities",
    "argmax": "labels",
    "crf": "labels",
    "softmax_steps": "attention",
    "attention": "embedding",
    "normalize": "embedding",
}


_PARTS = {
    "hidden": "final_hidden",
    "cell": "final_cell",
    "score": "score",
    "weights": "attention",
}

# Layers that only put columns where another reads them.
_FORMS = {"columns", "concat", "permute", "scale", "last", "first", "splice", "reverse_steps"}


# What modules of torch's become, beside layers that bring their input into its form.
_MAIN = {"LSTM": "lstm", "Linear": "linear", "Embedding": "embedding", "Conv1d": "conv1d"}


def sorted_nodes(graph: Graph, outputs: Iterable[int]) -> list[Node]:
    """The layers that these values need, each behind those that it reads."""
    found: dict[int, Node] = {}
    waiting = list(outputs)[::-1]
    while waiting:
        node = graph.slots[waiting[-1]].node
        if node is None or id(node) in found:
            waiting.pop()
            continue
        missing = [s for s in node.inputs if not _is_found(graph, s, found)]
        if not missing:
            found[id(node)] = node
        waiting += reversed(missing)
    return list(found.values())


def _is_found(graph: Graph, slot: int, found: Mapping[int, Node]) -> bool:
    node = graph.slots[slot].node
    return node is None or id(node) in found


def joined_name(path: Path) -> str:
    """The words that lead to an output, as one name; empty if there is none but numbers."""
    words = [re.sub(r"\W+", "_", word).strip("_") for word in path]
    while words and (words[0].isdigit() or not words[0]):
        del words[0]
    name = "_".join(word for word in words if word)
    if not name:
        return ""
    return (f"_{name}" if name[0].isdigit() else name)[:_MOST_CHARACTERS]


def default_name(graph: Graph, slot: int) -> str:
    """A name for an output by what it is."""
    found = graph.slots[slot]
    node = found.node
    if found.value.ids:
        return "labels"
    if node is None:
        return "inputs"
    part = next(part for part, its in node.gives.items() if its == slot)
    if part:
        return _PARTS[part]
    if node.type == "softmax" and node.fields.get("log"):
        return "log_probabilities"
    if node.type == "activation" and node.fields["function"] == "sigmoid":
        return "probabilities"
    if node.type in ("last", "first", "mean", "max", "sum"):
        return node.type if node.type in ("mean", "max") else "embedding"
    return _NAMES.get(node.type, "features" if found.value.per_step else "embedding")


def named_layers(
    graph: Graph, nodes: Iterable[Node], inputs: Mapping[int, str]
) -> tuple[list[dict[str, Any]], dict[int, str], dict[str, Tensor]]:
    """The entries of layers, what each value is read by, and the tensors by name."""
    references = dict(inputs)
    taken = set(inputs.values())
    layers: list[dict[str, Any]] = []
    tensors: dict[str, Tensor] = {}
    for node in nodes:
        name = _free(_name_of(node), taken)
        taken.add(name)
        for part, slot in node.gives.items():
            references[slot] = f"{name}.{part}" if part else name
        sources = [references[source] for source in node.inputs]
        layers.append({"name": name, "type": node.type, "inputs": sources, **node.fields})
        tensors |= {f"{name}.{key}": tensor for key, tensor in node.tensors.items()}
    return layers, references, tensors


def _name_of(node: Node) -> str:
    """Of one of torch's modules its own name; else what it is, within which module."""
    module = node.place.module
    path = re.sub(r"\W+", "_", module).strip("_")
    if not path:
        return node.type
    is_own = node.place.is_leaf and _MAIN.get(node.place.kind, node.type) == node.type
    is_own = is_own and node.type not in _FORMS
    return path if is_own else f"{path}_{node.type}"


def _free(name: str, taken: set[str]) -> str:
    """The name, or if it is taken with a number behind it."""
    name = name if not name[0].isdigit() else f"_{name}"
    if name.isdigit():
        name = f"_{name}"
    name = name[-_MOST_CHARACTERS + 5 :].lstrip("_") if len(name) > _MOST_CHARACTERS - 5 else name
    free, count = name, 1
    while free in taken:
        count += 1
        free = f"{name}_{count}"
    return free
