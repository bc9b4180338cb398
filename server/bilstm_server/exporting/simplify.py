"""Rewrites the graph of a recording: what is said in several layers, in one that says the same."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Iterable, Sequence

from .graph import Graph, Node

Rule = Callable[["Rewriting", Node], int | None]


class Rewriting:
    """Gives for a value the one that stands for it once the rules were applied."""

    def __init__(self, graph: Graph, outputs: Iterable[int], rules: Sequence[Rule]):
        self.graph = graph
        self.outputs = set(outputs)
        self.readers: dict[int, list[Node]] = defaultdict(list)
        self._read(sorted(self.outputs))
        self._rules = rules
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
        for rule in self._rules:
            replaced = rule(self, node) if node.slot == slot else None
            if replaced is not None:
                return self.value(replaced)
        inputs = [self.value(source) for source in node.inputs]
        gives = {part: self.graph.value(its) for part, its in node.gives.items()}
        made = self.graph.add(node.type, inputs, gives, node.place, node.tensors, **node.fields)
        part = next(part for part, its in node.gives.items() if its == slot)
        return made.gives[part]

    def _read(self, waiting: list[int]) -> None:
        """Find who reads each value that these need."""
        seen: set[int] = set()
        while waiting:
            node = self.graph.slots[waiting.pop()].node
            if node is None or id(node) in seen:
                continue
            seen.add(id(node))
            for source in dict.fromkeys(node.inputs):
                self.readers[source].append(node)
            waiting += node.inputs
