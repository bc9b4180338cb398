"""Rewrites the graph of a recording: what is said in several layers, in one that says the same."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Iterable
from dataclasses import replace

from .graph import Graph, Node
from .steps import ROWS

Rule = Callable[["Simplifier", Node], int | None]


class Simplifier:
    """Gives for a value the one that stands for it afterwards."""

    def __init__(self, graph: Graph, outputs: Iterable[int]):
        self.graph = graph
        self.outputs = set(outputs)
        self.readers = self._find_readers()
        self._done: dict[int, int] = {}

    def value(self, slot: int) -> int:
        """The value after all rules."""
        if slot not in self._done:
            self._done[slot] = self._made(slot)
        return self._done[slot]

    def node_of(self, slot: int, *types: str) -> Node | None:
        """The layer that gives a value as its own, if it is of one of the types."""
        node = self.graph.slots[slot].node
        return node if node is not None and node.type in types and node.slot == slot else None

    def only_use(self, slot: int) -> bool:
        """Whether one layer reads the value, and no output is it."""
        return len(self.readers[slot]) <= 1 and slot not in self.outputs

    def _made(self, slot: int) -> int:
        node = self.graph.slots[slot].node
        if node is None:
            return slot
        for rule in RULES:
            replaced = rule(self, node) if node.slot == slot else None
            if replaced is not None:
                return self.value(replaced)
        inputs = [self.value(source) for source in node.inputs]
        gives = {part: self.graph.value(its) for part, its in node.gives.items()}
        made = self.graph.add(node.type, inputs, gives, node.place, node.tensors, **node.fields)
        part = next(part for part, its in node.gives.items() if its == slot)
        return made.gives[part]

    def _find_readers(self) -> dict[int, list[Node]]:
        readers: dict[int, list[Node]] = defaultdict(list)
        seen: set[int] = set()
        waiting = list(self.outputs)
        while waiting:
            node = self.graph.slots[waiting.pop()].node
            if node is None or id(node) in seen:
                continue
            seen.add(id(node))
            for source in set(node.inputs):
                readers[source].append(node)
            waiting += node.inputs
        return readers


def _end_first(simplifier: Simplifier, node: Node) -> int | None:
    """last(f(x)) is f(last(x))."""
    if node.type not in ("last", "first"):
        return None
    (source,) = node.inputs
    graph = simplifier.graph
    row = simplifier.node_of(source, *ROWS)
    if row is None or row.type == "embedding":
        return None
    if row.type != "argmax" and not simplifier.only_use(source):
        return None
    inputs = []
    for its in row.inputs:
        value = graph.value(its)
        if value.per_step:
            like = value.per_sequence(value.width)
            its = graph.add(node.type, [its], like, node.place).slot
        inputs.append(its)
    value = graph.value(source)
    gives = graph.like(*inputs, width=value.width)
    if value.ids:
        gives = replace(gives, ids=value.ids)
    return graph.add(row.type, inputs, gives, row.place, row.tensors, **row.fields).slot


def _sum_of_products(simplifier: Simplifier, node: Node) -> int | None:
    """sum(x w), with one weight for each step, is weighted_sum(x, w)."""
    if node.type != "sum":
        return None
    graph = simplifier.graph
    product = simplifier.node_of(node.inputs[0], "multiply")
    if product is None or len(product.inputs) != 2 or not simplifier.only_use(product.slot):
        return None
    values = [graph.value(source) for source in product.inputs]
    if not all(value.per_step for value in values) or 1 not in [value.width for value in values]:
        return None
    x, weights = product.inputs if values[1].width == 1 else product.inputs[::-1]
    return graph.add("weighted_sum", [x, weights], graph.value(node.slot), node.place).slot


def _attention(simplifier: Simplifier, node: Node) -> int | None:
    """weighted_sum(x, softmax_steps(scores)) is attention(x, scores), which has the weights too."""
    if node.type == "softmax_steps" and node.slot in simplifier.outputs:
        readers = simplifier.readers[node.slot]
        made = _attention_of(simplifier, readers[0]) if len(readers) == 1 else None
        return made.gives["weights"] if made is not None else None
    if node.type != "weighted_sum" or len(simplifier.readers[node.inputs[1]]) > 1:
        return None
    made = _attention_of(simplifier, node)
    return made.slot if made is not None else None


def _attention_of(simplifier: Simplifier, node: Node) -> Node | None:
    graph = simplifier.graph
    if node.type == "sum":
        made = _sum_of_products(simplifier, node)
        node = graph.slots[made].node or node if made is not None else node
    softmax = simplifier.node_of(node.inputs[-1], "softmax_steps")
    if node.type != "weighted_sum" or softmax is None:
        return None
    gives = {"": graph.value(node.slot), "weights": graph.value(softmax.slot)}
    inputs = [node.inputs[0], softmax.inputs[0]]
    return graph.add("attention", inputs, gives, node.place, **node.fields)


def _unit_length(simplifier: Simplifier, node: Node) -> int | None:
    """x / max(√(Σ x²), eps) is normalize(x)."""
    if node.type != "multiply" or len(node.inputs) != 2:
        return None
    for x, inverse in (node.inputs, node.inputs[::-1]):
        found = _inverse_length(simplifier, x, inverse)
        if found is not None:
            value = simplifier.graph.value(node.slot)
            return simplifier.graph.add("normalize", [x], value, node.place, eps=found).slot
    return None


def _inverse_length(simplifier: Simplifier, x: int, inverse: int) -> float | None:
    chain = []
    slot = inverse
    for kind in ("reciprocal", "clamp", "sqrt", "sum", "square"):
        node = simplifier.node_of(slot, "activation", "reduce")
        if node is None or node.fields["function"] != kind:
            if kind == "clamp":
                continue
            return None
        chain.append(node)
        slot = node.inputs[0]
    reduced = chain[-2]
    width = simplifier.graph.value(x).width
    if slot != x or simplifier.graph.value(reduced.slot).width != 1 or width == 1:
        return None
    clamp = chain[1]
    return float(clamp.fields.get("min", 0.0)) if clamp.fields["function"] == "clamp" else 0.0


def _directions(simplifier: Simplifier, node: Node) -> int | None:
    """The sum of both halves has a name of its own."""
    is_sum = node.type == "reduce" and node.fields["function"] == "sum" and node.fields["axis"] == 0
    if not is_sum or node.fields["shape"][0] != 2 or len(node.fields["shape"]) != 2:
        return None
    if simplifier.graph.value(node.inputs[0]).width != 2 * node.fields["shape"][1]:
        return None
    value = simplifier.graph.value(node.slot)
    return simplifier.graph.add("sum_directions", node.inputs, value, node.place).slot


RULES: tuple[Rule, ...] = (_end_first, _sum_of_products, _attention, _unit_length, _directions)
