"""The rules by which a recording's graph is rewritten: a layer has a name for what several do."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from typing import Any, TypeVar

import torch
from torch import Tensor

from .graph import Graph, Node
from .simplify import Rewriting
from .steps import ROWS

Key = TypeVar("Key")


def simplified(graph: Graph, outputs: Mapping[Key, int]) -> dict[Key, int]:
    """The outputs of the graph after all rules."""
    slots = dict(outputs)
    for rules in _RULES:
        rewriting = Rewriting(graph, slots.values(), rules)
        for slot in sorted(
            rewriting.readers
        ):  # in order, or a deep graph would be a deep recursion
            rewriting.value(slot)
        slots = {key: rewriting.value(slot) for key, slot in slots.items()}
    return slots


def _sum_of_products(rewriting: Rewriting, node: Node) -> int | None:
    """sum(x w), with weights for each step, is weighted_sum(x, w)."""
    if node.type != "sum":
        return None
    graph = rewriting.graph
    product = rewriting.node_of(node.inputs[0], "multiply")
    if product is None or len(product.inputs) != 2 or not rewriting.only_use(product.slot):
        return None
    if not all(graph.value(source).per_step for source in product.inputs):
        return None
    for x, weights in (product.inputs, product.inputs[::-1]):
        width = graph.value(weights).width
        is_split = width == graph.value(x).width > 1
        is_softmax = rewriting.node_of(weights, "softmax_steps") is not None
        if width == 1 or (is_split and is_softmax):
            fields: dict[str, Any] = {"split": True} if is_split else {}
            value = graph.value(node.slot)
            return graph.add("weighted_sum", [x, weights], value, node.place, **fields).slot
    return None


def _attention(rewriting: Rewriting, node: Node) -> int | None:
    """weighted_sum(x, softmax_steps(scores)) is attention(x, scores), which has the weights too."""
    if node.type == "softmax_steps" and not node.fields and _is_attention(rewriting, node):
        readers = rewriting.readers[node.slot]
        return _attention_of(rewriting.graph, readers[0], node).gives["weights"]
    if node.type != "weighted_sum":
        return None
    softmax = rewriting.node_of(node.inputs[1], "softmax_steps")
    if softmax is None or softmax.fields or not _is_attention(rewriting, softmax):
        return None
    return _attention_of(rewriting.graph, node, softmax).slot


def _is_attention(rewriting: Rewriting, softmax: Node) -> bool:
    """Whether only weighted sums read the softmax."""
    readers = rewriting.readers[softmax.slot]
    return bool(readers) and all(
        reader.type == "weighted_sum" and reader.inputs[1] == softmax.slot for reader in readers
    )


def _attention_of(graph: Graph, node: Node, softmax: Node) -> Node:
    gives = {"": graph.value(node.slot), "weights": graph.value(softmax.slot)}
    inputs = [node.inputs[0], softmax.inputs[0]]
    return graph.add("attention", inputs, gives, node.place, **node.fields)


def _unit_length(rewriting: Rewriting, node: Node) -> int | None:
    """x / max(√(Σ x²), eps) is normalize(x)."""
    if node.type != "divide":
        return None
    graph = rewriting.graph
    x, length = node.inputs
    chain = []
    for kind in ("clamp", "sqrt", "sum", "square"):
        found = rewriting.node_of(length, "activation", "reduce")
        if found is not None and found.fields["function"] == kind:
            chain.append(found)
            length = found.inputs[0]
        elif kind != "clamp":
            return None
    if length != x or graph.value(chain[-2].slot).width != 1 or graph.value(x).width == 1:
        return None
    eps = float(chain[0].fields.get("min", 0.0))
    return graph.add("normalize", [x], graph.value(node.slot), node.place, eps=eps).slot


def _directions(rewriting: Rewriting, node: Node) -> int | None:
    """The sum of both halves has a name of its own."""
    if node.type != "reduce" or node.fields["function"] != "sum" or node.fields["axis"] != 0:
        return None
    shape = node.fields["shape"]
    if shape[0] != 2 or len(shape) != 2:
        return None
    value = rewriting.graph.value(node.slot)
    return rewriting.graph.add("sum_directions", node.inputs, value, node.place).slot


def _halves(rewriting: Rewriting, node: Node) -> int | None:
    """The sum of both halves, where they were cut apart before."""
    halves = [half for s in node.inputs if (half := rewriting.node_of(s, "columns")) is not None]
    if node.type != "add" or len(node.inputs) != 2 or len(halves) != 2:
        return None
    first, second = sorted(halves, key=lambda half: int(half.fields["start"]))
    graph = rewriting.graph
    width = graph.value(node.slot).width
    parts = [(half.fields["start"], half.fields["stop"]) for half in (first, second)]
    is_all = first.inputs == second.inputs and graph.value(first.inputs[0]).width == 2 * width
    if not is_all or parts != [(0, width), (width, 2 * width)]:
        return None
    return graph.add("sum_directions", first.inputs, graph.value(node.slot), node.place).slot


def _bias(rewriting: Rewriting, node: Node) -> int | None:
    """A shift of a linear layer's columns is its bias."""
    if node.type != "scale" or node.fields["weight"]:
        return None
    graph = rewriting.graph
    linear = rewriting.node_of(node.inputs[0], "linear")
    if linear is None or not rewriting.only_use(linear.slot):
        return None
    if linear.fields["bias"] or linear.fields.get("groups", 1) > 1:
        return None
    tensors = linear.tensors | node.tensors
    value = graph.value(node.slot)
    fields = linear.fields | {"bias": True}
    return graph.add("linear", linear.inputs, value, linear.place, tensors, **fields).slot


def _scales(rewriting: Rewriting, node: Node) -> int | None:
    """A factor and a shift after others are one factor and one shift."""
    if node.type != "scale":
        return None
    graph = rewriting.graph
    before = rewriting.node_of(node.inputs[0], "scale")
    if before is None or not rewriting.only_use(before.slot):
        return None
    first, second = _factor_and_shift(before), _factor_and_shift(node)
    factor, shift = second[0] * first[0], second[0] * first[1] + second[1]
    tensors = {"weight": factor.float(), "bias": shift.float()}
    if (shift == 0).all():
        del tensors["bias"]
    elif (factor == 1).all():
        del tensors["weight"]
    fields = {name: name in tensors for name in ("weight", "bias")}
    value = graph.value(node.slot)
    return graph.add("scale", before.inputs, value, node.place, tensors, **fields).slot


def _factor_and_shift(node: Node) -> tuple[Tensor, Tensor]:
    given = next(iter(node.tensors.values())).double()
    weight, bias = (node.tensors.get(name) for name in ("weight", "bias"))
    return (
        torch.ones_like(given) if weight is None else weight.double(),
        torch.zeros_like(given) if bias is None else bias.double(),
    )


def _softmax_by_hand(rewriting: Rewriting, node: Node) -> int | None:
    """e / Σ e with e = exp(s), or exp(s - max s), is the softmax over the steps."""
    if node.type != "divide":
        return None
    e, total = (
        rewriting.node_of(node.inputs[0], "activation"),
        rewriting.node_of(node.inputs[1], "sum"),
    )
    if e is None or total is None or e.fields["function"] != "exp" or total.inputs[0] != e.slot:
        return None
    (scores,) = e.inputs
    shifted = rewriting.node_of(scores, "subtract")
    if shifted is not None and rewriting.node_of(shifted.inputs[1], "max") is not None:
        scores = shifted.inputs[0]
    value = rewriting.graph.value(node.slot)
    return rewriting.graph.add("softmax_steps", [scores], value, node.place).slot


def _end_first(rewriting: Rewriting, node: Node) -> int | None:
    """last(f(x)) is f(last(x)), where nothing reads another step of f(x)."""
    if node.type not in ("last", "first"):
        return None
    (source,) = node.inputs
    graph = rewriting.graph
    row = rewriting.node_of(source, *ROWS)
    if row is None or row.type == "embedding":
        return None
    if not graph.value(source).ids and not _only_end(rewriting, source, node.type):
        return None
    inputs = []
    for its in row.inputs:
        value = graph.value(its)
        if value.per_step:
            like = value.per_sequence(value.width)
            its = graph.add(node.type, [its], like, node.place).slot
        inputs.append(its)
    value = graph.value(source)
    gives = replace(graph.like(*inputs, width=value.width), ids=value.ids)
    return graph.add(row.type, inputs, gives, row.place, row.tensors, **row.fields).slot


def _only_end(rewriting: Rewriting, slot: int, end: str) -> bool:
    """Whether only the last step of a value is read, or only the first one."""
    if slot in rewriting.outputs:
        return False
    return all(
        reader.type == end or (reader.type in ROWS and _only_end(rewriting, reader.slot, end))
        for reader in rewriting.readers[slot]
    )


_RULES = (
    (_softmax_by_hand, _unit_length, _directions, _halves, _bias, _scales),
    (_sum_of_products,),
    (_attention,),
    (_end_first,),
)
