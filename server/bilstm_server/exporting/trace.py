"""What the operations of a recording share: the graph, and where tensors' numbers come from."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from numpy.typing import NDArray
from torch import Tensor, nn
from torch.utils._pytree import tree_iter

from . import elements
from .columns import with_numbers
from .elements import CONSTANT, Elements
from .graph import Graph
from .origins import Origins
from .refusals import Place, Places, Refusal
from .rows import Emit, raise_refusal
from .rows import row_wise as _row_wise

Numbers = NDArray[np.float64]

_DECIDES = (
    "decides or computes by numbers of the sequence in Python, and another one may go another way; "
    "make it the client's decision, or compute with tensors"
)


@dataclass
class Trace:
    """One recording: of one sequence of so many steps."""

    graph: Graph
    places: Places
    origins: Origins = field(default_factory=Origins)
    ids: dict[int, int] = field(default_factory=dict)
    """Inputs of ids that an embedding reads, and how many ids it has."""
    labels: dict[int, list[int]] = field(default_factory=dict)
    """What `argmax` gave at each step, by its value."""
    padding: dict[int, int] = field(default_factory=dict)
    """Inputs of ids, and the id that the module takes for padding."""
    padded: dict[int, int] = field(default_factory=dict)
    """Inputs of ids whose example has the id for padding among its steps."""
    notes: list[str] = field(default_factory=list)
    decisions: list[Refusal] = field(default_factory=list)
    """Where the code took one way or another by numbers of the sequence, or took them elsewhere."""
    comparisons: list[Refusal] = field(default_factory=list)
    """Where the code compared integers of the sequence, as greedy decoding of CTC does."""
    arrays: list[Place] = field(default_factory=list)
    """Where numbers left torch for numpy."""
    begins: set[int] = field(default_factory=set)
    """Storages of the states with which LSTMs began."""
    lines: dict[tuple[str, int], int] = field(default_factory=dict)
    """How often each line of code has called an operation on what depends on an input."""
    is_paused: bool = False

    @classmethod
    def of(cls, module: nn.Module, steps: int) -> Trace:
        """A recording of the module that has not begun."""
        return cls(Graph(steps), Places(module))

    @contextmanager
    def paused(self) -> Iterator[None]:
        """Record nothing within."""
        before, self.is_paused = self.is_paused, True
        try:
            yield
        finally:
            self.is_paused = before

    @contextmanager
    def resumed(self) -> Iterator[None]:
        """Record again, within what is paused for what records."""
        before, self.is_paused = self.is_paused, False
        try:
            yield
        finally:
            self.is_paused = before

    def depends(self, value: Any) -> bool:
        """Whether this is a tensor of which a number depends on an input."""
        return isinstance(value, Tensor) and self.origins.knows(value)

    def elements(self, value: Any) -> Elements:
        """Where the numbers of a tensor come from; a number comes from nowhere."""
        return self.origins.of(value) if isinstance(value, Tensor) else np.array(CONSTANT)

    def note(self, note: str) -> None:
        """Something that the owner should know, once."""
        if note not in self.notes:
            self.notes.append(note)

    def decide(self, reason: str = _DECIDES) -> None:
        """Remember that the code goes on by numbers of the sequence, where nothing is recorded.
        What it asserts changes nothing."""
        self._remember(self.decisions, reason)

    def compare(self) -> None:
        """Remember that the code compared an integer of the sequence, which it may for CTC."""
        self._remember(self.comparisons, _DECIDES)

    def _remember(self, those: list[Refusal], reason: str) -> None:
        if self.is_paused:
            return
        place = self.places.here()
        if not place.text.startswith("assert"):
            those.append(Refusal(reason, place))

    def refuse(self, refusal: Refusal, shape: tuple[int, ...]) -> Elements:
        """Elements of what could not be computed."""
        return np.broadcast_to(elements.make(self.graph.refuse(refusal), 0, 0), shape)

    def count(self, place: Place) -> None:
        """Count an operation of this line."""
        key = (place.file, place.line)
        self.lines[key] = self.lines.get(key, 0) + 1


Handler = Callable[["Call"], "Elements | tuple[Elements | None, ...]"]

HANDLERS: dict[str, Handler] = {}


def operation(*names: str) -> Callable[[Handler], Handler]:
    """Register what an operation of torch's becomes, by its name in aten."""

    def register(handler: Handler) -> Handler:
        for name in names:
            HANDLERS[name] = handler
        return handler

    return register


@dataclass
class Call:
    """One operation on tensors of which some depend on an input."""

    trace: Trace
    name: str
    arguments: Mapping[str, Any]
    result: Any
    function: Any
    place: Place

    def __getitem__(self, name: str) -> Any:
        return self.arguments[name]

    def get(self, name: str, default: Any = None) -> Any:
        """An argument, if this overload has it."""
        value = self.arguments.get(name)
        return default if value is None else value

    @property
    def graph(self) -> Graph:
        return self.trace.graph

    def elements(self, name: str) -> Elements:
        """Where the numbers of an argument come from."""
        return self.trace.elements(self[name])

    def fixed(self, name: str) -> Tensor | None:
        """An argument that must not depend on an input, such as a weight."""
        tensor = self.get(name)
        if self.trace.depends(tensor):
            self.check_values(self.trace.elements(tensor))
            raise self.refusal(f"its {name} depends on the sequence")
        return tensor if tensor is None or isinstance(tensor, Tensor) else None

    def refusal(self, reason: str) -> Refusal:
        """A refusal of this call."""
        return Refusal(f"{self.name}: {reason}", self.place)

    def row_wise(
        self,
        fibres: Elements,
        emit: Emit,
        keys: Elements | None = None,
        known: Numbers | None = None,
    ) -> Elements:
        """See `rows.row_wise`. `known` [F, K] are the numbers of elements that are constant."""
        return _row_wise(self.graph, self._numbered(fibres, known), self.place, emit, keys)

    def _numbered(self, fibres: Elements, known: Numbers | None) -> Elements:
        """The fibres with values of the graph for numbers that stand beside computed ones."""
        fixed = fibres == CONSTANT
        beside = fixed & ~fixed.all(axis=1, keepdims=True)
        if not beside.any():
            return fibres
        if known is None:
            raise self.refusal("joins numbers of the code to numbers of the sequence")
        return with_numbers(self.graph, fibres, known, beside)

    def check_values(self, fibres: Elements) -> None:
        """Raise the refusal of a value among these that could not be computed."""
        raise_refusal(self.graph, fibres)

    def check_all(self) -> None:
        """Raise the refusal of an argument that could not be computed."""
        for leaf in tree_iter(self.arguments):
            if isinstance(leaf, Tensor):
                self.check_values(self.trace.elements(leaf))


def numbers(value: Any) -> Numbers:
    """The numbers of a tensor, or of a number, in float64."""
    if isinstance(value, Tensor):
        return value.detach().cpu().double().numpy()
    return np.array(value, np.float64)
