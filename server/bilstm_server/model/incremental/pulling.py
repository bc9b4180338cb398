"""The values of one long sequence: some are held, and of others rows are computed as they are read.

Layers of rows and of windows are pure functions of a few rows, so nothing is kept of them.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from typing import NamedTuple, cast

import numpy as np
from torch import Tensor, nn

from ..graph import SequenceEncoder
from ..kernels import to_device
from ..layers.interface import WindowLayer
from ..layers.values import Grid, Window
from ..layers.windows import map_windows
from .stages import Node, Route

ReadSteps = Callable[[int, int], Sequence[Tensor]]


class Span(NamedTuple):
    """Rows of a value, from `start` to before `stop`."""

    start: int
    stop: int

    def of(self, rows: Tensor, held: Span) -> Tensor:
        """These rows, of a tensor of those in `held`."""
        return rows[self.start - held.start : self.stop - held.start]

    def reach(self, window: Window, rows: int) -> Span:
        """The rows, of so many, that these windows read: at least one."""
        first = self.start * window.stride - window.left
        stop = (self.stop - 1) * window.stride - window.left + window.span
        start = min(max(first, 0), rows - 1)
        return Span(start, max(min(stop, rows), start + 1))


_ONE = Span(0, 1)  # the row of a value that has one for the sequence


class Values:
    """What is known of one sequence of so many steps."""

    def __init__(
        self,
        encoder: SequenceEncoder,
        modules: Mapping[str, nn.Module],
        inputs: Collection[str],
        read_steps: ReadSteps,
        steps: int,
    ):
        """`modules` are those of the layers, and `inputs` those of the model that are read."""
        self.modules = modules
        self.held: dict[str, Tensor] = {}  # in host memory, [rows, width] or [rows] of integers
        self._forms = encoder.config.values
        self._device = encoder.device
        self._inputs = {name: index for index, name in enumerate(encoder.config.inputs)}
        self._inputs_left = set(inputs)
        self._read_steps: ReadSteps | None = read_steps
        self._rows = {
            grid: int(grid.rows(np.array([steps]))[0])
            for grid in {value.grid for value in self._forms.values()}
        }

    def is_per_step(self, reference: str) -> bool:
        """Whether a value has a row for each step of its grid, and not one for the sequence."""
        return self._forms[reference].per_step

    def rows(self, grid: Grid) -> int:
        """How many rows the sequence has on a grid."""
        return self._rows[grid]

    def drop(self, references: Iterable[str]) -> None:
        """Let go of these, if they are held, and of the sequence itself with the last input."""
        for reference in references:
            self.held.pop(reference, None)
            self._inputs_left.discard(reference)
        if not self._inputs_left:
            self._read_steps = None

    def pull(self, route: Route, start: int, stop: int) -> dict[str, Tensor]:
        """The route's targets: these rows of those that have several, on the encoder's device."""
        spans = self._spans(route, Span(start, stop))
        found = self._read(route.roots, spans)
        for node in route.layers:
            found[node.name] = self._compute(node, spans, found)
            for reference in node.done:
                del found[reference]
        return {
            name: self._own(name, Span(start, stop)).of(found[name], spans[name])
            for name in route.targets
        }

    def _own(self, reference: str, span: Span) -> Span:
        return span if self.is_per_step(reference) else _ONE

    def _spans(self, route: Route, span: Span) -> Mapping[str, Span]:
        """The rows of each value that the targets' rows are made of."""
        spans: dict[str, Span] = {}

        def widen(reference: str, span: Span) -> None:
            own = self._own(reference, span)
            start, stop = spans.get(reference, own)
            spans[reference] = Span(min(start, own.start), max(stop, own.stop))

        for name in route.targets:
            widen(name, span)
        for node in reversed(route.layers):
            own, module = spans[node.name], self.modules[node.name]
            if isinstance(module, WindowLayer):
                own = own.reach(module.window, self._rows[self._forms[node.reads[0]].grid])
            for reference in node.reads:
                widen(reference, own)
        return spans

    def _read(self, roots: Collection[str], spans: Mapping[str, Span]) -> dict[str, Tensor]:
        found = {
            name: self.held[name][slice(*spans[name])].to(self._device)
            for name in roots
            if name not in self._inputs
        }
        names = [name for name in roots if name in self._inputs]
        if names:
            assert self._read_steps is not None
            start = min(spans[name].start for name in names)
            stop = max(spans[name].stop for name in names)
            given = self._read_steps(start, stop)
            for name in names:
                rows = given[self._inputs[name]]
                found[name] = spans[name].of(rows, Span(start, stop))
        return found

    def _compute(
        self, node: Node, spans: Mapping[str, Span], found: Mapping[str, Tensor]
    ) -> Tensor:
        span, module = spans[node.name], self.modules[node.name]
        if isinstance(module, WindowLayer):
            (source,) = node.reads
            held, rows = spans[source], found[source]
            index = _window_rows(span, module.window, held, self._rows[self._forms[source].grid])
            return map_windows(module, rows, to_device(index, rows.device))
        inputs = []
        for reference in node.reads:
            rows = self._own(reference, span).of(found[reference], spans[reference])
            if self.is_per_step(node.name) and not self.is_per_step(reference):
                rows = rows.expand(span.stop - span.start, *rows.shape[1:]).contiguous()
            inputs.append(rows)
        return cast(Tensor, module(*inputs))


def _window_rows(span: Span, window: Window, held: Span, rows: int) -> np.ndarray:
    """[windows, kernel]: which of the held rows each window reads; their number is padding."""
    offsets = window.dilation * np.arange(window.kernel) - window.left
    steps = (np.arange(*span) * window.stride)[:, None] + offsets
    inside = (steps >= 0) & (steps < rows)
    return np.where(inside, steps - held.start, held.stop - held.start)
