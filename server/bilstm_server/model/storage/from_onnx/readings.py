"""Ways to read a graph: which axes of its inputs are sequences and steps, no file says.

Each is tried, node by node into a draft, until the LSTMs read [steps, sequences, columns].
"""

from __future__ import annotations

from collections.abc import Sequence
from itertools import islice, product
from typing import NamedTuple

import numpy as np

from ....quoting import quoted
from ..drafts import Draft
from .arithmetic import ARITHMETIC
from .axes import SEQUENCES, STEPS, Axis, Misread, Rows
from .constants import fold
from .graph import Entry, Graph, Input
from .layouts import LAYOUTS
from .lstms import lstm
from .nodes import Node, Tensor
from .products import PRODUCTS

_CONVERTERS = {**LAYOUTS, **ARITHMETIC, **PRODUCTS, "LSTM": lstm}
_MOST_READINGS = 256
# What nodes make of the file's numbers is at most so many times as much, or so many numbers.
_MOST_TIMES = 16
_FEW_NUMBERS = 2**24
_COLUMNS = ""

Roles = tuple[str, ...]  # of each axis of an input
_ROLES_OF_FLOATS: Sequence[Roles] = (
    (SEQUENCES, STEPS, _COLUMNS),
    (STEPS, SEQUENCES, _COLUMNS),
    (SEQUENCES, _COLUMNS, STEPS),
    (STEPS, _COLUMNS),
)
_ROLES_OF_IDS: Sequence[Roles] = (
    (SEQUENCES, STEPS),
    (STEPS, SEQUENCES),
    (SEQUENCES,),  # lengths
    (STEPS,),
)


class Result(NamedTuple):
    draft: Draft
    outputs: dict[str, str]  # values, by the names of the graph's outputs


def read_graph(graph: Graph) -> Result:
    """Convert the graph in the first way in which it can be. Raises `ValueError` with what stopped
    the way that went furthest.
    """
    reached, reason = (-1, False), ValueError("has no inputs")
    ways = product(*[_possible_roles(entry) for entry in graph.inputs])
    for roles in islice(ways, _MOST_READINGS):
        reading = _Reading(graph, roles)
        try:
            return reading.convert()
        except ValueError as error:
            how_far = (reading.done, not isinstance(error, Misread))
            if how_far > reached:
                reached, reason = how_far, error
    raise reason


def _possible_roles(entry: Input) -> list[Roles]:
    """What the axes of an input may be."""
    found = [
        roles
        for roles in (_ROLES_OF_IDS if entry.has_ids else _ROLES_OF_FLOATS)
        if len(roles) == len(entry.sizes)
        and (entry.has_ids or entry.sizes[roles.index(_COLUMNS)] is not None)
    ]
    if not found:
        raise ValueError(
            f"input {quoted(entry.name)} is {list(entry.sizes)}, expected [batch, steps] of ids or "
            "[batch, steps, features], the number of features known"
        )
    return found


class _Reading:
    """One way to read a graph."""

    def __init__(self, graph: Graph, roles: Sequence[Roles]):
        self._graph = graph
        self._draft = Draft()
        self._tensors: dict[str, Tensor] = dict(graph.numbers)
        self.done = 0  # nodes
        in_file = sum(array.size for array in graph.numbers.values())
        self._numbers_left = max(_FEW_NUMBERS, _MOST_TIMES * in_file)
        for entry, own in zip(graph.inputs, roles, strict=True):
            self._tensors[entry.name] = self._add_input(entry, own)

    def convert(self) -> Result:
        for entry in self._graph.entries:
            if entry.outputs[0] not in self._tensors:
                self._convert(entry)
            self.done += 1
        outputs = {name: self._output(name) for name in self._graph.outputs}
        computed = {name: value for name, value in outputs.items() if value in self._draft.values}
        return Result(self._draft, computed)

    def _add_input(self, entry: Input, roles: Roles) -> Rows:
        pairs = zip(entry.sizes, roles, strict=True)
        axes = tuple(Axis((size,), (role,) if role else ()) for size, role in pairs)
        width = None if entry.has_ids else axes[roles.index(_COLUMNS)].size
        name = self._draft.add_input(entry.name, width)
        steps = next((axis.size for axis in axes if STEPS in axis.rows), None)
        if steps is not None:
            self._draft.note(
                f"input {name} has {steps} steps in the file; here a sequence has as many as it "
                "has, and is not padded: the numbers are the file's for sequences of that length"
            )
        return Rows(name, axes)

    def _convert(self, entry: Entry) -> None:
        inputs, outputs = entry.inputs, entry.outputs
        if (follower := self._bias_behind(entry)) is not None:
            bias, output = follower
            inputs, outputs = (*inputs, bias), (output,)
        place = f"node {quoted(entry.name)} ({entry.kind})"
        if unknown := [name for name in inputs if name and name not in self._tensors]:
            raise ValueError(f"{place}: reads {quoted(unknown[0])}, which nothing gives")
        node = Node(
            entry.name,
            entry.kind,
            entry.attributes,
            [self._tensors.get(name) for name in inputs],
            len(outputs),
            self._graph.opset,
            self._draft,
            self._numbers_left,
        )
        try:
            results = _results(node)
        except ValueError as error:
            raise type(error)(f"{place}: {error}") from error
        except (ArithmeticError, AttributeError, LookupError, TypeError) as error:
            raise ValueError(f"{place}: has attributes or inputs that its kind has not") from error
        made = sum(tensor.size for tensor in results if isinstance(tensor, np.ndarray))
        self._numbers_left = max(self._numbers_left - made, 0)
        self._tensors |= zip(outputs, results, strict=False)

    def _bias_behind(self, entry: Entry) -> tuple[str, str] | None:
        """The numbers that are added to a product alone, and what that gives: exporters add a
        linear layer's bias in a node of its own."""
        output = entry.outputs[0]
        follower = self._graph.only_reader(output)
        if entry.kind != "MatMul" or follower is None or follower.kind != "Add":
            return None
        if not isinstance(self._tensors.get(entry.inputs[1]), np.ndarray):
            return None  # the product of two values
        (bias,) = [name for name in follower.inputs if name != output] or [""]
        numbers = self._tensors.get(bias)
        if not isinstance(numbers, np.ndarray) or numbers.ndim != 1:
            return None
        return bias, follower.outputs[0]

    def _output(self, name: str) -> str:
        tensor = self._tensors.get(name)
        if not isinstance(tensor, Rows):
            raise ValueError(f"output {quoted(name)} depends on no input")
        return tensor.value


def _results(node: Node) -> Sequence[Tensor]:
    if not any(isinstance(tensor, Rows) for tensor in node.inputs):
        if (numbers := fold(node)) is not None:
            return numbers
        raise ValueError("computes with the file's own numbers alone in a way that is not served")
    if node.kind in _CONVERTERS:
        results = _CONVERTERS[node.kind](node)
        return results if isinstance(results, list) else [results]
    raise ValueError(
        "has no type here; serve the model up to what it reads, and leave the rest to the client: "
        "onnx.utils.extract_model(…)"
    )
